#include "common/net/frame_session.h"

#include <netinet/tcp.h>
#include <sys/socket.h>

#include <array>
#include <boost/asio/connect.hpp>
#include <boost/asio/dispatch.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <deque>
#include <mutex>
#include <optional>

#include "common/log.h"
#include "common/net/endpoint.h"
#include "common/net/peer_name.h"
#include "common/net/tls_stream.h"

namespace stillpoint::net {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

constexpr std::chrono::seconds kFlushDeadline{1};
constexpr std::chrono::milliseconds kAcceptRetry{100};
constexpr std::size_t kBlockBytes = 64u << 10;  // of what is read at once
constexpr std::size_t kTurnBytes = 1u << 20;    // read or written before others have their turn

std::string describe(const tcp::endpoint& endpoint) {
  const std::string address = endpoint.address().to_string();
  return (endpoint.address().is_v6() ? "[" + address + "]" : address) + ":" + std::to_string(endpoint.port());
}

void set_option(int fd, int level, int option, int value) {
  // A kernel that does not know an option still carries the session; its absence only delays noticing a dead peer.
  if (::setsockopt(fd, level, option, &value, sizeof value) != 0)
    log_debug("socket option not set", {{"option", option}, {"errno", errno}});
}

void prepare_socket(tcp::socket& socket, const SessionLimits& limits) {
  const int fd = socket.native_handle();
  set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, static_cast<int>(limits.user_timeout.count()));
  set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 5);
  set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 3);
  set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
}

// One that goes out: its header and its own bytes, then what it shares with others.
struct Frame {
  std::string own;
  std::shared_ptr<const std::string> rest;  // null: none

  std::size_t size() const { return own.size() + (rest ? rest->size() : 0); }
  std::string_view from(std::size_t at) const {
    if (at < own.size()) return std::string_view(own).substr(at);
    return std::string_view(*rest).substr(at - own.size());
  }
};

class TlsSession final : public FrameSession, public std::enable_shared_from_this<TlsSession> {
 public:
  TlsSession(const asio::any_io_executor& executor, const TlsContext& tls, const SessionLimits& limits)
      : tls_(tls),
        limits_(limits),
        socket_(executor),
        resolver_(executor),
        open_timer_(executor),
        idle_timer_(executor),
        reader_(limits.max_payload) {}

  // ---- how it begins; exactly one of the two, once, on the executor
  void connect(const std::string& endpoint, Handlers handlers);
  void accept(tcp::socket socket, Handlers handlers);

  void send(std::string_view payload, std::shared_ptr<const std::string> rest) override;
  void close(Error why) override;
  void close_after_sending(Error why) override;
  void pause_reading() override { paused_ = true; }
  void resume_reading() override;
  const std::string& remote() const override { return remote_; }

 private:
  void watch_opening();
  void begin_handshake();
  void handshake();
  void opened();
  Result<std::string> peer_name();
  void read();
  TlsStream::Outcome read_some(std::size_t& left);
  void read_later(TlsStream::Outcome wanted);
  void deliver();
  void watch_idle();
  void write();
  void wrote(std::size_t bytes);
  void write_later(TlsStream::Outcome wanted);
  void finish(Error why);
  template <class Then>
  void when_ready(TlsStream::Outcome wanted, Then then);
  Error failure(const char* step, const std::string& cause);

  const TlsContext tls_;
  const SessionLimits limits_;
  tcp::socket socket_;
  std::optional<TlsStream> stream_;  // on the socket; goes first
  tcp::resolver resolver_;
  asio::steady_timer open_timer_, idle_timer_;
  Handlers handlers_;
  std::string remote_ = "?";  // set before the first callback
  FrameReader reader_;
  bool open_ = false, closed_ = false, paused_ = false, reading_ = false, writing_ = false;
  std::chrono::steady_clock::time_point last_frame_;
  std::optional<Error> close_when_sent_;

  std::mutex mutex_;  // guards the queue alone: send() comes from any thread
  std::deque<Frame> queue_;
  std::size_t queued_bytes_ = 0;
  std::size_t written_ = 0;  // of the front; the executor's alone
  bool write_posted_ = false;
  bool dead_ = false;  // nothing more is queued
};

