// The alarm behind VERIFY: while a gang is held, none of its guests sends a byte to another. The alarm listens on the
// taps of a gang's bridge and counts what breaks that.
//
// Counted: IPv4 TCP segments that carry data, SYN, FIN or RST, and UDP. Not counted: what a kernel whose processes are
// frozen may send by itself and what changes nothing at either end: empty acknowledgements (TCP's keepalive probes and
// their answers, window updates), ARP, IPv6's neighbour discovery, and whatever the bridge itself says. The kernel's
// filter decides, so a packet costs nothing here and none can be missed because nobody reads.
//
// Only what a guest sends counts, each packet at the tap of its sender: the host of a receiver may still be listening
// when the sender's host has let its guests go on already.
//
// One owner; does not block.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/fd.h"
#include "common/result.h"

namespace stillpoint::node {

struct TapTraffic {
  std::uint64_t packets = 0;
  std::string first;  // "TCP 10.99.0.1:1024 -> 10.99.0.2:2000, 64 bytes, on vnet3"
};

class TapAlarm {
 public:
  // Listens on every port of the bridge but the VXLAN ones. A bridge without taps, or none: sees nothing.
  static Result<TapAlarm> arm(const std::string& bridge);
  // Since it was armed.
  TapTraffic read();

 private:
  struct Listener {
    std::string tap;
    Fd socket;
  };
  std::vector<Listener> listeners_;
};

}  // namespace stillpoint::node
