// Takes a running domain's state at one instant. Blocking, on the caller's thread; one capture per domain at a time.
//
//   background snapshot                          paused save (fallback)
//   -------------------                          ----------------------
//   new empty disk layer                         new empty disk layer
//   capability on, pipe to QEMU                  pipe to QEMU; suspend
//   disk goes on in the new layer                disk goes on in the new layer
//   migrate: QEMU stops the machine, keeps       migrate: the whole stream
//     device state, write-protects RAM, resumes
//   captured(); pages stream while it runs       resume; captured()
//   capability off                               capability off
//
// The disk's instant is a few milliseconds before the memory's: the guest's file systems are frozen then.
#pragma once

#include <filesystem>
#include <functional>

#include "node-daemon/domain/domain_driver.h"
#include "node-daemon/domain/monitor.h"

namespace stillpoint::node {

// clean: whether QEMU's migration is known to be in order again. Where it is not, cancel_migration() must succeed
// before the domain is captured the next time; the image, if one was taken, is good all the same.
Status capture_domain(virDomainPtr domain, EventHub& events, CaptureMode mode, const std::filesystem::path& new_layer,
                      MemorySink& sink, const std::function<void(CaptureTimes)>& captured, bool& clean);

}  // namespace stillpoint::node
