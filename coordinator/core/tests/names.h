// Short words for events, effects and catalogs, for transcripts and comparisons.
#pragma once

#include <string>

#include "coordinator/core/effects.h"

namespace stillpoint::coordinator::testing {

std::string describe(const wire::ToHost& message);
std::string describe(const wire::FromHost& message);
std::string describe(const Event& event);
std::string describe(const Effect& effect);
// Everything in it, for comparing two.
std::string describe(const CatalogState& state);

}  // namespace stillpoint::coordinator::testing
