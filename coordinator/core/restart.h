// Bringing a job back from a checkpoint. Core's strand.
//
//   phase     what happens                                              leaves when
//   fence     DestroyGang of what is placed now                         each host answered, or is gone for a lease
//   place     hosts with room are chosen                                there is room (10 heartbeats at most)
//   restore   RestoreGuests: images loaded and checked, VMs paused      every host is done
//   resume    ResumeGuests: VMs run, ranks still frozen                 every host is done
//   links     CheckGangLinks: everyone reaches everyone; every socket   the figures are those of the checkpoint
//             compared with the cut
//   truncate  stored output cut back to the checkpoint's offset         it is durable
//   release   ReleaseGang: ranks thaw, gates open                       every host answered -> running
//
// Each try has its own incarnation and VXLAN, persisted before the first message names them. The old placement stays in
// the record until it is fenced, so that a coordinator that starts anew knows whom to fence. A damaged image leads to
// the next older checkpoint when the user named none; any other failure leaves the job failed, restartable, and
// nothing running. One that nobody asked for (automatic.h) waits for room as long as it takes, and is tried again when
// it fails; a user who asks for a restart meanwhile waits for this one, or has it ended when other terms are asked.
#pragma once

#include "coordinator/core/core.h"

namespace stillpoint::coordinator::restart {

void on_request(Core& core, const RestartJob& event);
void on_answer(Core& core, const Request& request, const wire::FromHost& answer);
void on_output(Core& core, JobRecord& job);  // the output may be cut back now
void on_output_failed(Core& core, JobRecord& job, const Error& error);
// Brings it back without being asked (automatic.h); suspect is avoided while other hosts have room.
void begin_automatic(Core& core, JobRecord& job, Epoch epoch, const std::optional<HostName>& suspect, std::string story,
                     std::chrono::milliseconds wait);
// After a start of the coordinator: begins again with a newer incarnation, from the same epoch and
// on the terms that the record kept.
void begin_again(Core& core, JobRecord& job);
// Ends the try: whoever asked is told, the gang is destroyed, the job failed. Nothing when no restart is under way.
// suspect: the host that could not do what it was asked; avoided while others have room.
void fail(Core& core, JobRecord& job, const Error& error, const std::optional<HostName>& suspect = std::nullopt);
// The same for a host or a guest that was lost meanwhile: by its policy the job comes back by itself, also where the
// restart was asked for, unless the checkpoint or the hosts were named; whoever asked waits on.
void fail_lost(Core& core, JobRecord& job, const Error& error);
// The same without a verdict on the job: the caller gives it another state.
void cancel(Core& core, JobRecord& job, const Error& error);
void tick(Core& core, JobRecord& job);
// Places those that wait for room, in the order of their submission. Gives all that have no place yet, also because an
// old incarnation is being fenced or the next try is not due, where the hosts, did nothing run on them, would have it:
// nothing else is begun there.
std::vector<JobId> place_waiting(Core& core);
std::string_view name(RestartRun::Phase phase);

}  // namespace stillpoint::coordinator::restart
