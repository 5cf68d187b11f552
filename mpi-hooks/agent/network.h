// The guest's network as the gang has it: addresses, neighbours, names; and whether the others can be reached.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "guest.pb.h"
#include "mpi-hooks/agent/clock.h"
#include "mpi-hooks/agent/outcome.h"

namespace stillpoint::agent {

std::optional<std::uint32_t> parse_ipv4(const std::string& text);  // host byte order
std::optional<std::string> parse_mac(const std::string& text);     // six bytes
// The text of /etc/hosts for a gang.
std::string hosts_file(const std::vector<wire::Neighbour>& gang);

// Host name, lo, eth0 with address, prefix, MTU; a fixed neighbour entry per other guest, so that no ARP answer can
// be missing; /etc/hosts. Idempotent.
Done configure_network(const wire::ConfigureGuest& configuration);

// Sends an ICMP echo to every address again and again until it has answered or the deadline (monotonic) passes; the
// addresses that answered.
Outcome<std::vector<std::uint32_t>> ping(const std::vector<std::uint32_t>& addresses, Millis deadline);

}  // namespace stillpoint::agent
