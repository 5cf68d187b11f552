// A catalog that was lost is made again, or one that was put back from an older copy brought up to date, from the
// records that hosts keep of committed checkpoints (checkpoint_records.h). Core's strand.
//
// Taken in is what the catalog has never heard of: jobs with numbers that it may have given out and lost
// (CatalogState::lost_jobs), and checkpoints of them, where records of all guests were found. Such a job is failed and
// can be restarted by hand: what became of it since is not known. A job that was removed since stays removed, and
// one that was restarted since is left alone: to be asked before that, and again when further hosts are up. What hosts
// say is in memory until all have answered: some 10 KB for each guest of each checkpoint that is kept.
#pragma once

#include "coordinator/core/core.h"

namespace stillpoint::coordinator::rebuild {

void on_request(Core& core, const RebuildCatalog& event);
void on_answer(Core& core, const Request& request, const wire::FromHost& answer);
// Hosts that do not answer in time are named, and what the others said is taken in.
void tick(Core& core);
void on_host_lost(Core& core, const HostName& host);

}  // namespace stillpoint::coordinator::rebuild
