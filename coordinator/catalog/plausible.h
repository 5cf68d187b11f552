// Whether what was loaded can be a coordinator's memory at all: beyond what the database can know. Pure; any thread.
#pragma once

#include <optional>
#include <string>

#include "coordinator/core/records.h"

namespace stillpoint::coordinator {

// The first thing that cannot be; nothing: all is well.
std::optional<std::string> nonsense_in(const CatalogState& state);

}  // namespace stillpoint::coordinator