Error TlsSession::failure(const char* step, const std::string& cause) {
  const std::string refusal = stream_ ? stream_->refusal() : "";
  if (refusal.empty()) return Error{ErrorKind::transient, step, remote_, cause};
  return Error{ErrorKind::refused, step, remote_, cause + ": " + refusal};
}

// Calls then() when the socket is ready for what the stream wants, unless the session has closed meanwhile.
template <class Then>
void TlsSession::when_ready(TlsStream::Outcome wanted, Then then) {
  const auto direction = wanted == TlsStream::Outcome::wants_write ? tcp::socket::wait_write : tcp::socket::wait_read;
  socket_.async_wait(direction, [self = shared_from_this(), then](error_code failed) {
    if (self->closed_) return;
    if (failed) return self->finish(self->failure("session", failed.message()));
    then(*self);
  });
}

void TlsSession::connect(const std::string& endpoint, Handlers handlers) {
  handlers_ = std::move(handlers);
  remote_ = endpoint;
  watch_opening();
  auto split = split_endpoint(endpoint);
  if (!split) return finish(split.error());
  resolver_.async_resolve(split->host, split->port,
                          [self = shared_from_this()](error_code failed, tcp::resolver::results_type found) {
                            if (self->closed_) return;
                            if (failed) return self->finish(self->failure("look-up", failed.message()));
                            asio::async_connect(self->socket_, found, [self](error_code refused, const tcp::endpoint&) {
                              if (self->closed_) return;
                              if (refused) return self->finish(self->failure("connection", refused.message()));
                              self->begin_handshake();
                            });
                          });
}

void TlsSession::accept(tcp::socket socket, Handlers handlers) {
  handlers_ = std::move(handlers);
  error_code gone;
  const tcp::endpoint peer = socket.remote_endpoint(gone);
  if (!gone) remote_ = describe(peer);
  socket_ = std::move(socket);
  watch_opening();
  begin_handshake();
}

void TlsSession::watch_opening() {
  open_timer_.expires_after(limits_.open_deadline);
  open_timer_.async_wait([self = shared_from_this()](error_code cancelled) {
    if (cancelled || self->open_ || self->closed_) return;
    self->finish(Error{ErrorKind::deadline, "TLS handshake", self->remote_, "not done in time"});
  });
}

void TlsSession::begin_handshake() {
  prepare_socket(socket_, limits_);
  error_code failed;
  socket_.native_non_blocking(true, failed);
  if (failed) return finish(failure("TLS handshake", failed.message()));
  const auto side = tls_.role() == TlsRole::coordinator ? TlsStream::Side::server : TlsStream::Side::client;
  stream_.emplace(tls_.context().native_handle(), socket_.native_handle(), side);
  handshake();
}

void TlsSession::handshake() {
  const auto outcome = stream_->handshake();
  switch (outcome) {
    case TlsStream::Outcome::done: return opened();
    case TlsStream::Outcome::wants_read:
    case TlsStream::Outcome::wants_write: return when_ready(outcome, [](TlsSession& self) { self.handshake(); });
    case TlsStream::Outcome::ended: return finish(failure("TLS handshake", "the peer closed the connection"));
    case TlsStream::Outcome::failed: return finish(failure("TLS handshake", stream_->why()));
  }
}

Result<std::string> TlsSession::peer_name() {
  // The verify mode already asks for a certificate; its absence here would be a bug worth catching.
  const X509* certificate = stream_->peer_certificate();
  if (certificate == nullptr) return Error{ErrorKind::refused, "TLS handshake", remote_, "no certificate"};
  if (!stream_->refusal().empty())
    return Error{ErrorKind::refused, "TLS handshake", remote_, "its certificate was not verified"};
  auto name = certificate_name(certificate);
  if (!name) return Error{ErrorKind::refused, "TLS handshake", remote_, name.error().message()};
  const bool is_coordinator = *name == kCoordinatorName;
  if (is_coordinator == (tls_.role() == TlsRole::coordinator))
    return Error{ErrorKind::refused, "TLS handshake", remote_,
                 is_coordinator ? "a host calls itself \"coordinator\""
                                : "its certificate names \"" + *name + "\", not the coordinator"};
  return name;
}

