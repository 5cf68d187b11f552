// The kernel's figures of the TCP connections between two guests, by sock_diag (tcp_diag).
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "gang.pb.h"
#include "mpi-hooks/agent/outcome.h"

namespace stillpoint::agent {

using AddressSet = std::set<std::uint32_t>;  // IPv4, host byte order

// One netlink datagram of a dump. Connections whose two ends are in gang are appended, also those of sockets that speak
// IPv6 and were given IPv4 addresses (::ffff:a.b.c.d). `end` is set by the message that ends the dump; `foreign` gets
// the two ends of a connection over IPv6 itself that leaves this guest. False where the datagram is malformed or
// carries an error.
bool parse_socket_dump(std::string_view datagram, const AddressSet& gang, std::vector<wire::SocketFigures>& sockets,
                       bool& end, std::string& foreign);

// Every TCP connection between two different addresses of gang, in any state but LISTEN, CLOSE and TIME_WAIT. Fails
// where there is one over IPv6: nobody could compare its ends.
Outcome<std::vector<wire::SocketFigures>> gang_sockets(const AddressSet& gang);

// By inode, in words: connected sockets whose other end is neither in the gang nor this guest itself.
using OutsideSockets = std::map<std::uint64_t, std::string>;
OutsideSockets outside_sockets(const AddressSet& gang);
bool parse_outside(std::string_view datagram, const AddressSet& gang, const char* protocol, OutsideSockets& sockets,
                   bool& end);

// What the sender's side still holds: bytes not acknowledged by the peer's kernel (sent or not), plus one for each
// segment that carries none (SYN, FIN).
std::uint64_t in_flight(const wire::SocketFigures& socket);

}  // namespace stillpoint::agent
