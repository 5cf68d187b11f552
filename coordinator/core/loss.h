// What happens to a running job of which something was lost: a host, a guest, a rank. One place to decide. Core's
// strand.
#pragma once

#include "coordinator/core/core.h"

namespace stillpoint::coordinator::loss {

// The rest of the gang is fenced and the job is failed, restartable; `why` names what was lost.
void job_lost(Core& core, JobRecord& job, const std::string& why);

// What the user can do about it.
std::string remedy(const Core& core, const JobRecord& job);

}  // namespace stillpoint::coordinator::loss
