// One checkpoint of a running job. Core's strand.
//
//   phase     asked of every host      leaves when
//   examine   ExamineGang              no guest has anything that keeps it from being checkpointed
//   prepare   PrepareCapture           every host has done what it can while the job works
//   close     CloseGang                every host has reported its first round; a rank defers: -> reopen, nothing is in
//                                      flight: -> freeze
//   reopen    ReopenGang               every host has opened its gates again
//   defer     -                        a pause, longer each time; then close again, until the drain deadline
//   drain     CountGang, repeatedly    nobody is busy and nothing in flight, after a thaw in two successive rounds that
//                                      are equal; or there were enough (a call may make traffic for as long as it
//                                      waits)
//   freeze    FreezeGang               every cut is there; verified: -> capture, not quiet: asked once more, when all
//                                      stand still, -> thaw
//   thaw      ThawGang                 every host has thawed -> drain again, verify_attempts times in all
//   capture   CaptureGang              every guest's state is captured
//   release   ReleaseGang              every host says that it had held all along: the job goes on
//   examine   ExamineGang again        nothing has come in between either -> epoch captured
//   upload    -                        every guest's image is durable -> ONE Persist: epoch committed
//
// One that is asked for while another is under way waits for its turn, unless the manifest says that it is refused.
// None begins while a host of the gang says that its store is nearly full.
//
// Anything else that happens - a failure, a deadline, a lost host, the program's end - aborts: the epoch is aborted in
// the catalog first, then the hosts let go and throw the images away, and the job goes on as if nothing had been. The
// test-only control goes freeze, capture, release host by host, with a gap between them and no verification.
#pragma once

#include "coordinator/core/core.h"

namespace stillpoint::coordinator::checkpoint {

void on_request(Core& core, const CheckpointJob& event);
void on_answer(Core& core, const Request& request, const wire::FromHost& answer);
// Those that wait for their turn will have none.
void refuse_turns(Core& core, const JobId& job, const std::string& why);
// A program's own wish (stillpoint.h): begins a checkpoint if one may begin, else nothing happens.
void on_wish(Core& core, JobRecord& job, const wire::RankWish& wish);
// Images of any epoch, also of one that is settled.
void on_images(Core& core, const HostName& host, const wire::FromHost& message);
// Does nothing when no checkpoint is under way.
void abort(Core& core, JobRecord& job, const Error& cause);
// After a start of the coordinator: the epoch is captured, its images are still to be heard of.
void await_images(Core& core, JobRecord& job, Epoch epoch);
// The epoch is over without a commit: hosts let go and discard, then the images are deleted.
void clean_up(Core& core, const JobRecord& job, Epoch epoch);
void on_cleaned(Core& core, const JobId& job, Epoch epoch, const HostName& host);
void tick(Core& core, JobRecord& job);
std::string_view name(CheckpointRun::Phase phase);

}  // namespace stillpoint::coordinator::checkpoint
