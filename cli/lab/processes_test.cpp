// With real namespaces: needs root.
#include "cli/lab/processes.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <filesystem>

#include "cli/lab/layout.h"
#include "cli/lab/network.h"
#include "common/file.h"
#include "common/process.h"

using namespace stillpoint;
using namespace stillpoint::lab;
using std::chrono::milliseconds;
namespace fs = std::filesystem;

namespace {

// A switch and one host, as `lab up` makes them, without daemons.
struct Network {
  Network() {
    char name[] = "/tmp/spl-XXXXXX";
    path = ::mkdtemp(name);
    layout = Layout::at(path).value();
    const auto switched = make_switch(layout);
    INFO((switched ? "" : switched.error().message()));
    REQUIRE(switched.has_value());
    const auto joined = make_host_network(layout, "h1");
    INFO((joined ? "" : joined.error().message()));
    REQUIRE(joined.has_value());
  }
  ~Network() {
    const auto names = existing_namespaces(layout);
    (void)kill_all_in(names, milliseconds(10'000));
    for (const auto& name : names) (void)remove_namespace(name);
    remove_namespace_directory();
    fs::remove_all(path);
  }
  ProcessRecord start(const std::vector<std::string>& argv, const std::string& in) {
    auto started = start_in_namespace(argv, in, path / "log");
    INFO((started ? "" : started.error().message()));
    REQUIRE(started.has_value());
    return *started;
  }
  std::string log() { return read_file(path / "log").value(); }

  fs::path path;
  Layout layout{Layout::at("/tmp/none").value()};
};

}  // namespace

TEST_CASE("a host reaches the coordinator's address unless its cable is pulled") {
  Network network;
  const auto ping = [&] {
    auto outcome = run_process({"ip", "netns", "exec", network.layout.host_namespace("h1"), "/bin/busybox", "ping",
                                "-c", "1", "-W", "1", kCoordinatorAddress});
    REQUIRE(outcome.has_value());
    return outcome->exit_code;
  };
  // The kernel takes up a carrier some time after the interface: the first pings may be lost.
  const auto reached = [&] {
    for (int attempt = 0; attempt < 10; ++attempt)
      if (ping() == 0) return true;
    return false;
  };
  CHECK(reached());
  REQUIRE(set_cable(network.layout, "h1", false).has_value());
  CHECK(ping() != 0);
  REQUIRE(set_cable(network.layout, "h1", true).has_value());
  CHECK(reached());
}

TEST_CASE("a host's processes are found with what they started, and all die at once") {
  Network network;
  const std::string name = network.layout.host_namespace("h1");
  const auto daemon = network.start({"/bin/sh", "-c", "setsid sleep 1000 & sleep 1000 & wait"}, name);
  CHECK(alive(daemon));
  CHECK(processes_in({network.layout.switch_namespace()}).empty());
  const auto killed = kill_all_in({name}, milliseconds(10'000));
  REQUIRE(killed.has_value());
  CHECK(*killed >= 1);
  CHECK(processes_in({name}).empty());
  CHECK_FALSE(alive(daemon));
}

TEST_CASE("a process of the same pid but another start time is somebody else's") {
  Network network;
  auto daemon = network.start({"/bin/sleep", "1000"}, network.layout.switch_namespace());
  CHECK(alive(daemon));
  ++daemon.start_ticks;
  CHECK_FALSE(alive(daemon));
}

TEST_CASE("a daemon sees its own namespace's interfaces in /sys, and nothing is mounted outside") {
  Network network;
  const auto mounts = read_file("/proc/self/mountinfo").value();
  auto daemon = network.start({"/bin/ls", "/sys/class/net"}, network.layout.host_namespace("h1"));
  wait_for_end({daemon}, milliseconds(5000));
  CHECK(network.log() == "eth0\nlo\n");
  CHECK(read_file("/proc/self/mountinfo").value() == mounts);
}

TEST_CASE("a program that is not there is an error, not a daemon") {
  Network network;
  const auto started =
      start_in_namespace({"/nowhere/program"}, network.layout.switch_namespace(), network.path / "log");
  REQUIRE_FALSE(started.has_value());
  CHECK(started.error().kind == ErrorKind::not_found);
  CHECK(processes_in({network.layout.switch_namespace()}).empty());
}
