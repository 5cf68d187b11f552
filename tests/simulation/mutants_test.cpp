// Each invariant can fail: with a fault in the code the simulator finds it, and says which invariant it breaks. The
// faults are in mutations.table. STILLPOINT_MUTATION=NAME tries that one alone.
#include <doctest/doctest.h>

#include <cstdlib>
#include <string>

#include "tests/simulation/mutation.h"
#include "tests/simulation/run.h"

using namespace stillpoint::simulation;

namespace {

struct Mutation {
  const char* name;
  const char* caught_by;
  bool fits;  // its lines were found in the source
};

constexpr Mutation kMutations[] = {
#include "mutations.inc"
};

constexpr std::uint64_t kMost = 4'000;  // histories, of each

// The first history that breaks, and what.
std::pair<std::uint64_t, std::string> first_broken() {
  for (std::uint64_t seed = 1; seed <= kMost; ++seed)
    if (auto outcome = run(draw(seed), false); !outcome.broken.empty()) return {seed, outcome.broken};
  return {kMost, ""};
}

}  // namespace

TEST_CASE("each fault put into the code is found, by the invariant that it breaks") {
  const char* const only = std::getenv("STILLPOINT_MUTATION");
  for (const Mutation& mutation : kMutations) {
    if (only != nullptr && std::string(only) != mutation.name) continue;
    CAPTURE(mutation.name);
    CHECK_MESSAGE(mutation.fits, "its lines are not in the source any more: adapt tests/simulation/mutations.table");
    if (!mutation.fits) continue;
    set_mutation(mutation.name);
    const auto [seed, broken] = first_broken();
    MESSAGE(mutation.name << ": " << (broken.empty() ? "not found" : broken) << " (history " << seed << ")");
    CHECK(broken.starts_with(std::string(mutation.caught_by) + ":"));
  }
}

TEST_CASE("without a fault these sources break nothing") {
  set_mutation("");
  for (std::uint64_t seed = 1; seed <= 20; ++seed) CHECK(run(draw(seed), false).broken == "");
}
