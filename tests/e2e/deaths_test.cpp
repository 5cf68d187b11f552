// Coordinator and node daemons killed before or after chosen messages and records of a checkpoint and of a restart,
// over real machines: what is under way is committed or aborted, the job runs, and what is listed can be restored.
// tests/deaths has every such step with machines that are fakes. STILLPOINT_VM_DEATHS: how many of the steps below, 3
// unless told otherwise, another choice each time (STILLPOINT_SEED); scripts/soak-deaths has all.
#include <doctest/doctest.h>

#include <algorithm>
#include <fstream>
#include <future>
#include <random>

#include "tests/e2e/examples.h"

using namespace stillpoint;
using namespace stillpoint::e2e;

namespace {

struct Death {
  const char* during;  // "checkpoint" or "restart"
  const char* order;   // tests/deaths/death_points.h
};

// Of the coordinator, and from "send cut" on of whichever node daemons take that step.
constexpr Death kDeaths[] = {
    {"checkpoint", "kill after 1 commit"},        {"checkpoint", "kill after 1 send prepare"},
    {"checkpoint", "kill before 1 send freeze"},  {"checkpoint", "kill after 2 send capture"},
    {"checkpoint", "kill before 1 send release"}, {"checkpoint", "kill before 2 commit"},
    {"restart", "kill after 1 send destroy"},     {"restart", "kill after 1 send restore"},
    {"restart", "kill before 2 send resume"},     {"restart", "kill after 1 send check links"},
    {"checkpoint", "kill after 1 send cut"},      {"checkpoint", "kill before 1 send captured"},
    {"checkpoint", "kill before 1 send images"},  {"restart", "kill after 1 record record"},
    {"restart", "kill before 1 send links"},
};

// Programs that die where the file says so, and the laboratory's environment that names it.
class DyingPrograms {
 public:
  DyingPrograms() : directory_(test_directory("deaths").string() + ".programs"), orders_(directory_ / "orders") {
    fs::remove_all(directory_);
    fs::create_directories(directory_);
    const fs::path built = build_directory() / "tests";
    fs::create_symlink(built / "dying-coordinator", directory_ / "stillpointd");
    fs::create_symlink(built / "dying-node", directory_ / "stillpoint-node");
    REQUIRE(::setenv("STILLPOINT_TEST_ORDERS", orders_.c_str(), 1) == 0);
  }
  ~DyingPrograms() {
    ::unsetenv("STILLPOINT_TEST_ORDERS");
    std::error_code ignored;
    fs::remove_all(directory_, ignored);
  }
  DyingPrograms(const DyingPrograms&) = delete;
  DyingPrograms& operator=(const DyingPrograms&) = delete;

  const fs::path& directory() const { return directory_; }
  void order(const std::string& line) const {
    const fs::path next = orders_.string() + ".next";
    std::ofstream(next) << line << "\n";
    fs::rename(next, orders_);
  }
  void no_orders() const { fs::remove(orders_); }

 private:
  const fs::path directory_, orders_;
};

bool somebody_is_dead(const TestLab& lab) {
  const json status = lab.lab({"status"});
  return status.at("coordinator").at("state") == "dead" ||
         std::ranges::any_of(status.at("hosts"), [](const json& host) { return host.at("state") == "daemon-dead"; });
}

// What has died, each started again. How many.
unsigned start_the_dead(const TestLab& lab) {
  unsigned dead = 0;
  const json status = lab.lab({"status"});
  if (status.at("coordinator").at("state") == "dead") {
    lab.lab({"start-coordinator"});
    dead += 1;
  }
  for (const auto& host : status.at("hosts"))
    if (host.at("state") == "daemon-dead") {
      lab.lab({"start-host", host.at("name")});
      dead += 1;
    }
  return dead;
}

bool is_settled(const json& checkpoint) {
  const auto state = checkpoint.at("state");
  return state == "committed" || state == "aborted" || state == "pruned";
}

// How many were started for it: two node daemons may die at the same step, one after the other.
unsigned runs_on(const TestLab& lab, const std::string& job) {
  unsigned died = 0;
  REQUIRE(until(kPatience, [&] {
    died += start_the_dead(lab);
    return lab.state(job) == "running";
  }));
  CHECK(until(60s, [&] {
    const json list = lab.ok({"checkpoints", job});
    return std::all_of(list.begin(), list.end(), is_settled);
  }));
  lab.wait_for_lines(job, kRingLine, lines_starting(lab.logs(job), kRingLine).size() + 2);
  return died;
}

}  // namespace

TEST_CASE("daemons die at steps of checkpoints and restarts; the job runs on, and what is listed restores") {
  std::vector<Death> deaths(std::begin(kDeaths), std::end(kDeaths));
  std::shuffle(deaths.begin(), deaths.end(), std::mt19937_64(seed()));
  deaths.resize(std::min<std::size_t>(deaths.size(), number_from("STILLPOINT_VM_DEATHS", 3)));
  const DyingPrograms programs;
  TestLab lab("deaths", 2, {"--lease-ms", "60000", "--programs", programs.directory().string()});
  JobText text = Ring{}.job("ring");
  text.keep = 40;
  const std::string job = lab.submit(text);
  lab.wait_for_lines(job, kRingLine, 2);
  lab.ok({"checkpoint", job});
  for (const Death& death : deaths) {
    CAPTURE(std::string(death.order));
    programs.order(death.order);
    // Its answer is lost with the coordinator, or says what came of it.
    auto asked = std::async(std::launch::async, [&] { return lab.run({death.during, job}, 280s); });
    CHECK(until(60s, [&] { return somebody_is_dead(lab); }));
    programs.no_orders();
    unsigned died = start_the_dead(lab);
    (void)asked.get();
    died += runs_on(lab, job);
    CHECK(died > 0);
    MESSAGE(std::string(death.during) << ", " << std::string(death.order) << ": " << died << " died");
  }
  for (const auto& checkpoint : lab.ok({"checkpoints", job}))
    if (checkpoint.at("state") == "committed")
      lab.ok({"restart", job, "--from", std::to_string(checkpoint.at("epoch").get<unsigned>())});
  CHECK(runs_on(lab, job) == 0);
  check_numbered(lab.logs(job), kRingLine, 1, 1);
  lab.ok({"stop", job});
}
