// The host's lease, watched over by the real agents of a real job, while this test is the node daemon that dies.
#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <string>

#include "tests/cluster/suite.h"

using namespace stillpoint;
using namespace stillpoint::cluster;

namespace {

constexpr milliseconds kDeadline{60'000};
constexpr milliseconds kHeartbeat{100};
constexpr std::uint32_t kLeaseMs = 3'000;

// programs/mortal.c, where nobody dies: all ranks compute, call and write until the test ends.
struct Writing {
  Writing() : cluster(2) {
    cluster.put_program("mortal");
    JobText text = job({.name = "mortal"}, "exit");
    text.command.push_back("99");  // a rank that there is not
    text.ranks_per_guest = {3, 3};
    cluster.start(text);
    cluster.wait_for_output("rank 4 line 3", kDeadline);
  }

  bool all(bool (NamespaceGuest::*is)() const) {
    for (unsigned guest = 0; guest < cluster.size(); ++guest)
      if (!(cluster.node(guest).*is)()) return false;
    return true;
  }
  // Until the ranks have printed so much more, with or without a daemon's heartbeats.
  bool prints(std::size_t lines, bool with_heartbeats) {
    const auto count = [&] { return std::count(cluster.output().begin(), cluster.output().end(), '\n'); };
    const auto wanted = count() + static_cast<std::ptrdiff_t>(lines);
    auto next = std::chrono::steady_clock::now();
    return cluster.serve_until(
               [&] {
                 if (const auto now = std::chrono::steady_clock::now(); with_heartbeats && now >= next) {
                   cluster.tell_of_lease();
                   next = now + kHeartbeat;
                 }
                 return count() >= wanted || cluster.over();
               },
               kDeadline) &&
           !cluster.over();
  }

  Cluster cluster;
};

}  // namespace

TEST_CASE("lease_kept") {
  Writing job;
  Cluster& cluster = job.cluster;
  for (unsigned guest = 0; guest < cluster.size(); ++guest) {
    const auto& abilities = cluster.hello(guest)->abilities();
    CHECK(std::find(abilities.begin(), abilities.end(), "lease") != abilities.end());
  }
  // Frozen for a checkpoint for longer than a lease, of which nothing is heard meanwhile.
  cluster.lease_ms = kLeaseMs;
  REQUIRE_MESSAGE(job.prints(5, true), cluster.problem());
  CycleSettings settings;
  settings.hold = milliseconds(kLeaseMs + 2'000);
  const CycleResult held = cluster.cycle(settings);
  CHECK_MESSAGE(held.quiet, held.why);
  REQUIRE_MESSAGE(job.prints(20, true), cluster.problem());
  CHECK_FALSE(job.cluster.node(0).is_off());
  CHECK_FALSE(job.cluster.node(1).is_off());
}

TEST_CASE("lease_ended") {
  Writing job;
  Cluster& cluster = job.cluster;
  cluster.lease_ms = kLeaseMs;
  cluster.tell_of_lease();
  cluster.lease_ms = 0;
  REQUIRE_MESSAGE(cluster.serve_until([&] { return job.all(&NamespaceGuest::stands_still); }, kDeadline),
                  cluster.problem());
  // A word that was late: as if nothing had been. (Of a daemon that is too late even for that nothing is left.)
  cluster.lease_ms = kLeaseMs;
  cluster.tell_of_lease();
  REQUIRE_MESSAGE(job.prints(5, true), cluster.problem());
  CHECK_FALSE(job.all(&NamespaceGuest::is_off));
  // And no word any more.
  cluster.lease_ms = 0;
  REQUIRE_MESSAGE(cluster.serve_until([&] { return job.all(&NamespaceGuest::is_off); }, kDeadline), cluster.problem());
  for (unsigned guest = 0; guest < cluster.size(); ++guest)
    CHECK(cluster.node(guest).story().find("no word of the host's lease any more") != std::string::npos);
}
