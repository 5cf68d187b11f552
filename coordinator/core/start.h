// From a submitted spec to a running program: validate, queue, fence what an earlier try left, boot the gang, stream
// the files, launch. Core's strand.
//
//   pending --room--> [fence] --> boot (StartGuests) --> files (ReadSpool, PutJobFile, piece by piece) --> launch -->
//   running
//
// A start that fails for a reason of the hosts is tried again with a new incarnation, kStartTries times; a host that
// could not do what it was asked comes last then. One that is a job's return (automatic.h) is after that one try of its
// policy.
#pragma once

#include "coordinator/core/core.h"

namespace stillpoint::coordinator::start {

void on_submit(Core& core, SubmitJob event);
// Places what waits and has room now: first jobs that come back, then new ones, both in the order of submission. A new
// one that finds no room lets others pass for an hour; one that comes back lets none pass. Then nothing begins behind
// it that might take the same hosts, as long as these would have room for it if they were idle.
void try_pending(Core& core);
void on_answer(Core& core, const Request& request, const wire::FromHost& answer);
void on_spool(Core& core, SpoolRead event);
void on_output(Core& core, JobRecord& job);  // the output may be cut back now
void on_output_failed(Core& core, JobRecord& job, const Error& error);
// Ends the try: the gang is destroyed, and the job queued again or failed.
void fail(Core& core, JobRecord& job, const Error& error, const std::optional<HostName>& suspect = std::nullopt);
void tick(Core& core, JobRecord& job);
std::string_view name(StartRun::Phase phase);

}  // namespace stillpoint::coordinator::start