void TlsSession::opened() {
  auto name = peer_name();
  if (!name) return finish(name.error());
  open_timer_.cancel();
  open_ = true;
  if (handlers_.opened) handlers_.opened(*name);
  if (closed_) return;
  last_frame_ = std::chrono::steady_clock::now();
  if (limits_.idle_deadline.count() > 0) watch_idle();
  write();
  read();
}

void TlsSession::watch_idle() {
  idle_timer_.expires_at(last_frame_ + limits_.idle_deadline);
  idle_timer_.async_wait([self = shared_from_this()](error_code cancelled) {
    if (cancelled || self->closed_) return;
    const auto now = std::chrono::steady_clock::now();
    if (self->paused_) self->last_frame_ = now;  // it is we who do not listen
    if (now - self->last_frame_ >= self->limits_.idle_deadline)
      return self->finish(Error{ErrorKind::deadline, "session", self->remote_, "nothing was heard for too long"});
    self->watch_idle();
  });
}

void TlsSession::read() {
  if (closed_ || !open_ || paused_ || reading_) return;
  reading_ = true;
  std::size_t left = kTurnBytes;
  auto outcome = TlsStream::Outcome::done;
  while (outcome == TlsStream::Outcome::done && left > 0) {
    outcome = read_some(left);
    if (closed_) return;
    if (paused_) {
      reading_ = false;
      return;
    }
    // Mostly that was all: to ask the socket once more would be for nothing.
    if (outcome == TlsStream::Outcome::done && !stream_->has_pending()) outcome = TlsStream::Outcome::wants_read;
  }
  switch (outcome) {
    case TlsStream::Outcome::done:
    case TlsStream::Outcome::wants_read:
    case TlsStream::Outcome::wants_write: return read_later(outcome);
    case TlsStream::Outcome::ended:
      return finish(Error{ErrorKind::transient, "session", remote_, "the peer closed it"});
    case TlsStream::Outcome::failed: return finish(failure("read", stream_->why()));
  }
}

void TlsSession::read_later(TlsStream::Outcome wanted) {
  const auto again = [](TlsSession& self) {
    self.reading_ = false;
    self.read();
  };
  if (wanted != TlsStream::Outcome::done) return when_ready(wanted, again);
  asio::post(socket_.get_executor(), [self = shared_from_this(), again] { again(*self); });
}

TlsStream::Outcome TlsSession::read_some(std::size_t& left) {
  thread_local std::array<char, kBlockBytes> block;  // not one for each session: most are idle
  std::size_t bytes = 0;
  const auto outcome = stream_->read(block.data(), block.size(), bytes);
  left -= std::min(left, bytes);
  if (bytes == 0) return outcome;
  reader_.feed(std::string_view(block.data(), bytes));
  deliver();
  return outcome;
}

void TlsSession::deliver() {
  while (!closed_) {
    auto payload = reader_.next();
    if (reader_.skipped() > 0)
      return finish(Error{ErrorKind::permanent, "session", remote_, "what it sent is not a frame of this protocol"});
    if (!payload) return;
    last_frame_ = std::chrono::steady_clock::now();
    if (handlers_.frame) handlers_.frame(std::move(*payload));
  }
}

void TlsSession::resume_reading() {
  if (!paused_) return;
  paused_ = false;
  last_frame_ = std::chrono::steady_clock::now();
  asio::post(socket_.get_executor(), [self = shared_from_this()] { self->read(); });
}

void TlsSession::send(std::string_view payload, std::shared_ptr<const std::string> rest) {
  bool post_write = false, overflow = false;
  const std::string_view behind = rest ? std::string_view(*rest) : std::string_view();
  const std::size_t size = payload.size() + behind.size();
  {
    std::lock_guard lock(mutex_);
    if (dead_) return;
    overflow = size > limits_.max_payload || queued_bytes_ + size > limits_.send_queue_bytes;
    if (overflow) {
      dead_ = true;  // a hole in the stream of messages must not be followed by more of them
    } else {
      queue_.push_back({encode_frame_beginning(payload, behind), std::move(rest)});
      queued_bytes_ += queue_.back().size();
      post_write = !std::exchange(write_posted_, true);
    }
  }
  if (overflow) {
    const bool too_large = size > limits_.max_payload;
    return close(
        Error{ErrorKind::permanent, "send", remote_,
              too_large ? "the message is larger than a frame may be" : "the peer does not read: the queue is full"});
  }
  if (post_write) asio::post(socket_.get_executor(), [self = shared_from_this()] { self->write(); });
}

