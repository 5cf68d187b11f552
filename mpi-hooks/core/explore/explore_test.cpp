// The gate and the helper in every history within bounds, and in as many others as there is time for.
//
//   STILLPOINT_EXPLORE_SECONDS=60    for each scenario and each way; without it a number of histories that is quick
//   STILLPOINT_SEED=…                only random histories, from this seed on: a failure names its own
#include "mpi-hooks/core/explore/explore.h"

#include <doctest/doctest.h>
#include <stdlib.h>

#include <string>

#include "mpi-hooks/core/explore/scenarios.h"

using namespace stillpoint::hooks::explore;

namespace {

constexpr std::uint64_t kSeeds = 2000;

void report(const Scenario& scenario, const std::string& way, const Outcome& outcome) {
  MESSAGE(std::string(scenario.name) << ", " << way << ": " << outcome.histories << " histories, " << outcome.steps
                                     << " steps, " << outcome.seconds << " s");
  INFO(outcome.failure);
  CHECK(outcome.failure.empty());
}

// All histories within bounds; when there is time, within wider and wider ones.
void explore_in_order(const Scenario& scenario, double seconds) {
  for (unsigned more = 0;; more++) {
    const unsigned preemptions = scenario.preemptions + (more + 1) / 2, oddities = scenario.oddities + more / 2;
    const Limits limits = seconds > 0 ? Limits{.seconds = seconds} : Limits{};
    const Outcome outcome = explore_all(scenario.run, preemptions, oddities, limits);
    report(scenario,
           (outcome.all ? "all of " : "some of ") + std::to_string(preemptions) + " preemptions and " +
               std::to_string(oddities) + " oddities",
           outcome);
    seconds -= outcome.seconds;
    if (seconds <= 0 || !outcome.failure.empty()) break;
  }
}

void explore(std::span<const Scenario> scenarios) {
  const char *time = getenv("STILLPOINT_EXPLORE_SECONDS"), *seed = getenv("STILLPOINT_SEED");
  const double seconds = time != nullptr ? atof(time) : 0;
  for (const Scenario& scenario : scenarios) {
    SUBCASE(scenario.name) {
      if (seed == nullptr) explore_in_order(scenario, seconds);
      const std::uint64_t first = seed != nullptr ? strtoull(seed, nullptr, 0) : 1;
      const Limits limits = seconds > 0 ? Limits{.seconds = seconds} : Limits{.histories = kSeeds};
      report(scenario, "seeds from " + std::to_string(first), explore_seeds(scenario.run, first, limits));
    }
  }
}

}  // namespace

TEST_CASE("the gate, whatever comes first") { explore(gate_scenarios()); }

TEST_CASE("the helper, whatever comes first") { explore(helper_scenarios()); }
