// mpirun in guest 0 asks for a daemon in another guest; the coordinator passes the request on and the outcome back,
// each launch once however often it is asked. Also: answers to what is done in the background. Core's strand.
#pragma once

#include "coordinator/core/core.h"

namespace stillpoint::coordinator::relay {

void on_launch(Core& core, JobRecord& job, const wire::LaunchRequest& launch);
void on_background(Core& core, const Request& request, const wire::FromHost& answer);

}  // namespace stillpoint::coordinator::relay
