// Fencing: nothing of a job's current placement can run any more. A host is fenced when it has answered DestroyGang, or
// when it is gone and its lease has run out: it destroyed its gangs by itself. Core's strand.
#pragma once

#include "coordinator/core/core.h"

namespace stillpoint::coordinator::fence {

// Asks every host of the placement to destroy this incarnation of the job and all older ones; waiting becomes those
// that are not fenced. A host takes no incarnation that it was told to destroy: never name one that is to come.
void begin(Core& core, const JobRecord& job, Incarnation upto, Owner owner, std::set<HostName>& waiting);
// Takes a host's answer: true when it is fenced. A failure is asked again; the machine's deadline ends that.
bool answered(Core& core, const Request& request, const wire::FromHost& answer);
// Takes off the hosts whose lease has run out meanwhile.
void expire(Core& core, const JobRecord& job, Owner owner, std::set<HostName>& waiting);

}  // namespace stillpoint::coordinator::fence
