#include "coordinator/core/rank_words.h"

#include <fmt/format.h>

namespace stillpoint::coordinator {

std::string rank_words(const wire::RankReport& rank) {
  std::string text = fmt::format("{}rank {} ", rank.spawned() ? "spawned " : "", rank.rank());
  switch (rank.state()) {
    case wire::RankReport::STARTING: text += "has not finished MPI_Init"; break;
    case wire::RankReport::COMPUTING: text += "is outside MPI"; break;
    case wire::RankReport::IN_CALL:
    case wire::RankReport::DEFERRING: text += "is in " + (rank.call().empty() ? "MPI" : rank.call()); break;
    case wire::RankReport::GATED:
      text += "waits before " + (rank.call().empty() ? "its next call" : rank.call());
      break;
    case wire::RankReport::FINALIZED: text += "is through MPI_Finalize"; break;
    case wire::RankReport::FAILED: text += "has failed"; break;
    case wire::RankReport::STOPPED:
      text += fmt::format("is stopped by a signal: continue its process {} of guest {}", rank.pid(), rank.guest());
      break;
    default: text += "does not answer"; break;
  }
  if (!rank.communicator().empty()) text += fmt::format(" on {} ({} processes)", rank.communicator(), rank.peers());
  text += fmt::format(" for {:.1f} s", static_cast<double>(rank.since_ms()) / 1000);
  if (rank.in_flight() != 0) text += fmt::format(", {} bytes in flight", rank.in_flight());
  return text;
}

bool is_restless(const wire::RankReport& rank) {
  if (rank.in_flight() != 0) return true;
  switch (rank.state()) {
    case wire::RankReport::COMPUTING:
    case wire::RankReport::GATED:
    case wire::RankReport::FINALIZED: return false;
    default: return true;
  }
}

}  // namespace stillpoint::coordinator
