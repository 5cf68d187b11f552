// Records of committed checkpoints that hosts keep beside the images (host.proto's CheckpointRecord): the mark of the
// commit, and all that a lost catalog is made again from (rebuild.h). Each host that stored images of a checkpoint or
// keeps copies of them has the part about these. Core's strand.
//
// The catalog is what counts; a record follows it, and is mended by what a host says that it has. A host gets one at a
// time, the newest first; one that it cannot keep it gets again after a while.
#pragma once

#include "coordinator/core/core.h"

namespace stillpoint::coordinator::checkpoint_records {

// It was committed, or lies in more places than before.
void changed(Core& core, const EpochRecord& epoch);
void on_held(Core& core, const HostName& host, const wire::HeldImages& held);
void on_answer(Core& core, const Request& request, const wire::FromHost& answer);
// Its images are deleted, and nobody is to get a record of it any more.
void deleted(Core& core, const JobId& job, Epoch epoch);
void on_host_lost(Core& core, const HostName& host);
void tick(Core& core);

// A checkpoint of which a record was read; of its guests those that the record's host keeps.
struct Found {
  JobRecord job;  // as far as a record knows it: spec, manifest, spool
  EpochRecord epoch;
};
// damaged: it is none, or none of this coordinator.
Result<Found> parse(const std::string& record, const std::string& coordinator);

}  // namespace stillpoint::coordinator::checkpoint_records
