// The helper thread of a rank: answers the agent, shuts and opens the gate, and drives MPI's progress while the rank's
// own threads cannot ("pumping"), so that what is on its way to this rank arrives.
//
// One Helper per process, started at the entry into MPI_Init when an agent answers, never ended: it goes with the
// process. start, initialized, finalizing, peer_failed and forget_after_fork are for the program's threads; the rest
// runs on the helper thread. It blocks all signals, sleeps in poll() unless it pumps, and allocates nothing.
//
// When the helper may pump: MPI is initialised and not being finalised, the gate is shut, and either the program asked
// for MPI_THREAD_MULTIPLE or no thread of it is inside MPI (one inside a blocking call drives progress itself). At the
// level SERIALIZED a shut gate with nobody inside means that the helper is the only thread in MPI.
//
// When the agent is lost while the gate is shut, the gate is opened at once and the helper looks for an agent once a
// second. That is safe: an agent that comes back knows nothing of the epoch, so no checkpoint can come of it, and a
// rank must not hang because of it. Ranks that were frozen stay frozen; that is the cgroup's business, not the gate's.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstdint>

#include "mpi-hooks/core/gate.h"
#include "mpi-hooks/core/rank_link.h"

namespace stillpoint::hooks {

class Helper {
 public:
  using Progress = void (*)() noexcept;  // one turn of MPI's progress engine

  constexpr explicit Helper(Gate& gate) noexcept : gate_(gate) {}
  Helper(const Helper&) = delete;
  Helper& operator=(const Helper&) = delete;

  // Connects to the agent and starts the thread. False: nobody listens at `socket_path` (which must outlive the
  // helper), and the library had better keep out of the program's way. Once it is true it stays true.
  bool start(const char* socket_path) noexcept;
  bool started() const noexcept { return started_.load(std::memory_order_acquire); }

  // MPI_Init, or the first session's, has finished. `progress` null: never pump (the thread level does not allow it).
  // Again after finalizing() where a program begins a session after its last one ended.
  void initialized(int rank, int size, bool multiple, Progress progress) noexcept;
  // MPI_Finalize was entered. On return the helper is out of MPI and will not enter it again.
  void finalizing() noexcept;
  // ULFM reported a failed process (-1: unknown which). The caller parks.
  void peer_failed(int rank) noexcept;
  // In a forked child: no thread, no connection; the library is inert there.
  void forget_after_fork() noexcept;

  // Ends the thread; for tests, which have more than one helper in a process.
  void stop() noexcept;

 private:
  enum class Phase : std::uint32_t { starting, running, finalized };

  static void* thread_main(void* self) noexcept;
  void run() noexcept;
  bool connect_agent() noexcept;
  void lose_agent() noexcept;
  void greet() noexcept;
  void read_mail() noexcept;
  void handle(const RankPacket& request) noexcept;
  void tell_news() noexcept;
  bool pump(int turns) noexcept;
  bool pumping_allowed(const Survey& survey) const noexcept;
  int rest_ms() noexcept;
  void wait() noexcept;
  RankPacket figures(RankMessage message) noexcept;
  void send(RankMessage message) noexcept;
  void send(const RankPacket& packet) noexcept;
  void ring() noexcept;

  Gate& gate_;
  const char* socket_path_ = nullptr;
  pthread_t thread_{};
  int bell_ = -1;
  std::atomic<int> agent_{-1};  // changed by the helper thread; a forked child closes it
  std::atomic<bool> started_{false};
  std::atomic<bool> stopping_{false};

  // Set once by a program thread before `phase_` becomes running (release), read by the helper after it (acquire).
  int rank_ = -1, size_ = 0;
  bool multiple_ = false;
  Progress progress_ = nullptr;

  // finalizing() against pump(): each stores its own word, then loads the other's, both seq_cst, so at least one sees
  // the other; pump() then keeps out, or finalizing() waits until it is out.
  std::atomic<Phase> phase_{Phase::starting};
  std::atomic<std::uint32_t> in_mpi_{0};

  static constexpr int kNoFailure = -2;
  std::atomic<int> failed_rank_{kNoFailure};

  // The helper thread's own.
  std::uint64_t epoch_ = 0;   // of the hold
  bool owes_closed_ = false;  // deferring was answered; closed is due
  bool said_ready_ = false, said_finalized_ = false, said_failed_ = false;
  RankState seen_state_{};  // what figures() reported last, and since when
  const Call* seen_call_ = nullptr;
  std::uint64_t seen_calls_ = 0;
  std::int64_t seen_since_ns_ = 0;
};

}  // namespace stillpoint::hooks
