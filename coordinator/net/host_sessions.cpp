#include "coordinator/net/host_sessions.h"

#include <atomic>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <map>
#include <optional>

#include "common/log.h"
#include "common/net/frame_session.h"

namespace stillpoint::coordinator {
namespace {

namespace asio = boost::asio;

constexpr std::uint32_t kProtocol = 1;

// One connection, from its TLS handshake to its end. On the executor, but for what says otherwise.
struct Connection {
  explicit Connection(const asio::any_io_executor& executor) : hello_timer(executor) {}

  std::shared_ptr<net::FrameSession> session;  // dropped when it has closed
  std::string certified;                       // name in the certificate; empty until the handshake is over
  std::optional<HostName> host;                // after a good hello
  SessionId id;                                // of the host's session
  asio::steady_timer hello_timer;
  bool paused = false;
  std::atomic<std::size_t> undelivered{0};  // bytes; counted down from the core's thread
};

}  // namespace

struct HostSessions::Impl : std::enable_shared_from_this<Impl> {
  Impl(const asio::any_io_executor& ex, const HostLimits& l, Deliver d)
      : executor(ex), limits(l), deliver(std::move(d)) {}

  net::FrameSession::Handlers accept(const std::shared_ptr<net::FrameSession>& session);
  void opened(const std::shared_ptr<Connection>& connection, const std::string& name);
  void took(const std::shared_ptr<Connection>& connection, const std::string& payload);
  void closed(const std::shared_ptr<Connection>& connection, const Error& why);
  void greet(const std::shared_ptr<Connection>& connection, const wire::FromHost& message);
  void hand_over(const std::shared_ptr<Connection>& connection, Event event, std::size_t bytes);
  void hand_out(Delivery delivery);
  void give_up(const std::shared_ptr<Connection>& connection, const std::string& why);
  std::shared_ptr<net::FrameSession> current(const HostName& host, SessionId session);

  const asio::any_io_executor executor;
  const HostLimits limits;
  Deliver deliver;
  std::shared_ptr<net::FrameListener> listener;
  SessionId next_session{1};
  std::vector<Delivery> taken;  // in this turn of the executor
  std::size_t unnamed = 0;
  bool stopped = false;

