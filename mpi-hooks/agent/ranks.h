// The ranks of this guest, as their hook libraries report themselves over AF_UNIX (mpi-hooks/core/rank_link.h).
// Never blocks. One owner.
#pragma once

#include <poll.h>
#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/fd.h"
#include "guest.pb.h"
#include "mpi-hooks/agent/outcome.h"
#include "mpi-hooks/agent/proc.h"
#include "mpi-hooks/core/rank_link.h"

namespace stillpoint::agent {

class Ranks {
 public:
  // A hook reports a failed peer; or its own connection ended, before it came to MPI_Finalize.
  struct Failure {
    std::uint32_t rank;  // of it; hooks::kUnknownRank
    bool killed;         // by a signal; otherwise it may have ended by itself, and the job with it
    std::string words;
    std::optional<int> exit_code = {};  // it ended itself, by MPI_Abort or exit
    pid_t pid = 0;  // of this guest, where the agent itself noticed: it may live and only have lost its connection
  };
  using PeerFailed = std::function<void(Failure)>;
  using Wished = std::function<void(std::uint32_t, hooks::RankWish)>;  // (rank, what)
  explicit Ranks(PeerFailed peer_failed, Wished wished = nullptr)
      : peer_failed_(std::move(peer_failed)), wished_(std::move(wished)) {}

  Done listen(const std::string& path);

  void wait_for(std::vector<pollfd>& polls) const;
  void handle(const std::vector<pollfd>& polls);

  // The job's, told to the ranks with every message: they see that they were restored.
  void set_incarnation(std::uint64_t incarnation) { incarnation_ = static_cast<std::uint32_t>(incarnation); }
  // Shuts all gates for epoch, also of the processes that come later, until open_gates.
  void close_gates(std::uint64_t epoch);
  void open_gates();
  // Asks all for figures. A rank that still owes an answer is not asked again: its answer will serve.
  void ask(hooks::RankMessage question, std::uint64_t epoch);

  // Ranks whose gate is shut, or that are through MPI_Finalize and need none. Spawned processes do not count.
  std::uint32_t at_rest() const;
  // As many as expected, and none beside them that is not: a program may spawn more ranks than it was started with.
  bool all_at_rest(std::uint32_t expected) const;
  // Some process is inside a call that must finish first, or has not come to MPI_Init yet.
  bool deferring(std::uint32_t expected) const;
  // No rank owes an answer to ask().
  bool all_answered() const;
  bool busy() const;
  std::uint64_t calls() const;
  // In words, why not all_at_rest(): "rank 3 is inside MPI_Comm_spawn on MPI_COMM_WORLD (4 processes) for 1.2 s, …".
  std::string not_at_rest(std::uint32_t expected) const;
  std::vector<wire::RankReport> reports(std::uint32_t guest) const;
  // The processes that speak with the agent.
  struct Linked {
    pid_t pid;
    std::string words;      // "rank 3", "spawned rank 0", "process 123"
    std::string transport;  // of libmpi; empty: not known
  };
  std::vector<Linked> linked() const;

 private:
  struct Connection {
    Fd fd;
    pid_t pid = 0;
    hooks::RankPacket last;
    bool ready = false;    // MPI_Init has finished
    bool closed = false;   // its gate is shut for epoch_
    bool defers = false;   // answered this close with deferring
    bool opening = false;  // was told to open, and what it says of before does not count
    bool finalizing = false;
    bool finalized = false;
    bool owes = false;  // an answer to ask()
  };

  void accept_all();
  static bool is_at_rest(const Connection& rank) { return rank.finalized || (rank.ready && rank.closed); }
  std::string words(const Connection& rank) const;
  Failure failure_of(const Connection& rank) const;
  std::string restless_words(const Connection& rank) const;
  bool receive(Connection& rank);  // false: it is gone
  void take(Connection& rank, const hooks::RankPacket& packet);
  void send(Connection& rank, hooks::RankMessage message, std::uint64_t epoch);

  PeerFailed peer_failed_;
  Wished wished_;
  std::uint32_t incarnation_ = 0;
  Proc proc_;
  Fd listener_;
  std::vector<std::unique_ptr<Connection>> connections_;
  std::uint64_t closing_epoch_ = 0;  // 0: gates are open
  std::uint32_t finalized_and_gone_ = 0;
  std::vector<Failure> failures_;    // of this turn, to be told
  std::vector<std::uint32_t> lost_;  // ranks that were gone without MPI_Finalize
};

}  // namespace stillpoint::agent
