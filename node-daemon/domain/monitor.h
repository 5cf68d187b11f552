// QEMU's monitor of a domain that libvirt manages: commands, and the events that a migration is followed by.
//
// While a background snapshot streams, the machine's main loop may stand still on a page fault until QEMU has written
// that page into the pipe. Whoever reads the pipe must therefore give no monitor command until the stream has ended:
// it would wait for the main loop, which waits for the pipe, which waits for the reader. Events are safe.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "common/fd.h"
#include "node-daemon/domain/virt.h"

namespace stillpoint::node {

// Runs one command and gives its "return". fd, if not -1, is handed over as with SCM_RIGHTS (for getfd); the caller
// keeps its own. QEMU's refusal is an error with QEMU's words.
Result<nlohmann::json> monitor_command(virDomainPtr domain, const nlohmann::json& command, int fd = -1);

struct MonitorEvent {
  std::string event;        // "STOP", "RESUME", "MIGRATION"
  std::string detail;       // MIGRATION: its status; block job: its disk's path
  int code = 0;             // block job: virConnectDomainEventBlockJobStatus
  std::int64_t micros = 0;  // QEMU's own time stamp
};

class EventHub;

// The events of one domain from its construction on. Owner's thread only; the hub must outlive it.
class EventWatch {
 public:
  EventWatch(EventHub& hub, std::string domain);
  ~EventWatch();
  EventWatch(const EventWatch&) = delete;
  EventWatch& operator=(const EventWatch&) = delete;

  int fd() const { return signal_.get(); }  // readable when there is an event; for poll
  std::optional<MonitorEvent> next();
  // The next event before the deadline, or nothing.
  std::optional<MonitorEvent> wait(std::chrono::steady_clock::time_point deadline);

 private:
  friend class EventHub;
  EventHub& hub_;
  const std::string domain_;
  Fd signal_;                       // eventfd
  std::deque<MonitorEvent> queue_;  // guarded by the hub's mutex; bounded: oldest dropped
};

// Hands events from the event loop's thread to the watches. Any thread.
class EventHub {
 public:
  void publish(const std::string& domain, MonitorEvent event);

 private:
  friend class EventWatch;
  std::mutex mutex_;
  std::multimap<std::string, EventWatch*> watches_;
};

}  // namespace stillpoint::node