// On the executor. The front of the queue is the frame that goes out; written_ of it is out already.
void TlsSession::write() {
  if (closed_ || !open_ || writing_) return;
  std::size_t left = kTurnBytes;
  while (left > 0) {
    std::string_view frame;
    {
      std::lock_guard lock(mutex_);
      write_posted_ = !queue_.empty();
      // A deque does not move its elements when one is added at the back.
      if (!queue_.empty()) frame = queue_.front().from(written_);
    }
    if (frame.empty()) {
      if (close_when_sent_) finish(*close_when_sent_);
      return;
    }
    std::size_t bytes = 0;
    const auto outcome = stream_->write(frame, bytes);
    if (outcome == TlsStream::Outcome::wants_read || outcome == TlsStream::Outcome::wants_write)
      return write_later(outcome);
    if (outcome != TlsStream::Outcome::done) return finish(failure("write", stream_->why()));
    wrote(bytes);
    left -= std::min(left, bytes);
  }
  write_later(TlsStream::Outcome::done);  // others have their turn
}

void TlsSession::wrote(std::size_t bytes) {
  std::lock_guard lock(mutex_);
  written_ += bytes;
  if (written_ < queue_.front().size()) return;
  queued_bytes_ -= queue_.front().size();
  queue_.pop_front();
  written_ = 0;
}

void TlsSession::write_later(TlsStream::Outcome wanted) {
  writing_ = true;
  const auto again = [](TlsSession& self) {
    self.writing_ = false;
    self.write();
  };
  if (wanted != TlsStream::Outcome::done) return when_ready(wanted, again);
  asio::post(socket_.get_executor(), [self = shared_from_this(), again] { again(*self); });
}

void TlsSession::close(Error why) {
  asio::post(socket_.get_executor(), [self = shared_from_this(), why = std::move(why)] { self->finish(why); });
}

void TlsSession::close_after_sending(Error why) {
  {
    std::lock_guard lock(mutex_);
    dead_ = true;
  }
  asio::post(socket_.get_executor(), [self = shared_from_this(), why = std::move(why)] {
    if (self->closed_) return;
    if (!self->open_) return self->finish(why);
    self->close_when_sent_ = why;
    self->open_timer_.expires_after(kFlushDeadline);
    self->open_timer_.async_wait([self, why](error_code cancelled) {
      if (!cancelled) self->finish(why);
    });
    self->write();
  });
}

// On the executor. closed() is posted: it never comes from inside a call into the session.
void TlsSession::finish(Error why) {
  if (std::exchange(closed_, true)) return;
  {
    std::lock_guard lock(mutex_);
    dead_ = true;
    queue_.clear();
    queued_bytes_ = 0;
  }
  open_timer_.cancel();
  idle_timer_.cancel();
  resolver_.cancel();
  error_code ignored;  // it is closed either way
  socket_.shutdown(tcp::socket::shutdown_both, ignored);
  socket_.close(ignored);
  asio::post(socket_.get_executor(), [self = shared_from_this(), why = std::move(why)] {
    Handlers last = std::exchange(self->handlers_, {});
    if (last.closed) last.closed(why);
  });
}

class TlsListener final : public FrameListener, public std::enable_shared_from_this<TlsListener> {
 public:
  TlsListener(const asio::any_io_executor& executor, const TlsContext& tls, const SessionLimits& limits,
              std::size_t max_unopened, Accept accept)
      : executor_(executor),
        tls_(tls),
        limits_(limits),
        max_unopened_(max_unopened),
        accept_(std::move(accept)),
        acceptor_(executor),
        retry_(executor) {}

  Status listen(const std::string& endpoint);
  void start() {
    asio::post(executor_, [self = shared_from_this()] { self->next(); });
  }
  std::uint16_t port() const override { return port_; }
  void close() override {
    closed_ = true;
    error_code ignored;
    acceptor_.close(ignored);
    retry_.cancel();
    accept_ = nullptr;
  }

