// The history says every change of a job's and an epoch's state, once. Most are said where they are made, by Core::note
// in its own words; what went without a line gets one here, in the transaction that makes the change durable. So no
// machine can forget it. Core's strand.
#pragma once

#include "coordinator/core/core.h"

namespace stillpoint::coordinator::history {

// What the catalog holds at the start was told before.
void take_up(Core& core);
// The event with the states that what it names has now; they count as told.
EventRecord line(Core& core, EventRecord event);
// The job's state, unless it was told.
void tell(Core& core, const JobRecord& job);
// At the end of each step: what changed in it and was not told; and the rows that waited, where the step has a
// transaction or flush is set.
void complete(Core& core, bool flush);

}  // namespace stillpoint::coordinator::history
