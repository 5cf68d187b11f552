// Takes a running domain's state at one instant. Blocking, on the caller's thread; one capture per domain at a time.
//
//   pre-copy (pre_copy.h)         background snapshot                 paused save
//   ---------------------         -------------------                 -----------
//   new empty disk layer          new empty disk layer                new empty disk layer
//   memory sent, again and        capability on, pipe to QEMU         pipe to QEMU
//     again, until little is left
//   await_instant()               await_instant()                     await_instant()
//   disk goes on in the layer     disk goes on in the layer           suspend; disk goes on in the layer
//   last pages: QEMU stops        migrate: QEMU stops the machine,    migrate: the whole stream
//     the machine                   keeps device state, write-
//                                   protects RAM, resumes
//   resume; captured()            captured(); pages stream            resume; captured()
//
// The disk's instant is a few milliseconds before the memory's: the guest's file systems are frozen then.
#pragma once

#include <filesystem>

#include "node-daemon/domain/domain_driver.h"
#include "node-daemon/domain/monitor.h"

namespace stillpoint::node {

// pre_copy: tried first; where it does not suit the machine, mode.
struct CapturePlan {
  bool pre_copy = true;
  CaptureMode mode = CaptureMode::paused_save;
};

// clean: whether QEMU's migration is known to be in order again. Where it is not, cancel_migration() must succeed
// before the domain is captured the next time; the image, if one was taken, is good all the same.
Status capture_domain(virDomainPtr domain, EventHub& events, CapturePlan plan, const std::filesystem::path& new_layer,
                      MemorySink& sink, CaptureTurn& turn, bool& clean);

}  // namespace stillpoint::node
