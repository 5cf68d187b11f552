// Copies that follow a commit: a checkpoint is committed at the manifest's `durability` and reaches its
// `laterDurability` afterwards, the newest first, one of a job at a time, never while one is being taken. What is still
// to be copied follows from the catalog: from the copies that the images name. So it goes on after a restart of whoever
// it was. Core's strand.
#pragma once

#include "coordinator/core/core.h"

namespace stillpoint::coordinator::later {

void tick(Core& core);
void on_answer(Core& core, const Request& request, const wire::FromHost& answer);
// What was asked of it is asked again when it is back.
void on_host_lost(Core& core, const HostName& host);

}  // namespace stillpoint::coordinator::later
