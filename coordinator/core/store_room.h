// Whether there is room to store a checkpoint. Pure reads; core's strand.
#pragma once

#include "coordinator/core/core.h"

namespace stillpoint::coordinator {

// Why no checkpoint of the job may begin now: a host of it says that its store is nearly full. With what to do.
std::optional<Error> store_full(const Core& core, const JobRecord& job);

// What to delete to make room: the job that holds most, and how.
std::string room_remedy(const Core& core);

}  // namespace stillpoint::coordinator
