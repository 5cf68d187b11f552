// Daemons that die: the job runs on, and what was under way is settled one way or the other.
#include <doctest/doctest.h>
#include <signal.h>

#include <future>
#include <thread>

#include "cli/lab/processes.h"
#include "tests/e2e/examples.h"

using namespace stillpoint;
using namespace stillpoint::e2e;

namespace {

// Machines: what runs on the host besides its daemon.
std::vector<pid_t> machines_on(const json& host) {
  std::vector<pid_t> pids;
  for (const pid_t pid : host.at("processes").get<std::vector<pid_t>>())
    if (host.at("pid").is_null() || pid != host.at("pid").get<pid_t>()) pids.push_back(pid);
  return pids;
}

json host_status(const TestLab& lab, const std::string& name) {
  const json status = lab.lab({"status"});
  for (const auto& host : status.at("hosts"))
    if (host.at("name") == name) return host;
  FAIL("no host " << name);
  return {};
}

}  // namespace

TEST_CASE("coordinator and node daemons die and come back, the job runs on") {
  TestLab lab("crash", 2, {"--lease-ms", "60000"});
  JobText text = Ring{}.job("ring");
  text.keep = 20;
  const std::string job = lab.submit(text);
  lab.wait_for_lines(job, kRingLine, 2);
  lab.ok({"checkpoint", job});
  const auto runs_on = [&] {
    CHECK(until(30s, [&] { return lab.state(job) == "running"; }));
    lab.wait_for_lines(job, kRingLine, lines_starting(lab.logs(job), kRingLine).size() + 2);
  };

  // The coordinator, at several moments of a checkpoint.
  for (const auto moment : {20ms, 150ms, 400ms, 1000ms}) {
    CAPTURE(moment.count());
    auto asked = std::async(std::launch::async, [&] { return lab.run({"checkpoint", job}, 60s); });
    std::this_thread::sleep_for(moment);  // the moment
    REQUIRE(::kill(lab.lab({"status"}).at("coordinator").at("pid").get<pid_t>(), SIGKILL) == 0);
    CHECK(until(5s, [&] { return lab.lab({"status"}).at("coordinator").at("state") == "dead"; }));
    lab.lab({"start-coordinator"});
    (void)asked.get();  // its answer is lost with the coordinator, or came before
    runs_on();
    // Committed or aborted, never in between.
    CHECK(until(60s, [&] {
      for (const auto& checkpoint : lab.ok({"checkpoints", job}))
        if (checkpoint.at("state") != "committed" && checkpoint.at("state") != "aborted" &&
            checkpoint.at("state") != "pruned")
          return false;
      return true;
    }));
  }

  // A node daemon.
  const std::string host = lab.hosts_of(job).at(1);
  const json before = host_status(lab, host);
  const auto machines = machines_on(before);
  REQUIRE_FALSE(machines.empty());
  REQUIRE(::kill(before.at("pid").get<pid_t>(), SIGKILL) == 0);
  CHECK(until(5s, [&] { return host_status(lab, host).at("state") == "daemon-dead"; }));
  CHECK(machines_on(host_status(lab, host)) == machines);
  lab.lab({"start-host", host});
  runs_on();
  // Its own short-lived children (the emulator asked for its capabilities, say) come and go beside them.
  CHECK(until(30s, [&] { return machines_on(host_status(lab, host)) == machines; }));

  // Both are as good as before: a checkpoint can be taken, and the job brought back from it.
  lab.ok({"checkpoint", job});
  lab.ok({"restart", job});
  runs_on();
}
