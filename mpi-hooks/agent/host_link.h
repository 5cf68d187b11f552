// The agent's end of the channel to the node daemon: frames over a virtio-serial port. The host's end may vanish and
// come back, and a restore may lose bytes in both directions; so what is sent counts as received only when it is
// answered, and a frame that was interrupted is sent whole again. Never blocks. One owner.
#pragma once

#include <deque>
#include <optional>
#include <string>

#include "common/fd.h"
#include "common/framing.h"
#include "guest.pb.h"
#include "mpi-hooks/agent/clock.h"

struct pollfd;

namespace stillpoint::agent {

// A reply that is larger than the node daemon reads becomes a failure that says so.
void refuse_too_large(wire::GuestReply& reply);

class HostLink {
 public:
  static constexpr std::size_t kMaxQueued = 8u << 20;

  // name of the virtio-serial port
  explicit HostLink(std::string name) : name_(std::move(name)) {}
  // A connected socket in place of the port. When its other end goes, so does the link, for good.
  explicit HostLink(Fd socket) : port_(std::move(socket)) {}

  // What to wait for; events 0 while the host's end is away (the port would report POLLHUP for ever). Opens the port
  // where that is due.
  pollfd wait_for(Millis now);
  Millis deadline() const { return connected_ && port_ ? kNever : retry_at_; }

  // After the wait, with what poll reported. True: the link has just opened (again).
  bool handle(short events, Millis now);
  std::optional<std::string> next_payload() { return reader_.next(); }

  // Queues a frame. When too much is queued the oldest frames that were not begun go: their requests are repeated.
  void send(std::string payload);
  std::size_t queued() const { return queued_; }
  bool connected() const { return connected_; }

 private:
  void read_all();
  void write_some();
  void disconnected(Millis now);

  std::string name_;  // empty: a socket was given
  Fd port_;
  bool connected_ = false;
  Millis retry_at_ = 0;
  FrameReader reader_{kMaxGuestPayload};
  std::deque<std::string> frames_;
  std::size_t front_written_ = 0;
  std::size_t queued_ = 0;
};

}  // namespace stillpoint::agent
