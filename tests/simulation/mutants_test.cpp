// Each invariant can fail: with a fault in the code the simulator finds it, and says which invariant it breaks. The
// faults are in mutations.table. stillpoint-simulate-mutants --mutation NAME
// looks at one of them.
#include <doctest/doctest.h>

#include <iterator>
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

struct Invariant {
  const char* name;
  bool has_mutation;  // or is said to have none
};

constexpr Invariant kInvariants[] = {
#include "invariants.inc"
};
constexpr std::size_t kAtLeast = 50;  // are there: fewer were not found in their sources

constexpr std::uint64_t kMost = 3'000;  // histories, of each

struct Found {
  std::string broken;
  std::uint64_t histories = 0;  // that it took
};

// "INVARIANT" or "INVARIANT: WORDS".
bool is_caught(const std::string& broken, const std::string& by) {
  const auto end = by.find(": ");
  const auto words = end == std::string::npos ? "" : by.substr(end + 2);
  return broken.starts_with(by.substr(0, end) + ":") && broken.find(words) != std::string::npos;
}

// The first history in which `by` finds the fault: another invariant may find it sooner in others. Else the last one
// that broke anything. The kept histories meet what random ones meet seldom.
Found first_caught(const std::string& by) {
  Found found;
  const auto caught = [&](const Plan& plan) {
    ++found.histories;
    if (auto broken = run(plan, false).broken; !broken.empty()) found.broken = std::move(broken);
    return is_caught(found.broken, by);
  };
  for (const auto& plan : kept_histories())
    if (caught(plan)) return found;
  for (std::uint64_t seed = 1; seed <= kMost; ++seed)
    if (caught(draw(seed))) return found;
  return found;
}

}  // namespace

TEST_CASE("each fault put into the code is found, by the invariant that it breaks") {
  for (const Mutation& mutation : kMutations) {
    const std::string name = mutation.name;
    CAPTURE(name);
    CHECK_MESSAGE(mutation.fits, "its lines are not in the source any more: adapt tests/simulation/mutations.table");
    if (!mutation.fits) continue;
    set_mutation(mutation.name);
    const Found found = first_caught(mutation.caught_by);
    MESSAGE(name << ", after " << found.histories << ": " << (found.broken.empty() ? "not found" : found.broken));
    CHECK(is_caught(found.broken, mutation.caught_by));
  }
}

TEST_CASE("each invariant has a fault that it finds") {
  CHECK(std::size(kInvariants) >= kAtLeast);
  for (const Invariant& invariant : kInvariants) {
    const std::string name = invariant.name;
    CAPTURE(name);
    CHECK_MESSAGE(invariant.has_mutation, "add a mutation that it catches to tests/simulation/mutations.table");
  }
}

TEST_CASE("without a fault these sources break nothing") {
  set_mutation("");
  for (std::uint64_t seed = 1; seed <= 20; ++seed) CHECK(run(draw(seed), false).broken == "");
}
