// The coordinator's end of the link to the hosts: takes TLS connections, lets in who proves to be a host of the site
// and says so in its first message, and carries messages between sessions and the core. One session per host: a newer
// one replaces the older. What is ill-formed ends the session.
//
// Threads: made, stopped and destroyed on the executor's thread (or while it does not run). send() and close_session()
// from any thread. Events are handed out on the executor.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "common/net/tls_context.h"
#include "coordinator/core/delivery.h"
#include "coordinator/core/effects.h"

namespace stillpoint::coordinator {

struct HostLimits {
  std::size_t unopened = 64;  // connections that have not finished their TLS handshake
  std::size_t unnamed = 64;   // sessions that have not said hello
  std::chrono::milliseconds hello_deadline{10'000};
  std::size_t undelivered_bytes = 16u << 20;  // per session, on the way to the core; then it is not read further
};

class HostSessions {
 public:
  // Events in their order; what comes together is handed out together.
  using Deliver = std::function<void(std::vector<Delivery> deliveries)>;

  static Result<std::unique_ptr<HostSessions>> listen(const boost::asio::any_io_executor& executor,
                                                      const net::TlsContext& tls, const std::string& endpoint,
                                                      const HostLimits& limits, Deliver deliver);
  ~HostSessions();
  HostSessions(const HostSessions&) = delete;
  HostSessions& operator=(const HostSessions&) = delete;

  std::uint16_t port() const;
  // Dropped when that is not the host's current session. The common part goes out behind the message, and is shared
  // with other sessions' queues; it may be null.
  void send(const HostName& host, SessionId session, const wire::ToHost& message, const CommonPart& common);
  void close_session(const HostName& host, SessionId session, const std::string& why);
  // Closes the listener and all sessions; no event is delivered any more.
  void stop();

 private:
  struct Impl;
  explicit HostSessions(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<Impl> impl_;  // shared with the callbacks of sessions that are still closing
};

}  // namespace stillpoint::coordinator
