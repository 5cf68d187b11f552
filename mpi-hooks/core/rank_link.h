// The link between a rank's hook library and its guest's agent: an AF_UNIX SOCK_SEQPACKET socket, one fixed message
// per packet, little-endian as the guest's CPU. Both ends come from the same build and the same guest image; the
// version is checked all the same, because a user may bring an image of an older build.
//
// Included by the hook library (no C++ library behind it) and by the agent: plain data only.
#pragma once

#include <cstdint>

namespace stillpoint::hooks {

inline constexpr char kAgentSocket[] = "/run/stillpoint/agent.sock";
inline constexpr std::uint32_t kRankLinkVersion = 4;
inline constexpr std::uint32_t kUnknownRank = 0xffffffff;  // in peer_failed and peer_killed

enum class RankMessage : std::uint32_t {
  // rank → agent
  hello = 1,        // first; `rank` and `value` = world size are set once MPI_Init has finished
  ready = 2,        // MPI_Init has finished: rank, value = world size
  closed = 3,       // answer to close: no new MPI call starts from here on. state and call say where the rank is
  figures = 4,      // answer to count and query
  opened = 5,       // answer to open
  finalizing = 6,   // MPI_Finalize was entered: a process that ends from here on has ended properly
  peer_failed = 7,  // ULFM reported a failed process: value = its rank (all ones: unknown); the reporting rank parks
  deferring = 8,    // answer to close while a call that must finish first (DEFER) is under way; closed follows
  finalized = 9,    // MPI_Finalize is over: this rank needs no gate any more
  wish = 10,        // of the program (stillpoint.h): value is a RankWish
  peer_killed =
      11,  // a process of the job was ended by a signal: value as in peer_failed; this rank begins no call any more
  own_end = 12,  // this process ends itself before MPI_Finalize, by MPI_Abort or exit: value is the exit code
  // agent → rank; value is the job's incarnation, 0 where the agent does not know it
  close = 32,
  count = 33,
  open = 34,
  query = 35,    // as count, outside a checkpoint
  welcome = 36,  // first
};

enum class RankWish : std::uint32_t { checkpoint = 0, good_moment = 1 };

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
  char communicator[40] = {};  // name of the one that the call was given, cut short; empty: none, or not known
  std::uint32_t peers = 0;     // processes in it; of an intercommunicator the remote ones
  std::uint32_t spawned = 0;   // this process was started by MPI_Comm_spawn: `rank` is one of another MPI_COMM_WORLD
  char transport[16] = {};     // ready: the point-to-point layer that libmpi chose, "ob1"; empty: not known
};
static_assert(sizeof(RankPacket) == 152);

}  // namespace stillpoint::hooks
