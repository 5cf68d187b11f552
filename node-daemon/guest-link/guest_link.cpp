#include "node-daemon/guest-link/guest_link.h"

#include <algorithm>
#include <array>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <deque>
#include <optional>

#include "common/framing.h"
#include "common/log.h"

namespace stillpoint::node {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;
using std::chrono::milliseconds;

constexpr std::size_t kMaxQueued = 8u << 20;
constexpr milliseconds kFirstPause{50}, kLongestPause{2'000};

class Link final : public GuestLink, public std::enable_shared_from_this<Link> {
 public:
  Link(const asio::any_io_executor& executor, std::string name, Handlers handlers)
      : executor_(executor), name_(std::move(name)), handlers_(std::move(handlers)), pause_timer_(executor) {}

  void start() override { handlers_.connect(); }

  void connected(Result<Fd> stream) override {
    if (closed_) return;
    if (!stream) {
      log_debug("guest link not open", {{"guest", name_}, {"cause", stream.error().message()}});
      return try_again();
    }
    reader_ = FrameReader(kMaxGuestPayload);
    stream_.emplace(executor_, stream->release());
    pause_ = kFirstPause;
    read(++generation_);
    handlers_.opened();
  }

  bool send(std::string_view payload) override {
    if (!stream_ || payload.size() > kMaxGuestPayload || queued_ + payload.size() > kMaxQueued) return false;
    queue_.push_back(encode_frame(payload));
    queued_ += queue_.back().size();
    if (queue_.size() == 1) write(generation_);
    return true;
  }

  void close() override {
    closed_ = true;
    drop_stream();
    pause_timer_.cancel();
    handlers_ = {};
  }

 private:
  void read(std::uint64_t generation) {
    stream_->async_read_some(asio::buffer(block_),
                             [self = shared_from_this(), generation](error_code failed, std::size_t bytes) {
                               if (self->closed_ || generation != self->generation_) return;
                               if (failed) return self->lost(failed);
                               self->reader_.feed(std::string_view(self->block_.data(), bytes));
                               while (auto payload = self->reader_.next()) {
                                 self->handlers_.frame(std::move(*payload));
                                 if (self->closed_ || generation != self->generation_) return;
                               }
                               self->read(generation);
                             });
  }

  void write(std::uint64_t generation) {
    asio::async_write(*stream_, asio::buffer(queue_.front()),
                      [self = shared_from_this(), generation](error_code failed, std::size_t) {
                        if (self->closed_ || generation != self->generation_) return;
                        if (failed) return self->lost(failed);
                        self->queued_ -= self->queue_.front().size();
                        self->queue_.pop_front();
                        if (!self->queue_.empty()) self->write(generation);
                      });
  }

  void lost(const error_code& why) {
    log_debug("guest link lost", {{"guest", name_}, {"cause", why.message()}});
    drop_stream();
    try_again();
  }

  void drop_stream() {
    ++generation_;
    if (stream_) {
      error_code ignored;  // it is gone either way
      stream_->close(ignored);
    }
    stream_.reset();
    // The frame at the front may still be in use by the write that the close has cancelled.
    retired_ = std::exchange(queue_, {});
    queued_ = 0;
  }

  void try_again() {
    pause_timer_.expires_after(pause_);
    pause_ = std::min(pause_ * 2, kLongestPause);
    pause_timer_.async_wait([self = shared_from_this()](error_code cancelled) {
      if (!cancelled && !self->closed_) self->handlers_.connect();
    });
  }

  const asio::any_io_executor executor_;
  const std::string name_;
  Handlers handlers_;
  std::optional<asio::posix::stream_descriptor> stream_;
  std::uint64_t generation_ = 0;  // of the stream; handlers of an older one come too late
  FrameReader reader_;
  std::array<char, 64u << 10> block_{};
  std::deque<std::string> queue_, retired_;
  std::size_t queued_ = 0;
  milliseconds pause_ = kFirstPause;
  asio::steady_timer pause_timer_;
  bool closed_ = false;
};

}  // namespace

std::shared_ptr<GuestLink> GuestLink::make(const asio::any_io_executor& executor, std::string name, Handlers handlers) {
  return std::make_shared<Link>(executor, std::move(name), std::move(handlers));
}

}  // namespace stillpoint::node
