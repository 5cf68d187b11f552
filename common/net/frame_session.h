// Frames (common/framing.h) over mutual TLS 1.3: one session per TCP connection, and the listener that makes them.
//
// Threads: a session lives on the executor that it was given, which must run one handler at a time (a strand, or an
// io_context with one thread). All callbacks come on it, never from inside a call into the session. Everything may be
// called from that executor; send() and close() also from any other thread. Frames go out in the order of send().
//
// Ownership: a session keeps itself alive until it has called closed(); after that it drops its callbacks, so they may
// own the session. Whoever drops the last reference earlier loses nothing but the means to send and close.
//
// A peer is trusted only after opened(): it has shown a certificate of the site's CA. On a host's side the session
// opens as soon as the coordinator has proved itself; whether the coordinator takes the host shows with its first
// frame.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "common/framing.h"
#include "common/net/tls_context.h"
#include "common/result.h"

namespace stillpoint::net {

struct SessionLimits {
  std::size_t max_payload = kMaxFramePayload;
  std::size_t send_queue_bytes = 64u << 20;         // more waiting than that: the peer does not read; closed
  std::chrono::milliseconds open_deadline{10'000};  // connect and handshake together
  std::chrono::milliseconds idle_deadline{0};       // no frame for so long: closed; 0 = the kernel's keepalive only
  std::chrono::milliseconds user_timeout{15'000};   // bytes not acknowledged for so long: the kernel gives up
};

class FrameSession {
 public:
  struct Handlers {
    std::function<void(const std::string& peer)> opened;  // the peer's certified name; before any frame
    std::function<void(std::string payload)> frame;
    std::function<void(const Error& why)> closed;  // exactly once, last; also when it never opened
  };

  FrameSession() = default;
  FrameSession(const FrameSession&) = delete;
  FrameSession& operator=(const FrameSession&) = delete;
  virtual ~FrameSession() = default;

  // Puts a frame into the queue; before the session is open it waits there. Dropped when the session is closed. A queue
  // over its bound, or a payload over max_payload, closes the session. The payload is these bytes and, unless it is
  // null, the rest behind them, which is not copied: many sessions' frames may share it.
  virtual void send(std::string_view payload, std::shared_ptr<const std::string> rest) = 0;
  void send(std::string_view payload) { send(payload, nullptr); }
  // Ends it now; what is queued and not yet written is lost. closed() comes with this reason.
  virtual void close(Error why) = 0;
  // Everything that was sent so far is written first, for at most a second; then as close().
  virtual void close_after_sending(Error why) = 0;

  // On the executor only. While paused nothing is read: the peer meets a full TCP window. Frames that were already
  // read may still come.
  virtual void pause_reading() = 0;
  virtual void resume_reading() = 0;

  // "192.0.2.1:4711", for logs.
  virtual const std::string& remote() const = 0;
};

// For hosts: dials the coordinator and refuses any server whose certificate is not named "coordinator".
// endpoint is ADDR:PORT or NAME:PORT, an IPv6 address in brackets. One attempt; who wants more calls it again.
std::shared_ptr<FrameSession> connect_session(const boost::asio::any_io_executor& executor, const TlsContext& tls,
                                              const std::string& endpoint, const SessionLimits& limits,
                                              FrameSession::Handlers handlers);

// For the coordinator. Same rules of threads and executor as the session's; sessions run on the listener's executor.
class FrameListener {
 public:
  // Called for each connection before its handshake: says what its session shall call.
  using Accept = std::function<FrameSession::Handlers(const std::shared_ptr<FrameSession>& session)>;

  FrameListener() = default;
  FrameListener(const FrameListener&) = delete;
  FrameListener& operator=(const FrameListener&) = delete;
  virtual ~FrameListener() = default;

  virtual std::uint16_t port() const = 0;
  // No further connection is accepted; sessions go on. On the executor only.
  virtual void close() = 0;
};

// Listens on ADDR:PORT (port 0: any free one). At most max_unopened connections may be in their handshake; more are
// closed at once, so that strangers cannot use up file descriptors.
Result<std::shared_ptr<FrameListener>> listen_for_sessions(const boost::asio::any_io_executor& executor,
                                                           const TlsContext& tls, const std::string& endpoint,
                                                           const SessionLimits& limits, std::size_t max_unopened,
                                                           FrameListener::Accept accept);

}  // namespace stillpoint::net
