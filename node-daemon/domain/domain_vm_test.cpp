// The domain driver with real QEMU machines (about 10 s each to boot without KVM).
#include <signal.h>
#include <sys/mount.h>

#include <algorithm>
#include <cstdlib>
#include <thread>

#include "common/file.h"
#include "node-daemon/domain/domain_name.h"
#include "node-daemon/domain/vm_checks.h"

using namespace stillpoint;
using namespace stillpoint::node;
using namespace stillpoint::node::test;
namespace fs = std::filesystem;

namespace {

const std::string network_problem = enter_own_network();

void three_generations(Machines& machines) {
  require_machines(machines, network_problem);
  DomainDriver& driver = machines.driver();
  machines.make_disk("d1.qcow2");
  DomainSpec spec = machines.spec(1, "d1.qcow2");
  REQUIRE_OK(driver.start(spec));
  std::string expected, sum;
  {
    Guest guest(driver, spec.id);
    sum = guest.ask("fill 4000000");
    REQUIRE(sum.size() >= 32);
    REQUIRE(guest.ask("mac") == spec.mac);
  }
  for (unsigned generation = 1; generation <= 3; ++generation) {
    Guest guest(driver, spec.id);
    const std::string word = "before" + std::to_string(generation);
    REQUIRE(guest.ask("put " + word) == "done");
    expected += word + ",";
    REQUIRE(guest.ask("freeze") == "done");
    const long counted = guest.count();
    const Taken taken = capture(machines, spec.id, "layer" + std::to_string(generation) + ".qcow2");
    REQUIRE(guest.ask("thaw") == "done");
    REQUIRE(guest.ask("put after") == "done");  // after the cut: must not be in the image
    CHECK(guest.ask("journal") == expected + "after,");
    CHECK(guest.counts_beyond(counted));
    const fs::path disk = machines.copy_disk(taken.layer, "r" + std::to_string(generation) + ".qcow2");
    REQUIRE_OK(driver.destroy(spec.id));

    spec = machines.spec(generation + 1, disk.filename(), generation % 2 ? "br1" : "br0");
    StringSource source(taken.memory);
    REQUIRE_OK(driver.restore(spec, taken.xml, source));
    REQUIRE_OK(driver.resume(spec.id));
    Guest restored(driver, spec.id);
    REQUIRE(restored.ask("thaw") == "done");
    const long now = restored.count();
    CHECK(now >= counted);
    CHECK(restored.ask("journal") == expected);
    CHECK(restored.ask("sum") == sum);
  }
  REQUIRE_OK(driver.destroy(spec.id));
  auto left = driver.running();
  REQUIRE_OK(left);
  CHECK(left->empty());
}

// Gives a stream's first `good` bytes, and then ends the QEMU that loads them, as the kernel does to a process when
// memory is short. What it then goes on with is the stream's rest, or nothing.
class DeadlySource : public MemorySource {
 public:
  enum class Then { more, end };
  DeadlySource(const Machines& machines, const DomainId& loading, std::string_view bytes, std::size_t good, Then then)
      : pid_file_(machines.root() / "run/qemu" / (domain_name(loading) + ".pid")),
        good_(bytes.substr(0, good)),
        rest_(then == Then::more ? bytes.substr(good) : std::string_view()) {}
  Result<std::string> read() override {
    auto block = good_.read();
    if (!block->empty()) return block;
    if (!std::exchange(killed_, true)) kill_qemu();
    return rest_.read();
  }

 private:
  void kill_qemu() {
    const pid_t pid = std::atoi(read_file(pid_file_)->c_str());
    REQUIRE(pid > 0);
    REQUIRE(::kill(pid, SIGKILL) == 0);
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (::kill(pid, 0) == 0 && std::chrono::steady_clock::now() < end)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  const fs::path pid_file_;
  StringSource good_, rest_;
  bool killed_ = false;
};

// Of a machine that it starts: captures whose sink fails at its first byte, after a MiB, after 20; and a good one.
Taken capture_after_failures(Machines& machines, const DomainSpec& spec) {
  DomainDriver& driver = machines.driver();
  REQUIRE_OK(driver.start(spec));
  Guest guest(driver, spec.id);
  REQUIRE(guest.ask("put first") == "done");
  for (std::size_t limit : {0u, 1u << 20, 20u << 20}) {
    CAPTURE(limit);
    const long before = guest.count();
    StringSink full(limit);
    CaptureNow now;
    const auto failed = driver.capture(spec.id, machines.directory() / ("full" + std::to_string(limit)), full, now);
    REQUIRE_FALSE(failed.has_value());
    CHECK(failed.error().kind == ErrorKind::storage_full);
    CHECK_FALSE(background_snapshot_is_on(machines, spec.id));
    CHECK(guest.counts_beyond(before));
  }
  CHECK(guest.ask("journal") == "first,");
  Taken taken = capture(machines, spec.id, "good.qcow2");
  CHECK(taken.memory.size() > 20u << 20);
  return taken;
}

// Has QEMU's first migration end long before the instant, as that of a machine does that changes nothing.
class PreCopyEnder : public StringSink {
 public:
  PreCopyEnder(const Machines& machines, const DomainId& id) : monitor_(machines, id) {}
  Status write(std::string_view more) override {
    if (bytes.size() > 1u << 20 && !std::exchange(ended_, true)) monitor_.command("migrate_cancel");
    return StringSink::write(more);
  }
  Status restart() override {
    ++begun_anew;
    return StringSink::restart();
  }
  int begun_anew = 0;

