// A node daemon that dies, and one that takes its machines up again. Each daemon is a process of its own: the test
// program, run again with one test case.
#include <signal.h>
#include <unistd.h>

#include <cstdlib>

#include "common/file.h"
#include "node-daemon/domain/vm_checks.h"

using namespace stillpoint;
using namespace stillpoint::node;
using namespace stillpoint::node::test;

namespace {

const std::string network_problem = enter_own_network();

// Ends the process, as SIGKILL would, in the middle of the stream.
[[noreturn]] void die_in_capture(Machines& machines, const DomainId& id, const std::string& layer) {
  struct Dying : MemorySink {
    Status write(std::string_view bytes) override {
      if ((seen += bytes.size()) > 4u << 20) ::_exit(7);
      return {};
    }
    Status restart() override { return {}; }
    std::size_t seen = 0;
  } dying;
  CaptureNow now;
  const auto ended = machines.driver().capture(id, machines.directory() / layer, dying, now);
  FAIL("the capture ended: ", ended.has_value() ? "well" : ended.error().message());
  ::_exit(8);
}

// The machine is there, in order, and runs on. What a child only CHECKed would be forgotten with it.
void require_taken_up(Machines& machines, const DomainId& id) {
  REQUIRE_MESSAGE(machines.problem().empty(), machines.problem());
  REQUIRE(only_runs(machines.driver(), id));
  REQUIRE_FALSE(background_snapshot_is_on(machines, id));
  Guest guest(machines.driver(), id);
  const long before = guest.count();
  REQUIRE(before > 0);
  REQUIRE(guest.ask("journal") == "kept,");
  REQUIRE(guest.counts_beyond(before));
}

}  // namespace

TEST_CASE("child: starts a machine and dies in a background snapshot" * doctest::skip()) {
  Machines machines(CaptureMode::background_snapshot);
  REQUIRE_MESSAGE(machines.problem().empty(), machines.problem());
  const DomainSpec spec = machines.spec(1, "d.qcow2");
  REQUIRE_OK(machines.driver().start(spec));
  REQUIRE(Guest(machines.driver(), spec.id).ask("put kept") == "done");
  die_in_capture(machines, spec.id, "first.qcow2");
}

TEST_CASE("child: takes it up and dies in a paused save" * doctest::skip()) {
  Machines machines(CaptureMode::paused_save);
  const DomainId id = machines.spec(1, "d.qcow2").id;
  require_taken_up(machines, id);
  die_in_capture(machines, id, "second.qcow2");
}

TEST_CASE("child: takes it up and dies in a pre-copy" * doctest::skip()) {
  Machines machines;
  const DomainId id = machines.spec(1, "d.qcow2").id;
  require_taken_up(machines, id);
  die_in_capture(machines, id, "third.qcow2");
}

TEST_CASE("a daemon that dies in a capture finds the machine again, and it runs") {
  Machines machines({}, Machines::Open::later);
  require_machines(machines, network_problem);
  machines.make_disk("d.qcow2");
  const DomainSpec spec = machines.spec(1, "d.qcow2");
  for (const char* child : {"child: starts*", "child: * paused save", "child: * pre-copy"}) {
    const auto [exit_code, output] = Machines::run_as_child(machines, child);
    CHECK_MESSAGE(exit_code == 7, output);
  }
  machines.reopen();
  require_taken_up(machines, spec.id);
  capture(machines, spec.id, "fourth.qcow2");

  const std::string pid = *read_file(machines.root() / "run/qemu/sp-j1-i1-g0.pid");
  Events events(machines.driver());
  ::kill(std::atoi(pid.c_str()), SIGKILL);
  CHECK(events.wait(spec.id, DomainEvent::Kind::crashed));
  CHECK(machines.driver().running()->empty());

  machines.make_disk("d2.qcow2");
  const DomainSpec next = machines.spec(2, "d2.qcow2");
  REQUIRE_OK(machines.driver().start(next));
  const std::string next_pid = *read_file(machines.root() / "run/qemu/sp-j1-i2-g0.pid");
  REQUIRE_OK(machines.driver().destroy(next.id));
  CHECK(::kill(std::atoi(next_pid.c_str()), 0) < 0);
  REQUIRE_OK(machines.driver().destroy(next.id));
  CHECK(events.count() == 1);
}
