// What happens to a running job of which something was lost: a host, a guest, a rank. One place to decide. Core's
// strand.
#pragma once

#include "coordinator/core/automatic.h"

namespace stillpoint::coordinator::loss {

// The rest of the gang is fenced; the job comes back by itself where its policy says so (automatic.h), else it is
// failed and can be restarted by hand.
void job_lost(Core& core, JobRecord& job, const automatic::Loss& loss);

// Why the job is failed and what the user can do about it; `refused` as automatic::refusal() says.
std::string verdict(const Core& core, const JobRecord& job, const automatic::Loss& loss, const std::string& refused);

}  // namespace stillpoint::coordinator::loss
