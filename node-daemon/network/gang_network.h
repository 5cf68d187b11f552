// A gang's own Ethernet on this host: bridge spbVNI with the guests' taps, and VXLAN port spxVNI to the other hosts of
// the gang. Each incarnation has a VXLAN id of its own, so a stale machine never talks into a newer incarnation. The
// port learns nothing: where each MAC lives is written down from the gang's places, and broadcasts go to the gang's
// hosts only.
//
// Threads: blocking calls that run ip(8) and bridge(8); from workers, one at a time per VXLAN id.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "common/result.h"
#include "host.pb.h"

namespace stillpoint::node {

std::string bridge_name(std::uint32_t vni);  // "spb7"
std::string vxlan_name(std::uint32_t vni);   // "spx7"

class GangNetworks {
 public:
  // underlay: this host's address, on which the other hosts reach it.
  explicit GangNetworks(std::string underlay) : underlay_(std::move(underlay)) {}

  // Whole when it returns, whatever was there before. Gives the guests' MTU.
  Result<std::uint32_t> bring_up(const wire::GangNetwork& network);
  // Gone when it returns; done already if it is not there.
  Status take_down(std::uint32_t vni);
  // Every bridge and port with our names whose VXLAN id is not in `known` is removed: left by an earlier daemon.
  Status remove_leftovers(const std::set<std::uint32_t>& known);

 private:
  std::string underlay_;
};

}  // namespace stillpoint::node
