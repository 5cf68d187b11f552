// Which guest goes to which host. A pure function; any thread.
#pragma once

#include "coordinator/core/records.h"

namespace stillpoint::coordinator {

// A host that may take guests: connected, not cordoned, allowed by the job.
struct HostRoom {
  HostName host;
  std::uint64_t free_bytes = 0;  // what further guests may use
  double load = 0;               // processors promised to guests, per processor
  double guest_load = 0;         // what one more guest adds to it
  bool failed_of_late = false;   // not taken while the others have room
};

// With spread: at most one guest per host while there are hosts enough, then as evenly as memory allows; of hosts with
// as many, the one whose processors have less to do, then the one with more memory. Without: one host after the other
// is filled. Hosts that failed of late come last in both. An error of kind transient says what is missing.
Result<std::vector<Placement>> place(const std::vector<HostRoom>& rooms, std::uint32_t guests,
                                     std::uint64_t guest_bytes, bool spread);

}  // namespace stillpoint::coordinator
