// Each invariant can fail: with a fault in the code the simulator finds it, and says which invariant it breaks. The
// faults are in mutations.table. stillpoint-simulate-mutants --mutation NAME
// looks at one of them.
#include <doctest/doctest.h>

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

constexpr std::uint64_t kMost = 3'000;  // histories, of each

// The kept histories met what random ones meet seldom.
std::string first_broken() {
  for (const auto& plan : kept_histories())
    if (auto outcome = run(plan, false); !outcome.broken.empty()) return outcome.broken;
  for (std::uint64_t seed = 1; seed <= kMost; ++seed)
    if (auto outcome = run(draw(seed), false); !outcome.broken.empty()) return outcome.broken;
  return "";
}

}  // namespace

TEST_CASE("each fault put into the code is found, by the invariant that it breaks") {
  for (const Mutation& mutation : kMutations) {
    const std::string name = mutation.name;
    CAPTURE(name);
    CHECK_MESSAGE(mutation.fits, "its lines are not in the source any more: adapt tests/simulation/mutations.table");
    if (!mutation.fits) continue;
    set_mutation(mutation.name);
    const std::string broken = first_broken();
    MESSAGE(name << ": " << (broken.empty() ? "not found" : broken));
    CHECK(broken.starts_with(std::string(mutation.caught_by) + ":"));
  }
}

TEST_CASE("without a fault these sources break nothing") {
  set_mutation("");
  for (std::uint64_t seed = 1; seed <= 20; ++seed) CHECK(run(draw(seed), false).broken == "");
}
