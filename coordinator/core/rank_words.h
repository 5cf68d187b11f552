// What a rank was doing, in words for the user. Pure functions.
#pragma once

#include <string>

#include "gang.pb.h"

namespace stillpoint::coordinator {

// "rank 3 is in MPI_Allreduce on rows (4 processes) for 10.2 s, 65536 bytes in flight"
std::string rank_words(const wire::RankReport& rank);
// Worth naming when a gang does not come to rest: neither parked nor outside MPI nor finalized, or with bytes in
// flight.
bool is_restless(const wire::RankReport& rank);

}  // namespace stillpoint::coordinator
