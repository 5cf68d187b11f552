// What the tests with real machines check again and again. Test code, included once per program.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <nlohmann/json.hpp>

#include "node-daemon/domain/domain_name.h"
#include "node-daemon/domain/monitor.h"
#include "node-daemon/domain/vm_fixture.h"

namespace stillpoint::node::test {

inline void require_machines(const Machines& machines, const std::string& network_problem) {
  REQUIRE_MESSAGE(network_problem.empty(), network_problem);
  REQUIRE_MESSAGE(machines.problem().empty(), machines.problem());
}

#define REQUIRE_OK(expression)                                       \
  do {                                                               \
    const auto& result_ = (expression);                              \
    REQUIRE_MESSAGE(result_.has_value(), result_.error().message()); \
  } while (false)

// Collects what the driver reports. The driver outlives it.
class Events {
 public:
  explicit Events(DomainDriver& driver) : driver_(driver) {
    driver_.on_event([this](DomainEvent event) {
      const std::lock_guard lock(mutex_);
      events_.push_back(std::move(event));
      changed_.notify_all();
    });
  }
  ~Events() { driver_.on_event({}); }
  // Whether exactly this is reported within 20 s.
  bool wait(const DomainId& id, DomainEvent::Kind kind) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(20), [&] { return !events_.empty(); });
    // Of a machine without room QEMU tells once for each write that failed.
    const auto same = [&](const DomainEvent& e) { return e.id == id && e.kind == kind; };
    return !events_.empty() && std::all_of(events_.begin(), events_.end(), same) &&
           (events_.size() == 1 || kind == DomainEvent::Kind::paused);
  }
  // Of the first one.
  std::string reason() {
    const std::lock_guard lock(mutex_);
    return events_.empty() ? "" : events_[0].reason;
  }
  std::size_t count() {
    const std::lock_guard lock(mutex_);
    return events_.size();
  }

 private:
  DomainDriver& driver_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<DomainEvent> events_;
};

inline bool only_runs(DomainDriver& driver, const DomainId& id) {
  const auto ids = driver.running();
  return ids.has_value() && *ids == std::vector<DomainId>{id};
}

// A second connection to the driver's libvirt, for what the driver neither tells nor does. One for the whole process:
// libvirt enters its embedded driver into a table for each, which has few places.
inline virConnectPtr second_connection(const Machines& machines) {
  static const Connection connection(virConnectOpen(("qemu:///embed?root=" + machines.root().string()).c_str()));
  REQUIRE_MESSAGE(connection, libvirt_error("open", "libvirt").message());
  return connection.get();
}

class Monitor {
 public:
  Monitor(const Machines& machines, const DomainId& id)
      : domain_(virDomainLookupByName(second_connection(machines), domain_name(id).c_str())) {
    REQUIRE_MESSAGE(domain_, libvirt_error("find", to_string(id)).message());
  }
  nlohmann::json command(const char* name) {
    auto answer = monitor_command(domain_.get(), {{"execute", name}});
    REQUIRE_OK(answer);
    return *answer;
  }

 private:
  const DomainHandle domain_;
};

// QEMU's capability, which nobody may leave switched on: the machine's next migration would go wrong.
inline bool background_snapshot_is_on(const Machines& machines, const DomainId& id) {
  for (const auto& capability : Monitor(machines, id).command("query-migrate-capabilities"))
    if (capability.at("capability") == "background-snapshot") return capability.at("state");
  FAIL("QEMU does not know the capability");
  return false;
}

struct Taken {
  std::string memory, xml;
  std::filesystem::path layer;  // immutable from the capture on
  CaptureTimes times;
};

inline Taken capture(Machines& machines, const DomainId& id, const std::string& new_layer) {
  Taken taken;
  auto chain = machines.driver().disk_chain(id);
  REQUIRE_OK(chain);
  taken.layer = chain->front();
  StringSink sink;
  int calls = 0;
  CaptureNow now([&](CaptureTimes times) {
    taken.times = times;
    ++calls;
  });
  REQUIRE_OK(machines.driver().capture(id, machines.directory() / new_layer, sink, now));
  CHECK(calls == 1);
  CHECK_FALSE(background_snapshot_is_on(machines, id));
  auto xml = machines.driver().describe(id);
  REQUIRE_OK(xml);
  taken.memory = std::move(sink.bytes);
  taken.xml = *xml;
  MESSAGE(to_string(id), ": pause ", taken.times.pause_ms, " ms, captured after ", taken.times.capture_ms, " ms, ",
          taken.memory.size() >> 20, " MiB");
  return taken;
}

}  // namespace stillpoint::node::test
