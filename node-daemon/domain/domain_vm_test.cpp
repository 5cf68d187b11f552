// The domain driver with real QEMU machines (about 10 s each to boot without KVM).
#include <doctest/doctest.h>
#include <signal.h>

#include <condition_variable>
#include <mutex>

#include "common/process.h"
#include "node-daemon/domain/vm_fixture.h"

using namespace stillpoint;
using namespace stillpoint::node;
using namespace stillpoint::node::test;
namespace fs = std::filesystem;

namespace {

// Before the first thread: the process has a network of its own.
const std::string network_problem = enter_own_network();

void require_machines(const Machines& machines) {
  REQUIRE_MESSAGE(network_problem.empty(), network_problem);
  REQUIRE_MESSAGE(machines.problem().empty(), machines.problem());
}

#define REQUIRE_OK(expression)                                             \
  do {                                                                     \
    const auto result_ = (expression);                                     \
    REQUIRE_MESSAGE(result_.has_value(), result_.error().message());       \
  } while (false)

struct Taken {
  std::string memory, xml;
  fs::path layer;  // immutable from the capture on
  CaptureTimes times;
};

Taken capture(Machines& machines, const DomainId& id, const std::string& new_layer) {
  Taken taken;
  auto chain = machines.driver().disk_chain(id);
  REQUIRE_OK(chain);
  taken.layer = chain->front();
  StringSink sink;
  int calls = 0;
  REQUIRE_OK(machines.driver().capture(id, machines.directory() / new_layer, sink, [&](CaptureTimes times) {
    taken.times = times;
    ++calls;
  }));
  CHECK(calls == 1);
  auto xml = machines.driver().describe(id);
  REQUIRE_OK(xml);
  taken.memory = std::move(sink.bytes);
  taken.xml = *xml;
  MESSAGE(to_string(id), ": pause ", taken.times.pause_ms, " ms, captured after ", taken.times.capture_ms, " ms, ",
          taken.memory.size() >> 20, " MiB");
  return taken;
}

void three_generations(Machines& machines) {
  require_machines(machines);
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
    CHECK(guest.count() > counted);
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

}  // namespace

TEST_CASE("a guest lives through three generations of capture and restore") {
  Machines machines;
  three_generations(machines);
}
