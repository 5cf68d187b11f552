// The link between a rank's hook library and its guest's agent: an AF_UNIX SOCK_SEQPACKET socket, one fixed message
// per packet, little-endian as the guest's CPU. Both ends come from the same build and the same guest image; the
// version is checked all the same, because a user may bring an image of an older build.
//
// Included by the hook library (no C++ library behind it) and by the agent: plain data only.
#pragma once

#include <cstdint>

namespace stillpoint::hooks {

inline constexpr char kAgentSocket[] = "/run/stillpoint/agent.sock";
inline constexpr std::uint32_t kRankLinkVersion = 1;

enum class RankMessage : std::uint32_t {
  // rank → agent
  hello = 1,        // first; `rank` and `value` = world size are set once MPI_Init has finished
  ready = 2,        // MPI_Init has finished: rank, value = world size
  closed = 3,       // answer to close: no new MPI call starts from here on. state and call say where the rank is
  figures = 4,      // answer to count and query
  opened = 5,       // answer to open
  finalized = 6,    // MPI_Finalize was entered: this rank needs no gate any more
  peer_failed = 7,  // ULFM reported a failed process: value = its rank (all ones: unknown); the reporting rank parks
  deferring = 8,    // answer to close while a call that must finish first (DEFER) is under way; closed follows
  // agent → rank
  close = 32,
  count = 33,
  open = 34,
  query = 35,  // as count, outside a checkpoint
};

enum class RankState : std::uint32_t {
  starting = 1,
  computing = 2,
  in_call = 3,
  gated = 4,
  finalized = 5,
  deferring = 7
};

struct RankPacket {
  std::uint32_t version = kRankLinkVersion;
  RankMessage message{};
  std::uint64_t epoch = 0;
  std::int32_t rank = -1;
  std::uint32_t value = 0;
  RankState state{};
  std::uint32_t busy = 0;      // a thread may still be between two calls of a round: not at rest
  std::uint64_t calls = 0;     // MPI calls begun
  std::uint64_t since_ns = 0;  // CLOCK_MONOTONIC of the entry into `state`
  char call[40] = {};          // name of the call, zero-terminated; empty outside MPI
};
static_assert(sizeof(RankPacket) == 88);

}  // namespace stillpoint::hooks
