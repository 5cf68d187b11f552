// What a coordinator does first: takes up what its catalog says was under way. Core's strand.
//
//   catalog says                      then
//   epoch attempted                   aborted; hosts let go and discard when they come
//   epoch captured                    its images are awaited: committed, or aborted at the deadline
//   job pending                       queued
//   job starting                      fenced and started again, with a newer incarnation
//   job restarting                    restarted again from the same epoch, with a newer incarnation
//   job running, exit code known      its end goes on
//   job running, stop asked           its stop goes on
//   job running                       goes on as soon as its hosts report its guests; failed if one does not
//   job failed, stopped, completed    hosts that still run guests of it are told to destroy them
#pragma once

#include "coordinator/core/core.h"

namespace stillpoint::coordinator::recovery {

void take_up(Core& core);

}  // namespace stillpoint::coordinator::recovery