  std::mutex mutex;                                       // guards hosts: the core's thread sends through it
  std::map<HostName, std::shared_ptr<Connection>> hosts;  // named sessions; shared with their callbacks
};

net::FrameSession::Handlers HostSessions::Impl::accept(const std::shared_ptr<net::FrameSession>& session) {
  auto connection = std::make_shared<Connection>(executor);
  connection->session = session;
  auto self = shared_from_this();
  return {[self, connection](const std::string& name) { self->opened(connection, name); },
          [self, connection](const std::string& payload) { self->took(connection, payload); },
          [self, connection](const Error& why) { self->closed(connection, why); }};
}

void HostSessions::Impl::opened(const std::shared_ptr<Connection>& connection, const std::string& name) {
  connection->certified = name;
  ++unnamed;
  if (stopped) return give_up(connection, "the coordinator is stopping");
  if (unnamed > limits.unnamed) return give_up(connection, "too many sessions have not said hello");
  connection->hello_timer.expires_after(limits.hello_deadline);
  connection->hello_timer.async_wait([self = shared_from_this(), connection](boost::system::error_code cancelled) {
    if (!cancelled && !connection->host) self->give_up(connection, "it said no hello in time");
  });
}

void HostSessions::Impl::give_up(const std::shared_ptr<Connection>& connection, const std::string& why) {
  if (connection->session) connection->session->close(Error{ErrorKind::refused, "session", connection->certified, why});
}

void HostSessions::Impl::took(const std::shared_ptr<Connection>& connection, const std::string& payload) {
  if (stopped || !connection->session) return;
  wire::FromHost message;
  if (!message.ParseFromString(payload)) return give_up(connection, "a message that cannot be read");
  if (message.body_case() == wire::FromHost::BODY_NOT_SET && !message.has_failure())
    return give_up(connection, "a message of a kind that this coordinator does not know");
  if (!connection->host) return greet(connection, message);
  if (message.has_hello()) return give_up(connection, "a second hello on one session");
  hand_over(connection, HostSpoke{*connection->host, connection->id, std::move(message)}, payload.size());
}

void HostSessions::Impl::greet(const std::shared_ptr<Connection>& connection, const wire::FromHost& message) {
  if (!message.has_hello()) return give_up(connection, "its first message is no hello");
  const wire::HostHello& hello = message.hello();
  if (hello.protocol() != kProtocol)
    return give_up(connection, "it speaks protocol " + std::to_string(hello.protocol()) + ", this coordinator speaks " +
                                   std::to_string(kProtocol) + ": install the same version on both");
  if (hello.host() != connection->certified)
    return give_up(connection,
                   "it calls itself \"" + hello.host() + "\", its certificate says \"" + connection->certified + "\"");
  connection->hello_timer.cancel();
  connection->host = HostName{hello.host()};
  connection->id = next_session;
  next_session = next_session.next();
  --unnamed;
  std::shared_ptr<Connection> older;
  {
    std::lock_guard lock(mutex);
    older = std::exchange(hosts[*connection->host], connection);
  }
  if (older) {
    hand_over(older, HostDisconnected{*older->host, older->id}, 0);
    give_up(older, "replaced by a newer session of the same host");
  }
  log_info("host connected", {{"host", connection->host->value},
                              {"session", connection->id.value},
                              {"from", connection->session->remote()},
                              {"version", hello.version()}});
  hand_over(connection, HostConnected{*connection->host, connection->id, hello}, 0);
}

// The core's queue must not grow with what a host sends: a session with too much on the way is not read further.
void HostSessions::Impl::hand_over(const std::shared_ptr<Connection>& connection, Event event, std::size_t bytes) {
  if (stopped) return;
  const std::size_t waiting = connection->undelivered += bytes;
  if (waiting > limits.undelivered_bytes && !connection->paused && connection->session) {
    connection->paused = true;
    connection->session->pause_reading();
  }
  hand_out({std::move(event), [self = shared_from_this(), connection, bytes] {
              const std::size_t before = connection->undelivered.fetch_sub(bytes),
                                low = self->limits.undelivered_bytes / 2;
              if (before <= low || before - bytes > low) return;
              asio::post(self->executor, [connection] {
                if (!std::exchange(connection->paused, false) || !connection->session) return;
                connection->session->resume_reading();
              });
            }});
}

// With what other sessions have had ready: to wake the core's thread costs more than most events do.
void HostSessions::Impl::hand_out(Delivery delivery) {
  taken.push_back(std::move(delivery));
  if (taken.size() > 1) return;
  asio::post(executor, [self = shared_from_this()] {
    auto all = std::exchange(self->taken, {});
    if (!self->stopped) self->deliver(std::move(all));
  });
}

void HostSessions::Impl::closed(const std::shared_ptr<Connection>& connection, const Error& why) {
  connection->hello_timer.cancel();
  const std::string remote = connection->session ? connection->session->remote() : "?";
  {
    std::lock_guard lock(mutex);  // the core's thread may be about to send
    connection->session.reset();
  }
  if (!connection->certified.empty() && !connection->host) --unnamed;
  if (!connection->host) {
    log_warn("connection ended before it was a host's session",
             {{"from", remote}, {"certificate", connection->certified}, {"cause", why.message()}});
    return;
  }
  log_info("host session ended",
           {{"host", connection->host->value}, {"session", connection->id.value}, {"cause", why.message()}});
  bool was_current = false;
  {
    std::lock_guard lock(mutex);
    const auto found = hosts.find(*connection->host);
    was_current = found != hosts.end() && found->second == connection;
    if (was_current) hosts.erase(found);
  }
  if (was_current) hand_over(connection, HostDisconnected{*connection->host, connection->id}, 0);
}

std::shared_ptr<net::FrameSession> HostSessions::Impl::current(const HostName& host, SessionId session) {
  std::lock_guard lock(mutex);
  const auto found = hosts.find(host);
  if (found == hosts.end() || found->second->id != session) return nullptr;
  return found->second->session;
}

Result<std::unique_ptr<HostSessions>> HostSessions::listen(const asio::any_io_executor& executor,
                                                           const net::TlsContext& tls, const std::string& endpoint,
                                                           const HostLimits& limits, Deliver deliver) {
  auto impl = std::make_shared<Impl>(executor, limits, std::move(deliver));
  auto listener = net::listen_for_sessions(executor, tls, endpoint, {}, limits.unopened,
                                           [impl](const auto& session) { return impl->accept(session); });
  if (!listener) return listener.error();
  impl->listener = *listener;
  return std::unique_ptr<HostSessions>(new HostSessions(std::move(impl)));
}

HostSessions::~HostSessions() { stop(); }

std::uint16_t HostSessions::port() const { return impl_->listener->port(); }

void HostSessions::send(const HostName& host, SessionId session, const wire::ToHost& message,
                        const CommonPart& common) {
  if (auto to = impl_->current(host, session)) to->send(message.SerializeAsString(), common);
}

void HostSessions::close_session(const HostName& host, SessionId session, const std::string& why) {
  if (auto to = impl_->current(host, session)) to->close(Error{ErrorKind::refused, "session", host.value, why});
}

void HostSessions::stop() {
  if (std::exchange(impl_->stopped, true)) return;
  impl_->listener->close();
  std::lock_guard lock(impl_->mutex);
  for (auto& [host, connection] : impl_->hosts)
    if (connection->session)
      connection->session->close_after_sending(
          Error{ErrorKind::transient, "session", host.value, "the coordinator is stopping"});
}

}  // namespace stillpoint::coordinator
