// The end of a checkpoint: images come in, one transaction makes the epoch restorable, older ones are pruned. Core's
// strand.
#pragma once

#include "coordinator/core/core.h"

namespace stillpoint::coordinator::checkpoint {

// Commits the checkpoint under way when it is captured and every guest's image is there.
void commit_if_complete(Core& core, JobRecord& job);
// The guests whose image is not there yet, with their hosts.
std::string missing_images(Core& core, const JobRecord& job);

}  // namespace stillpoint::coordinator::checkpoint
