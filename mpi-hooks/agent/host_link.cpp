#include "mpi-hooks/agent/host_link.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>

#include "mpi-hooks/agent/outcome.h"
#include "mpi-hooks/agent/port.h"

namespace stillpoint::agent {
namespace {
constexpr Millis kRetryEvery = 100;
constexpr std::size_t kAround = 4096;  // the gang's name and the like, around the reply
}  // namespace

void refuse_too_large(wire::GuestReply& reply) {
  const std::size_t bytes = reply.ByteSizeLong();
  if (bytes + kAround <= kMaxGuestPayload) return;
  const std::uint64_t id = reply.id();
  reply.Clear();
  reply.set_id(id);
  *reply.mutable_failure() =
      failure(wire::Failure::PERMANENT, "answer", "request " + std::to_string(id),
              "the answer has " + std::to_string(bytes) + " bytes, more than the channel to the host takes");
}

pollfd HostLink::wait_for(Millis now) {
  if (!port_ && !name_.empty() && now >= retry_at_) {
    const std::string path = find_port(name_);
    if (!path.empty()) port_.reset(::open(path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
    if (!port_) retry_at_ = now + kRetryEvery;
  }
  if (!port_ || (!connected_ && now < retry_at_)) return pollfd{-1, 0, 0};
  return pollfd{port_.get(), static_cast<short>(POLLIN | (frames_.empty() ? 0 : POLLOUT)), 0};
}

bool HostLink::handle(short events, Millis now) {
  if (!port_ || (!connected_ && now < retry_at_)) return false;
  if (events == 0 && !connected_) {
    // Asked for events and got none: nobody has hung up any more.
    pollfd probe{port_.get(), POLLIN | POLLOUT, 0};
    ::poll(&probe, 1, 0);
    events = probe.revents;
  }
  if ((events & (POLLERR | POLLNVAL)) != 0) {
    port_.reset();
    disconnected(now);
    return false;
  }
  if ((events & POLLIN) != 0) read_all();
  if ((events & POLLHUP) != 0) {
    disconnected(now);
    return false;
  }
  const bool opened = !connected_;
  connected_ = true;
  if ((events & POLLOUT) != 0) write_some();
  return opened;
}

void HostLink::disconnected(Millis now) {
  connected_ = false;
  retry_at_ = now + kRetryEvery;
  front_written_ = 0;
}

void HostLink::read_all() {
  char bytes[32768];
  for (int i = 0; i < 32; ++i) {
    const ssize_t n = ::read(port_.get(), bytes, sizeof bytes);
    if (n <= 0) return;
    reader_.feed({bytes, static_cast<std::size_t>(n)});
  }
}

void HostLink::write_some() {
  while (!frames_.empty()) {
    const std::string& frame = frames_.front();
    const ssize_t n = ::write(port_.get(), frame.data() + front_written_, frame.size() - front_written_);
    if (n <= 0) return;
    front_written_ += static_cast<std::size_t>(n);
    if (front_written_ < frame.size()) continue;
    queued_ -= frame.size();
    frames_.pop_front();
    front_written_ = 0;
  }
}

void HostLink::send(std::string payload) {
  frames_.push_back(encode_frame(payload));
  queued_ += frames_.back().size();
  while (queued_ > kMaxQueued && frames_.size() > 1) {
    const auto oldest = frames_.begin() + (front_written_ > 0 ? 1 : 0);
    if (oldest + 1 == frames_.end()) return;
    queued_ -= oldest->size();
    frames_.erase(oldest);
  }
}

}  // namespace stillpoint::agent
