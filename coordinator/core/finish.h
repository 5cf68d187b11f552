// How a job ends: its program's end, a stop, a loss; and its removal. Core's strand.
//
//   program's end: confirm (the whole gang is still there: mpirun says 0 also when it lost a machine) -> fetch (outputs
//                  from guest 0) -> drain (its output is durable) -> destroy -> completed or failed
//   own end:       a rank called MPI_Abort or exit: terminate, then as the program's end with that exit code
//   stop:          terminate (StopJob with grace) -> drain -> destroy -> stopped
//   loss:          failed at once, the rest of the gang is destroyed in the background
#pragma once

#include "coordinator/core/core.h"

namespace stillpoint::coordinator::finish {

void on_job_ended(Core& core, JobRecord& job, const wire::JobExited& exited);
void on_host_lost(Core& core, JobRecord& job, const HostName& host);
// Guests of the current incarnation on this host are gone. reported: by the host, as it happened. Else they are not in
// its hello: it began anew or let them go without a coordinator, which says nothing against the program.
void on_guests_gone(Core& core, JobRecord& job, const HostName& host, const std::string& why, bool reported);
// The gang goes and nobody waits for this host's part of it any more, because the host was lost: should it be back,
// that is still to be destroyed.
bool is_given_up(Core& core, const JobRecord& job, const HostName& host);
void on_rank_lost(Core& core, JobRecord& job, const HostName& host, const wire::RankFailed& rank);
void on_stop(Core& core, const StopJob& event);
void on_remove(Core& core, const RemoveJob& event);
void on_removed(Core& core, const Request& request, const wire::FromHost& answer);
void expire_removal(Core& core, const JobId& job);  // whose deadline has passed
void on_answer(Core& core, const Request& request, const wire::FromHost& answer);
void on_stored(Core& core, const OutputPieceStored& event);
void on_output(Core& core, JobRecord& job);  // more of it is durable
// After a start of the coordinator: an end that was under way goes on.
void take_up_end(Core& core, JobRecord& job);
void take_up_stop(Core& core, JobRecord& job);
void tick(Core& core, JobRecord& job);
std::string_view name(FinishRun::Phase phase);

}  // namespace stillpoint::coordinator::finish
