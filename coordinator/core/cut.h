// Is a cut consistent? Pure functions over the figures that the guests reported; no state, any thread.
//
// A connection between two guests is quiet when both ends are there, established, with nothing queued or
// unacknowledged, and each end has received exactly what the other had acknowledged:
//
//     bytes_acked(A) - [A was the active opener] == bytes_received(B)      and the same from B to A.
//
// The kernel counts the active opener's SYN in bytes_acked, so exactly one end is one ahead; anything else means that
// bytes were on the wire. bytes_sent is of no use: it counts retransmissions. Receive queues need not be empty: they
// are guest memory. A socket in TIME_WAIT carries nothing and has no other end: it is left out.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "gang.pb.h"
#include "guest.pb.h"

namespace stillpoint::coordinator {

// One counter round, by guest: nobody busy, nothing in flight.
bool at_rest(const std::map<std::uint32_t, wire::RoundFigures>& round);
// Two successive counter rounds, by guest: the same figures everywhere, nobody busy, nothing in flight.
bool rounds_equal(const std::map<std::uint32_t, wire::RoundFigures>& previous,
                  const std::map<std::uint32_t, wire::RoundFigures>& current);

// Whether a rank is in a call that has to be over before a checkpoint, or does not answer. Otherwise a gang whose
// rounds do not become equal may be frozen all the same: a call that waits for a lock of another rank may ask for it
// again and again, for as long as the holder is parked. The cut is none the worse for it when nothing is on its way
// under the freeze.
bool must_finish_first(const std::map<std::uint32_t, wire::RoundFigures>& rounds);

// Everything that keeps this from being a consistent cut of guests 0 … guests - 1, each in words that name the guest
// and the socket; empty = consistent.
std::vector<std::string> cut_problems(const std::vector<wire::GuestCut>& cuts, std::uint32_t guests);

// Where the figures found after a restore differ from those the checkpoint recorded; empty = the same links.
std::vector<std::string> cut_differences(const std::vector<wire::GuestCut>& recorded,
                                         const std::vector<wire::GuestCut>& found);

// The first few, joined for a message: "a; b; c and 4 more".
std::string summary(const std::vector<std::string>& problems, std::size_t most = 3);

}  // namespace stillpoint::coordinator
