// Images read back: `stillpoint verify`. Core's strand.
//
// Each image is read by the host that stored it, or by another one that has it in its directory; when that one is lost,
// by the next. An epoch that is found damaged is marked in the catalog: no restart takes it unless it is found whole
// again. What could not be read for another reason says nothing about the epoch.
#pragma once

#include "coordinator/core/core.h"

namespace stillpoint::coordinator::verify {

void on_request(Core& core, const VerifyJob& event);
void on_answer(Core& core, const Request& request, const wire::FromHost& answer);
void on_host_lost(Core& core, const HostName& host);
// Ends it; whoever asked is told why. Nothing when none is under way.
void cancel(Core& core, const JobId& job, const Error& why);
void tick(Core& core, const JobId& job);

// Somebody read images of the epoch and found damage. Nothing when it is not committed.
void found_damaged(Core& core, Epoch epoch, const std::string& what);

}  // namespace stillpoint::coordinator::verify
