// The real coordinator and real node daemons, killed before and after every write of the catalog or of a record and
// every message of two checkpoints and a restart. Afterwards the attempt is committed or aborted, the job runs once,
// every checkpoint that is listed restarts, and nothing is left over.
//
// As many deaths as fit into STILLPOINT_DEATHS_SECONDS for either process (10), another choice each time; with
// STILLPOINT_ALL_DEATHS=1 all of them (scripts/soak-deaths). STILLPOINT_DEATHS_SEED repeats a choice.
#include <doctest/doctest.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <future>
#include <random>
#include <thread>

#include "tests/deaths/death_story.h"

namespace stillpoint::test {
namespace {

using std::chrono::steady_clock;

std::uint64_t number_from_environment(const char* name, std::uint64_t otherwise) {
  const char* const value = std::getenv(name);
  return value == nullptr ? otherwise : std::stoull(value);
}

// Who dies.
struct Victim {
  DeathSite& site;
  std::optional<unsigned> host;  // nothing: the coordinator

  std::filesystem::path orders() const { return host ? site.node_orders(*host) : site.coordinator_orders(); }
  Child& process() const { return host ? site.node(*host) : site.coordinator(); }
  void start() const {
    if (host) site.start_node(*host);
    else site.start_coordinator();
  }
  // Started again as soon as it is dead, as by systemd. Whether it died: in the story, or a little after its answers,
  // where the last steps are.
  bool dies_in(const std::future<Told>& story) const {
    std::optional<steady_clock::time_point> end;
    while (!process().is_dead()) {
      if (!end && story.wait_for(std::chrono::seconds(0)) == std::future_status::ready)
        end = steady_clock::now() + std::chrono::milliseconds(300);
      if (end && steady_clock::now() > *end) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));  // between two looks; the story has its own deadlines
    }
    no_orders(orders());
    start();
    return true;
  }
};

std::vector<std::string> deaths(const std::map<std::string, int>& steps) {
  std::vector<std::string> all;
  for (const auto& [step, count] : steps)
    for (int occurrence = 1; occurrence <= count; ++occurrence)
      for (const char* when : {"before", "after"})
        all.push_back("kill " + std::string(when) + " " + std::to_string(occurrence) + " " + step);
  return all;
}

void check_after(DeathSite& site, const std::string& job, const Told& told) {
  check_runs(site, job);
  check_checkpoints(site, job, told);
  check_runs(site, job);
  CHECK(site.double_run() == "");
  remove_job(site, job);
}

void kill_at_steps(std::optional<unsigned> host) {
  const auto seed = number_from_environment("STILLPOINT_DEATHS_SEED", std::random_device{}());
  CAPTURE(seed);
  DeathSite site(2);
  const Victim victim{site, host};
  site.start_coordinator();
  for (unsigned i = 0; i < site.hosts(); ++i) site.start_node(i);
  REQUIRE_MESSAGE(await_hosts(site), site.logs());  // a guest on each
  std::string job = start_job(site, "undisturbed");
  order(victim.orders(), "record");
  const Told whole = tell_story(site, job);
  no_orders(victim.orders());
  CHECK(whole.finished);
  check_after(site, job, whole);

  const auto steps = recorded_steps(victim.orders());
  auto all = deaths(steps);
  CHECK(all.size() > 8);  // messages that are sent as one count as one
  std::ranges::shuffle(all, std::mt19937_64(seed));
  const bool every = number_from_environment("STILLPOINT_ALL_DEATHS", 0) != 0;
  const auto end = steady_clock::now() + std::chrono::seconds(number_from_environment("STILLPOINT_DEATHS_SECONDS", 10));
  std::size_t tried = 0, died = 0;
  for (const auto& death : all) {
    if (!every && tried > 0 && steady_clock::now() > end) break;
    CAPTURE(death);
    ++tried;
    job = start_job(site, "heat-" + std::to_string(tried));
    order(victim.orders(), death);
    auto story = std::async(std::launch::async, [&site, job] { return tell_story(site, job); });
    const bool dead = victim.dies_in(story);
    const Told told = story.get();
    no_orders(victim.orders());
    died += dead;
    if (!dead) CHECK_MESSAGE(told.finished, site.logs());
    check_after(site, job, told);
  }
  MESSAGE(steps.size(), " kinds of steps, ", all.size(), " deaths, ", tried, " tried: ", died, " died");
  CHECK(died * 2 > tried);  // some steps do not come as often in every run
}

}  // namespace

TEST_CASE("the coordinator killed at a step of a checkpoint or a restart") { kill_at_steps(std::nullopt); }

TEST_CASE("a node daemon killed at a step of a checkpoint or a restart; its machines run on") { kill_at_steps(0); }

}  // namespace stillpoint::test
