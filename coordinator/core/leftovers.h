// Images that a host still holds of checkpoints that are deleted: it was away when that was said. Core's strand.
//
// Deleted is only what the catalog knows to be: epochs of its jobs that are aborted or pruned, and jobs that it has had
// and that were removed. What it has never heard of stays, until its job is removed: the catalog may have been put back
// from an older copy.
#pragma once

#include "coordinator/core/core.h"

namespace stillpoint::coordinator::leftovers {

bool known_deleted(const Core& core, const JobId& job, Epoch epoch);
void on_held(Core& core, const HostName& host, const wire::HeldImages& held);
void tick(Core& core);
// A host says that it has images of this one, which are not to be deleted now.
void on_unheard_of(Core& core, const JobId& job, Epoch epoch);
// The job's checkpoints that hosts may have images of, in order: those of the catalog, and those it has never heard of.
std::vector<Epoch> epochs_with_images(const Core& core, const JobId& job);

}  // namespace stillpoint::coordinator::leftovers