 private:
  Monitor monitor_;
  bool ended_ = false;
};

// Looks at the capability directly before the instant.
class CapabilityWitness : public CaptureNow {
 public:
  CapabilityWitness(const Machines& machines, const DomainId& id) : machines_(machines), id_(id) {}
  Status await_instant() override {
    was_on = background_snapshot_is_on(machines_, id_);
    return {};
  }
  bool was_on = false;

 private:
  const Machines& machines_;
  const DomainId& id_;
};

// The error of a restore that comes to nothing.
Error failed_restore(Machines& machines, const DomainSpec& spec, const Taken& taken, MemorySource& source) {
  const auto failed = machines.driver().restore(spec, taken.xml, source);
  REQUIRE_FALSE(failed.has_value());
  MESSAGE(failed.error().message());
  CHECK(machines.driver().running()->empty());
  return failed.error();
}

}  // namespace

TEST_CASE("a guest lives through three generations of capture and restore") {
  Machines machines;
  require_machines(machines, network_problem);
  CHECK(machines.driver().probe().capture_mode == CaptureMode::background_snapshot);
  three_generations(machines);
}

TEST_CASE("the same by background snapshots alone") {
  Machines machines(CaptureMode::background_snapshot);
  three_generations(machines);
}

TEST_CASE("the same by paused saves") {
  Machines machines(CaptureMode::paused_save);
  three_generations(machines);
}

TEST_CASE("a capture whose stream cannot be stored leaves the machine running, and the next one works") {
  Machines machines;
  require_machines(machines, network_problem);
  machines.make_disk("d.qcow2");
  const DomainSpec spec = machines.spec(1, "d.qcow2");
  const Taken taken = capture_after_failures(machines, spec);

  SUBCASE("a stream that is cut short, or is none, leaves no machine behind") {
    // QEMU itself does not miss the very end of a stream (docs/capture.md); there the image's digest has to tell.
    const fs::path disk = machines.copy_disk(taken.layer, "r.qcow2");
    DomainDriver& driver = machines.driver();
    REQUIRE_OK(driver.destroy(spec.id));
    const DomainSpec next = machines.spec(2, disk.filename());
    for (std::string_view damaged :
         {std::string_view(taken.memory).substr(0, taken.memory.size() / 2),
          std::string_view("no memory image at all, but long enough to be read as one"), std::string_view()}) {
      CAPTURE(damaged.size());
      StringSource source(damaged);
      const auto failed = driver.restore(next, taken.xml, source);
      REQUIRE_FALSE(failed.has_value());
      MESSAGE(failed.error().message());
      CHECK(failed.error().kind == ErrorKind::damaged);
      CHECK(driver.running()->empty());
    }
    StringSource whole(taken.memory);
    REQUIRE_OK(driver.restore(next, taken.xml, whole));
    // Waiting for resume() survives a daemon's restart; it is not taken for one that a capture left paused.
    machines.reopen();
    REQUIRE(machines.problem() == "");
    CHECK(only_runs(machines.driver(), next.id));
    StringSink never;
    CaptureNow now;
    CHECK_FALSE(machines.driver().capture(next.id, machines.directory() / "no", never, now).has_value());
    REQUIRE_OK(machines.driver().resume(next.id));
    // A daemon may die between the resume and its record: the next one is asked again.
    machines.reopen();
    REQUIRE(machines.problem() == "");
    CHECK(only_runs(machines.driver(), next.id));
    REQUIRE_OK(machines.driver().resume(next.id));
    CHECK(Guest(machines.driver(), next.id).ask("journal") == "first,");
    Events events(machines.driver());
    Guest(machines.driver(), next.id).ask("off", std::chrono::seconds(2));
    CHECK(events.wait(next.id, DomainEvent::Kind::stopped));
  }
}

TEST_CASE("the same of a background snapshot") {
  Machines machines(CaptureMode::background_snapshot);
  require_machines(machines, network_problem);
  machines.make_disk("d.qcow2");
  capture_after_failures(machines, machines.spec(1, "d.qcow2"));
}

TEST_CASE("where pre-copy does not suit the machine, a background snapshot is taken") {
  Machines machines;
  require_machines(machines, network_problem);
  machines.make_disk("d.qcow2");
  const DomainSpec spec = machines.spec(1, "d.qcow2");
  REQUIRE_OK(machines.driver().start(spec));
  Guest guest(machines.driver(), spec.id);
  REQUIRE(guest.ask("put first") == "done");
  PreCopyEnder sink(machines, spec.id);
  CapabilityWitness turn(machines, spec.id);
  REQUIRE_OK(machines.driver().capture(spec.id, machines.directory() / "layer.qcow2", sink, turn));
  CHECK(sink.begun_anew == 1);
  CHECK(turn.was_on);
  CHECK_FALSE(background_snapshot_is_on(machines, spec.id));
  CHECK(guest.counts_beyond(guest.count()));
  capture(machines, spec.id, "next.qcow2");
}

// A damaged checkpoint is given up for an older one; whose QEMU died may be whole.
TEST_CASE("an image is damaged where QEMU says so of it, and not where QEMU died of something else") {
  Machines machines;
  require_machines(machines, network_problem);
  machines.make_disk("d.qcow2");
  const DomainSpec spec = machines.spec(1, "d.qcow2");
  REQUIRE_OK(machines.driver().start(spec));
  REQUIRE(Guest(machines.driver(), spec.id).ask("put first") == "done");
  const Taken taken = capture(machines, spec.id, "layer.qcow2");
  const fs::path disk = machines.copy_disk(taken.layer, "r.qcow2");
  REQUIRE_OK(machines.driver().destroy(spec.id));
  const DomainSpec next = machines.spec(2, disk.filename());
  const std::size_t half = taken.memory.size() / 2;

  {
    DeadlySource source(machines, next.id, taken.memory, half, DeadlySource::Then::more);
    CHECK(failed_restore(machines, next, taken, source).kind == ErrorKind::transient);
  }
  {
    DeadlySource source(machines, next.id, taken.memory, half, DeadlySource::Then::end);
    CHECK(failed_restore(machines, next, taken, source).kind == ErrorKind::transient);
  }
  const std::string garbage = taken.memory.substr(0, half) + std::string(half, '\xa5');
  StringSource source(garbage);
  CHECK(failed_restore(machines, next, taken, source).kind == ErrorKind::damaged);

  StringSource whole(taken.memory);
  REQUIRE_OK(machines.driver().restore(next, taken.xml, whole));
  REQUIRE_OK(machines.driver().resume(next.id));
  CHECK(Guest(machines.driver(), next.id).ask("journal") == "first,");
}

TEST_CASE("a machine whose host has no room stands still, and goes on when there is some") {
  Machines machines;
  require_machines(machines, network_problem);
  DomainDriver& driver = machines.driver();
  const fs::path small = machines.directory() / "small";
  fs::create_directory(small);
  const auto mounted = [&](unsigned long flags, const char* size) {
    return ::mount("tmpfs", small.c_str(), "tmpfs", flags, size) == 0;
  };
  REQUIRE(mounted(0, "size=24m"));
  machines.make_disk("small/d.qcow2");
  const DomainSpec spec = machines.spec(1, "small/d.qcow2");
  REQUIRE_OK(driver.start(spec));
  Guest guest(driver, spec.id);
  REQUIRE(guest.ask("put first") == "done");
  Events events(driver);
  CHECK(guest.ask("churn 400", std::chrono::seconds(2)) == "");  // 25 MB
  CHECK(events.wait(spec.id, DomainEvent::Kind::paused));
  CHECK(events.reason().find("no space on the host's state disk") == 0);
  REQUIRE(mounted(MS_REMOUNT, "size=128m"));
  REQUIRE_OK(driver.carry_on(spec.id));
  CHECK(guest.ask("churned").size() >= 32);
  CHECK(guest.ask("journal") == "first,");
  REQUIRE_OK(driver.destroy(spec.id));
  CHECK(::umount(small.c_str()) == 0);
}

TEST_CASE("twenty captures in a row, with the chain of layers kept short") {
  Machines machines;
  require_machines(machines, network_problem);
  DomainDriver& driver = machines.driver();
  machines.make_disk("d.qcow2");
  const DomainSpec spec = machines.spec(1, "d.qcow2");
  REQUIRE_OK(driver.start(spec));
  Guest guest(driver, spec.id);
  const std::string sum = guest.ask("churn 100");
  REQUIRE(sum.size() >= 32);
  std::string expected;
  std::vector<double> pauses, instants;
  for (int i = 1; i <= 20; ++i) {
    expected += std::to_string(i) + ",";
    REQUIRE(guest.ask("put " + std::to_string(i)) == "done");
    const Taken taken = capture(machines, spec.id, "n" + std::to_string(i) + ".qcow2");
    pauses.push_back(taken.times.pause_ms);
    instants.push_back(taken.times.capture_ms);
    if (i % 7 != 0) continue;
    REQUIRE_OK(driver.flatten_disk(spec.id));
    const auto chain = driver.disk_chain(spec.id);
    REQUIRE_OK(chain);
    CHECK(chain->size() == 2);
    CHECK(chain->back().filename() == "d.qcow2.raw");
    CHECK_FALSE(fs::exists(machines.directory() / ("n" + std::to_string(i - 1) + ".qcow2")));
  }
  std::sort(pauses.begin(), pauses.end());
  std::sort(instants.begin(), instants.end());
  MESSAGE("pause median ", pauses[10], " ms, most ", pauses.back(), " ms; captured after median ", instants[10],
          " ms, most ", instants.back(), " ms");
  CHECK(guest.ask("churned") == sum);
  CHECK(guest.ask("journal") == expected);
}
