// Every scenario of the gate and of the helper, with how far all of its histories can be tried in a test.
//
// To add one: a function in a *_scenarios.cpp beside the others, a line in its list.
#pragma once

#include <span>

namespace stillpoint::hooks::explore {

struct Scenario {
  const char* name;
  void (*run)();
  unsigned preemptions, oddities;  // bounds for trying every history
};
std::span<const Scenario> gate_scenarios();
std::span<const Scenario> helper_scenarios();

}  // namespace stillpoint::hooks::explore
