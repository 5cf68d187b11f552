// Which checkpoint to restart from. Pure reads; core's strand.
#pragma once

#include "coordinator/core/core.h"

namespace stillpoint::coordinator::epochs {

// The newest committed checkpoint of the job, older than `before` when that is given. Control epochs are never chosen:
// they are restored only by name.
std::optional<Epoch> newest_committed(const Core& core, const JobId& job, std::optional<Epoch> before = std::nullopt);
// The one asked for, or the newest; or why not.
Result<Epoch> choose(const Core& core, const JobRecord& job, std::optional<Epoch> from);

}  // namespace stillpoint::coordinator::epochs
