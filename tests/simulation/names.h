// Short words for what a host's core is told and does, for transcripts. (The coordinator's:
// coordinator/core/tests/names.h.) Pure functions.
#pragma once

#include <string>

#include "node-daemon/core/effects.h"
#include "node-daemon/core/events.h"

namespace stillpoint::simulation {

std::string describe(const node::Event& event);
std::string describe(const node::Effect& effect);

}  // namespace stillpoint::simulation
