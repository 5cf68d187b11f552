// What the host's core speaks of besides the wire messages. Values; any thread.
#pragma once

#include <chrono>
#include <compare>
#include <string>

#include "common/ids.h"
#include "gang.pb.h"
#include "node-daemon/domain/domain_driver.h"

namespace stillpoint::node {

// Time since the machine's boot, a suspended machine's too, as the shell measured it; the core never asks a clock. It
// goes on over restarts of the daemon.
using Time = std::chrono::time_point<std::chrono::steady_clock, std::chrono::milliseconds>;
using std::chrono::milliseconds;

// One incarnation of one job on this host.
struct GangId {
  JobId job;
  Incarnation incarnation;
  auto operator<=>(const GangId&) const = default;
};

inline GangId gang_of(const DomainId& id) { return {id.job, id.incarnation}; }
inline GangId gang_of(const wire::GangRef& ref) { return {{ref.job()}, {ref.incarnation()}}; }
inline DomainId domain_of(const GangId& gang, std::uint32_t guest) { return {gang.job, gang.incarnation, {guest}}; }

// "j7/2", for people.
inline std::string to_string(const GangId& gang) {
  return gang.job.value + "/" + std::to_string(gang.incarnation.value);
}

// "j7/2/guest-0", for people. (domain_driver.h's to_string, which comes with libvirt, says the same.)
inline std::string name_of(const DomainId& id) {
  return to_string(gang_of(id)) + "/guest-" + std::to_string(id.guest.value);
}

}  // namespace stillpoint::node
