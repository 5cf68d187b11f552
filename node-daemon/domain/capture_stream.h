// QEMU's memory stream on its way through a pipe into a sink, and the moments at which the machine stopped and went
// on. Belongs to one thread at a time.
#pragma once

#include <chrono>

#include "node-daemon/domain/domain_driver.h"
#include "node-daemon/domain/monitor.h"

namespace stillpoint::node {

class CaptureStream {
 public:
  // The domain, the hub and the sink outlive it.
  CaptureStream(virDomainPtr domain, EventHub& events, MemorySink& sink);

  // A pipe whose other end QEMU has. QEMU writes a background snapshot page by page, other streams in larger pieces.
  enum class Writes { pages, pieces };
  Status open(Writes writes);
  // How far QEMU can be ahead of the reader; false: not now, more is in the pipe.
  bool set_room(int bytes);
  // QEMU migrates into it. See monitor.h for when no command may follow.
  Status begin();
  // Waits for bytes, or for an event of the machine, and takes what is there. False: the stream has ended.
  Result<bool> pump();
  // QEMU's writer fails from here on.
  void close() { pipe_.reset(); }

  int events_fd() const { return watch_.fd(); }  // readable: take_events() has something to take
  void take_events();
  bool stopped() const { return stopped_at_ != 0; }
  bool resumed() const { return resumed_at_ != 0; }
  // Whether that is known before the deadline; QEMU's events come a little later than what they tell of.
  bool wait_stopped(std::chrono::steady_clock::time_point deadline) { return wait_for(stopped_at_, deadline); }
  bool wait_resumed(std::chrono::steady_clock::time_point deadline) { return wait_for(resumed_at_, deadline); }
  double pause_ms() const { return static_cast<double>(resumed_at_ - stopped_at_) / 1000.0; }
  std::uint64_t bytes() const { return bytes_; }

 private:
  Error error(ErrorKind kind, std::string cause) const { return {kind, "capture", name_, std::move(cause)}; }
  void gather();
  bool wait_for(const std::int64_t& moment, std::chrono::steady_clock::time_point deadline);

  virDomainPtr domain_;
  const std::string name_;
  EventWatch watch_;
  MemorySink& sink_;
  std::string buffer_;
  Fd pipe_;  // read end
  bool gathers_ = false;
  std::int64_t stopped_at_ = 0, resumed_at_ = 0;  // microseconds, QEMU's clock; 0: not seen
  std::uint64_t bytes_ = 0;
};

}  // namespace stillpoint::node
