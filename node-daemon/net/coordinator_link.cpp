#include "node-daemon/net/coordinator_link.h"

#include <algorithm>
#include <boost/asio/steady_timer.hpp>
#include <chrono>

#include "common/log.h"
#include "common/net/frame_session.h"

namespace stillpoint::node {
namespace {

namespace asio = boost::asio;
using std::chrono::milliseconds;

constexpr milliseconds kFirstPause{100}, kLongestPause{3'000};
// The coordinator pings twice a second: a session without a word for so long is dead, whatever TCP thinks.
constexpr milliseconds kIdleDeadline{8'000};

class Link final : public CoordinatorLink, public std::enable_shared_from_this<Link> {
 public:
  Link(const asio::any_io_executor& executor, net::TlsContext tls, std::string endpoint, Handlers handlers)
      : executor_(executor),
        tls_(std::move(tls)),
        endpoint_(std::move(endpoint)),
        handlers_(std::move(handlers)),
        pause_timer_(executor) {}

  void start() override {
    net::SessionLimits limits;
    limits.idle_deadline = kIdleDeadline;
    session_ =
        net::connect_session(executor_, tls_, endpoint_, limits,
                             {.opened = [self = shared_from_this()](const std::string&) { self->opened(); },
                              .frame = [self = shared_from_this()](std::string payload) { self->frame(payload); },
                              .closed = [self = shared_from_this()](const Error& why) { self->closed(why); }});
  }

  void send(const wire::FromHost& message) override {
    if (session_ && open_) session_->send(message.SerializeAsString());
  }

  void drop(const std::string& why) override {
    if (session_) session_->close({ErrorKind::refused, "session with", endpoint_, why});
  }

  void stop() override {
    stopped_ = true;
    handlers_ = {};
    pause_timer_.cancel();
    if (session_)
      session_->close_after_sending({ErrorKind::refused, "session with", endpoint_, "the node daemon stops"});
  }

 private:
  void opened() {
    if (stopped_) return;
    open_ = true;
    pause_ = kFirstPause;
    last_failure_.clear();
    log_info("connected to the coordinator", {{"endpoint", endpoint_}});
    handlers_.connected();
  }

  void frame(const std::string& payload) {
    if (stopped_) return;
    wire::ToHost message;
    if (!message.ParseFromString(payload))
      return session_->close(
          {ErrorKind::permanent, "session with", endpoint_, "a frame that is no message of this protocol"});
    handlers_.said(std::move(message));
  }

  void closed(const Error& why) {
    session_.reset();
    if (stopped_) return;
    // Once per reason: a coordinator that stays away is not news every three seconds.
    if (std::exchange(last_failure_, why.message()) != why.message())
      log_warn("no session with the coordinator", {{"endpoint", endpoint_}, {"cause", why.message()}});
    if (std::exchange(open_, false)) handlers_.disconnected();
    pause_timer_.expires_after(pause_);
    pause_ = std::min(pause_ * 2, kLongestPause);
    pause_timer_.async_wait([self = shared_from_this()](const boost::system::error_code& cancelled) {
      if (!cancelled && !self->stopped_) self->start();
    });
  }

  const asio::any_io_executor executor_;
  const net::TlsContext tls_;
  const std::string endpoint_;
  Handlers handlers_;
  std::shared_ptr<net::FrameSession> session_;
  bool open_ = false, stopped_ = false;
  milliseconds pause_ = kFirstPause;
  std::string last_failure_;
  asio::steady_timer pause_timer_;
};

}  // namespace

std::shared_ptr<CoordinatorLink> CoordinatorLink::make(const asio::any_io_executor& executor, net::TlsContext tls,
                                                       std::string endpoint, Handlers handlers) {
  return std::make_shared<Link>(executor, std::move(tls), std::move(endpoint), std::move(handlers));
}

}  // namespace stillpoint::node