 private:
  void next();
  void begin(tcp::socket socket);

  const asio::any_io_executor executor_;
  const TlsContext tls_;
  const SessionLimits limits_;
  const std::size_t max_unopened_;
  Accept accept_;
  tcp::acceptor acceptor_;
  asio::steady_timer retry_;
  std::uint16_t port_ = 0;
  std::size_t unopened_ = 0;
  bool closed_ = false;
};

Status TlsListener::listen(const std::string& endpoint) {
  auto split = split_endpoint(endpoint);
  if (!split) return split.error();
  auto fail = [&](const error_code& code) { return Error{ErrorKind::permanent, "bind", endpoint, code.message()}; };
  error_code failed;
  const auto address = asio::ip::make_address(split->host, failed);
  if (failed) return fail(failed);
  const tcp::endpoint where(address, static_cast<std::uint16_t>(std::stoul(split->port)));
  if (acceptor_.open(where.protocol(), failed); failed) return fail(failed);
  if (acceptor_.set_option(tcp::acceptor::reuse_address(true), failed); failed) return fail(failed);
  if (acceptor_.bind(where, failed); failed) return fail(failed);
  if (acceptor_.listen(asio::socket_base::max_listen_connections, failed); failed) return fail(failed);
  port_ = acceptor_.local_endpoint(failed).port();
  if (failed) return fail(failed);
  return {};
}

void TlsListener::next() {
  if (closed_) return;
  acceptor_.async_accept(executor_, [self = shared_from_this()](error_code failed, tcp::socket socket) {
    if (self->closed_) return;
    if (!failed) {
      self->begin(std::move(socket));
      return self->next();
    }
    // Out of descriptors, most likely: what is open goes on, and it is tried again when some may be free.
    log_warn("connection not accepted", {{"cause", failed.message()}});
    self->retry_.expires_after(kAcceptRetry);
    self->retry_.async_wait([self](error_code cancelled) {
      if (!cancelled) self->next();
    });
  });
}

void TlsListener::begin(tcp::socket socket) {
  if (unopened_ >= max_unopened_) {
    log_warn("connection refused: too many handshakes under way", {{"limit", max_unopened_}});
    return;  // closes the socket
  }
  auto session = std::make_shared<TlsSession>(executor_, tls_, limits_);
  FrameSession::Handlers handlers = accept_(session);
  ++unopened_;
  // Counted until it opened or closed, whichever comes first.
  auto counted = std::make_shared<bool>(true);
  auto uncount = [self = shared_from_this(), counted] {
    if (std::exchange(*counted, false)) --self->unopened_;
  };
  handlers.opened = [uncount, inner = std::move(handlers.opened)](const std::string& peer) {
    uncount();
    if (inner) inner(peer);
  };
  handlers.closed = [uncount, inner = std::move(handlers.closed)](const Error& why) {
    uncount();
    if (inner) inner(why);
  };
  session->accept(std::move(socket), std::move(handlers));
}

}  // namespace

std::shared_ptr<FrameSession> connect_session(const asio::any_io_executor& executor, const TlsContext& tls,
                                              const std::string& endpoint, const SessionLimits& limits,
                                              FrameSession::Handlers handlers) {
  auto session = std::make_shared<TlsSession>(executor, tls, limits);
  asio::post(executor, [session, endpoint, handlers = std::move(handlers)]() mutable {
    session->connect(endpoint, std::move(handlers));
  });
  return session;
}

Result<std::shared_ptr<FrameListener>> listen_for_sessions(const asio::any_io_executor& executor, const TlsContext& tls,
                                                           const std::string& endpoint, const SessionLimits& limits,
                                                           std::size_t max_unopened, FrameListener::Accept accept) {
  auto listener = std::make_shared<TlsListener>(executor, tls, limits, max_unopened, std::move(accept));
  if (auto listening = listener->listen(endpoint); !listening) return listening.error();
  listener->start();
  return std::shared_ptr<FrameListener>(std::move(listener));
}

}  // namespace stillpoint::net
