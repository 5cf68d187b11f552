// The hosts that a job may go to now, and the room on each. Core's strand.
#pragma once

#include "coordinator/core/core.h"
#include "coordinator/core/placement.h"

namespace stillpoint::coordinator {

// Places the job's gang as if nothing of the job ran: what its own guests hold counts as free. allowed empty = any
// host that the spec allows.
Result<std::vector<Placement>> plan_gang(const Core& core, const JobRecord& job, const std::vector<HostName>& allowed,
                                         const std::optional<HostName>& except = std::nullopt);

// Whether the gang would find room on the hosts that are up now if nothing ran there.
bool fits_idle_hosts(const Core& core, const JobRecord& job);

// Names that no host has, or nothing.
std::optional<Error> unknown_hosts(const Core& core, const std::vector<HostName>& names, const std::string& step);

}  // namespace stillpoint::coordinator
