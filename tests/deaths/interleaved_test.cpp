// Several jobs at once on three hosts with real processes on fake machines: one is checkpointed while another is
// restarted; more than there is room for; stopped and removed at any moment, in an order that a seed makes.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <future>
#include <random>

#include "tests/deaths/death_story.h"

namespace stillpoint::test {
namespace {

using nlohmann::json;

constexpr std::uint64_t kGuestMib = 384;  // of the 1024 that a fake node says it has: two on each host

struct Site : DeathSite {
  Site() : DeathSite(3) {
    start_coordinator();
    for (unsigned i = 0; i < hosts(); ++i) start_node(i);
    REQUIRE(wait_until([this] {
      const json known = http().get("/v1/hosts").json();
      return known.size() == 3 && std::ranges::all_of(known, [](const json& host) { return host["state"] == "up"; });
    }));
  }
  int ask(const std::string& method, const std::string& target) const {
    return http().request(method, "/v1/jobs/" + target, "").status;
  }
  std::string submit(const std::string& name) const {
    const auto reply = http().post("/v1/jobs", spec_of(name, 2, kGuestMib).dump());
    REQUIRE_MESSAGE(reply.status == 200, reply.body);
    return reply.json()["job"];
  }
  bool comes_to(const std::string& job, const std::string& state) {
    return wait_until([&] { return status(*this, job).value("state", "") == state; });
  }
};

}  // namespace

TEST_CASE("one job is checkpointed while another one is restarted") {
  Site site;
  const std::string one = start_job(site, "one"), other = start_job(site, "other");
  for (const auto& job : {one, other}) CHECK(site.ask("POST", job + "/checkpoint") == 200);
  for (int round = 0; round < 4; ++round) {
    CAPTURE(round);
    const auto& taken = round % 2 == 0 ? one : other;
    const auto& restarted = round % 2 == 0 ? other : one;
    auto restart = std::async(std::launch::async, [&] { return site.ask("POST", restarted + "/restart"); });
    CHECK_MESSAGE(site.ask("POST", taken + "/checkpoint") == 200, site.logs());
    CHECK_MESSAGE(restart.get() == 200, site.logs());
  }
  for (const auto& job : {one, other}) check_runs(site, job);
  CHECK(status(site, one)["incarnation"] == 3);
  CHECK(status(site, other)["incarnation"] == 3);
  CHECK(site.double_run() == "");
  for (const auto& job : {one, other}) remove_job(site, job);
}

TEST_CASE("more jobs than there is room for: who has none waits, and says so, until there is some") {
  Site site;
  std::vector<std::string> jobs;
  for (const char* name : {"a", "b", "c", "d", "e"}) jobs.push_back(site.submit(name));
  for (std::size_t i = 0; i < 3; ++i) CHECK_MESSAGE(site.comes_to(jobs[i], "running"), site.logs());
  for (std::size_t i = 3; i < 5; ++i) {
    const json waits = status(site, jobs[i]);
    CHECK(waits["state"] == "pending");
    CHECK_MESSAGE(waits["reason"].get<std::string>().find("no room") != std::string::npos, waits.dump());
  }
  remove_job(site, jobs[1]);
  CHECK_MESSAGE(site.comes_to(jobs[3], "running"), site.logs());
  CHECK(status(site, jobs[4])["state"] == "pending");
  for (const std::size_t i : {0, 2, 3, 4}) remove_job(site, jobs[i]);
  CHECK(site.machines().empty());
}

TEST_CASE(
    "stopped, removed, checkpointed and restarted at any moment: what is left runs once, of the rest is nothing") {
  const char* const chosen = std::getenv("STILLPOINT_DEATHS_SEED");
  const std::uint64_t seed = chosen == nullptr ? std::random_device{}() : std::stoull(chosen);
  CAPTURE(seed);
  std::mt19937_64 random(seed);
  Site site;
  std::vector<std::string> jobs;
  std::vector<std::future<int>> asked;
  const auto any = [&] { return jobs[random() % jobs.size()]; };
  const auto ask = [&](const std::string& method, const std::string& target) {
    asked.push_back(std::async(std::launch::async, [&site, method, target] { return site.ask(method, target); }));
  };
  const char* const steps = std::getenv("STILLPOINT_INTERLEAVED_STEPS");
  for (int step = 0, last = steps == nullptr ? 40 : std::atoi(steps); step < last; ++step) {
    const auto dice = random() % 10;
    if (jobs.size() < 3 || (dice == 0 && jobs.size() < 6)) {
      jobs.push_back(site.submit("job-" + std::to_string(step)));
    } else if (dice < 5) {
      ask("POST", any() + "/checkpoint");
    } else if (dice < 7) {
      ask("POST", any() + "/restart");
    } else if (dice < 8) {
      ask("POST", any() + "/stop");
    } else if (dice < 9) {
      const std::string job = any();  // a running one is refused, and stopped first
      ask("POST", job + "/stop");
      ask("DELETE", job);
    }
    // Some wait for what was asked before, so that not all of it comes at one moment.
    if (random() % 3 == 0 && !asked.empty()) asked.back().wait();
  }
  for (auto& answer : asked) CHECK(answer.get() != 0);  // every question has an answer
  for (const auto& job : jobs) {
    CAPTURE(job);
    CHECK_MESSAGE(wait_until([&] {
                    const std::string state = status(site, job).value("state", "gone");
                    return state == "running" || state == "stopped" || state == "gone" || state == "pending" ||
                           state == "failed";
                  }),
                  site.logs());
    const std::string state = status(site, job).value("state", "gone");
    CHECK_MESSAGE(state != "failed", status(site, job).dump(), site.logs());
    if (state == "running") check_runs(site, job);
    if (state != "gone") remove_job(site, job);
  }
  CHECK(site.double_run() == "");
  CHECK(wait_until([&] { return site.machines().empty(); }));
}

}  // namespace stillpoint::test
