// Runs histories and says what came of them. Pure but for the time they take.
#pragma once

#include <string>
#include <vector>

#include "tests/simulation/cluster.h"
#include "tests/simulation/plan.h"

namespace stillpoint::simulation {

Outcome run(const Plan& plan, bool transcript);
// The smallest history found that breaks the same invariant.
Plan shrunk(const Plan& plan, const std::string& broken);
// A transcript without heartbeats, the program's output and what hosts do within themselves.
std::vector<std::string> story(const std::vector<std::string>& transcript);

// Of tests/simulation/found and stories, by their files' names.
std::vector<Plan> kept_histories();

struct Totals {
  std::uint64_t histories = 0, broken = 0, steps = 0, jobs = 0;
  Met met;
  double virtual_hours = 0;
  void add(const Outcome& outcome);
  void add(const Totals& other);
  // They met what the invariants speak of: histories in which nothing succeeds break none.
  bool say_something() const;
  std::string words() const;
};
std::string summary(const std::vector<Outcome>& outcomes);

}  // namespace stillpoint::simulation
