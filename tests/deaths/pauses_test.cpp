// The coordinator, or a node daemon, stands still (SIGSTOP) for longer than every lease and hold deadline, in the
// middle of each phase of a checkpoint and a restart, and goes on. The job runs once, not held, and what was promised
// stands.
//
// As many phases as fit into STILLPOINT_PAUSES_SECONDS for either process (8), others each time; with
// STILLPOINT_ALL_DEATHS=1 all of them (scripts/soak-deaths). STILLPOINT_DEATHS_SEED repeats a choice.
#include <doctest/doctest.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <future>
#include <optional>
#include <random>
#include <thread>

#include "tests/deaths/death_story.h"

namespace stillpoint::test {
namespace {

using std::chrono::steady_clock;

constexpr Times kTimes{.heartbeat_ms = 100, .lease_ms = 1500, .hold_ms = 1000};
constexpr std::chrono::milliseconds kPause{2500};
// A host has room for one. Both would go to the other host otherwise, once this one was taken for lost.
constexpr std::uint64_t kGuestMib = 600;

std::uint64_t number_from_environment(const char* name, std::uint64_t otherwise) {
  const char* const value = std::getenv(name);
  return value == nullptr ? otherwise : std::stoull(value);
}

// In the middle of each phase: it was asked of one host and not of the other, or the output is cut back and nobody
// knows. The third release is the restart's: a checkpoint has one for each host.
std::vector<std::string> coordinator_pauses() {
  std::vector<std::string> all = {"stop before 1 truncate", "stop after 1 truncate", "stop before 3 send release",
                                  "stop after 3 send release"};
  for (const char* step : {"examine", "prepare", "close", "freeze", "capture", "release", "examine again", "destroy",
                           "restore", "resume", "check links"})
    all.push_back(std::string("stop after 1 send ") + step);
  for (const int commit : {1, 2, 3, 4, 5, 6}) all.push_back("stop before " + std::to_string(commit) + " commit");
  return all;
}

std::vector<std::string> node_pauses() {
  std::vector<std::string> all;
  for (const char* step : {"1 send done", "2 send done", "1 send round", "1 send cut", "1 send captured",
                           "1 send released", "1 send images", "5 send done", "1 send links", "2 send released"})
    all.push_back(std::string("stop before ") + step);
  return all;
}

// In the story, whose question waits meanwhile, or a little after its answers, where the last steps are.
bool stands_still(const Child& process, const std::future<Told>& story) {
  std::optional<steady_clock::time_point> end;
  while (!process.is_stopped()) {
    if (!end && story.wait_for(std::chrono::seconds(0)) == std::future_status::ready)
      end = steady_clock::now() + std::chrono::milliseconds(300);
    if (end && steady_clock::now() > *end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));  // between two looks; the story has its own deadlines
  }
  return true;
}

// Whether it stood still: some steps do not come as often in every run.
bool pause_at(DeathSite& site, const std::string& pause, std::optional<unsigned> host, const std::string& name) {
  CAPTURE(pause);
  const std::string job = start_job(site, name, kGuestMib);
  const auto first = site.http().post("/v1/jobs/" + job + "/checkpoint");
  REQUIRE_MESSAGE(first.status == 200, first.body);
  const auto orders = host ? site.node_orders(*host) : site.coordinator_orders();
  const Child& process = host ? site.node(*host) : site.coordinator();
  order(orders, pause);
  auto story = std::async(std::launch::async, [&site, job] {
    Told told;
    const auto taken = site.http().post("/v1/jobs/" + job + "/checkpoint");
    if (taken.status == 200) told.committed.push_back(taken.json()["epoch"].get<std::uint64_t>());
    told.finished = site.http().post("/v1/jobs/" + job + "/restart").status == 200;
    return told;
  });
  const bool stopped = stands_still(process, story);
  if (stopped) {
    std::this_thread::sleep_for(kPause);  // that time passes is what this is about
    no_orders(orders);
    process.signal(SIGCONT);
  }
  no_orders(orders);
  Told told = story.get();
  told.committed.push_back(first.json()["epoch"].get<std::uint64_t>());
  // A restart by hand that loses its hosts is not tried again by itself: it says so, and can be asked for again, if
  // need be until the hosts are back (503).
  if (!told.finished && wait_until([&] {
        const std::string state = status(site, job).value("state", "");
        return state == "failed" || state == "running";
      }) &&
      status(site, job).value("state", "") == "failed") {
    auto again = site.http().post("/v1/jobs/" + job + "/restart");
    wait_until([&] {
      if (again.status == 503) again = site.http().post("/v1/jobs/" + job + "/restart");
      return again.status != 503;
    });
    CHECK_MESSAGE(again.status == 200, again.body);
  }
  check_runs(site, job);
  check_promises(site, job, told);
  // A machine whose daemon stands still runs on: its agent's own lease, which these have not, would end it.
  if (!host) CHECK(site.double_run() == "");
  const auto after = site.http().post("/v1/jobs/" + job + "/checkpoint");
  CHECK_MESSAGE(after.status == 200, after.body);
  remove_job(site, job);
  return stopped;
}

void pause_at_phases(std::optional<unsigned> host) {
  const auto seed = number_from_environment("STILLPOINT_DEATHS_SEED", std::random_device{}());
  CAPTURE(seed);
  DeathSite site(2, kTimes);
  site.start_coordinator();
  for (unsigned i = 0; i < site.hosts(); ++i) site.start_node(i);
  REQUIRE_MESSAGE(await_hosts(site), site.logs());
  auto all = host ? node_pauses() : coordinator_pauses();
  std::ranges::shuffle(all, std::mt19937_64(seed));
  const bool every = number_from_environment("STILLPOINT_ALL_DEATHS", 0) != 0;
  const auto end = steady_clock::now() + std::chrono::seconds(number_from_environment("STILLPOINT_PAUSES_SECONDS", 8));
  std::size_t tried = 0, stopped = 0;
  for (const auto& pause : all) {
    if (!every && tried > 0 && steady_clock::now() > end) break;
    const bool stood = pause_at(site, pause, host, "heat-" + std::to_string(++tried));
    if (!stood) MESSAGE("it came to no ", pause);
    stopped += stood;
  }
  MESSAGE(all.size(), " pauses, ", tried, " tried: stopped in ", stopped);
  CHECK(stopped * 2 > tried);
}

}  // namespace

TEST_CASE("the coordinator stands still for longer than every deadline") { pause_at_phases(std::nullopt); }

TEST_CASE("a node daemon stands still for longer than every deadline") { pause_at_phases(0); }

}  // namespace stillpoint::test
