// Makes a failing history small: leaves out what befalls the cluster, piece by piece, as long as the same invariant
// breaks (delta debugging), then shortens what is left. Pure but for the histories it runs.
#pragma once

#include <functional>

#include "tests/simulation/plan.h"

namespace stillpoint::simulation {

// fails: runs the plan; true if it breaks as the whole one did. runs: at most so many are tried.
Plan shrink(Plan plan, const std::function<bool(const Plan&)>& fails, unsigned runs = 2'000);

}  // namespace stillpoint::simulation
