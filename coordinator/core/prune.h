// Old checkpoints go: after each commit those beyond the job's `keep`, and when somebody asks for it. Core's strand.
//
// What stays whatever is asked: the newest committed one, what a restart is using, what is not committed yet. The state
// is in the catalog before a host is asked to delete anything.
#pragma once

#include "coordinator/core/core.h"

namespace stillpoint::coordinator::prune {

void after_commit(Core& core, const JobRecord& job);
void on_request(Core& core, const PruneJob& event);
void on_answer(Core& core, const Request& request, const wire::FromHost& answer);
void tick(Core& core, const JobId& job);

}  // namespace stillpoint::coordinator::prune
