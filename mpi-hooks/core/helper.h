// The helper thread of a rank: answers the agent, shuts and opens the gate, and drives MPI's progress while the rank's
// own threads cannot ("pumping"), so that what is on its way to this rank arrives.
//
// One Helper per process, started at the entry into MPI_Init when an agent answers, never ended: it goes with the
// process. start, initialized, keep_out, finalizing, finalized, peer_failed and forget_after_fork are for the program's
// threads; the rest runs on the helper thread. It blocks all signals, sleeps in poll() unless it pumps, looks once a
// second at what the program's threads do, and allocates nothing.
//
// When the helper may pump: MPI is initialised and not being finalised, the gate is shut, and either the program asked
// for MPI_THREAD_MULTIPLE or no thread of it is inside MPI (one inside a blocking call drives progress itself). At the
// level SERIALIZED a shut gate with nobody inside means that the helper is the only thread in MPI. Never while a
// partitioned send has parts that are not ready (partitioned_sends.h).
//
// When the agent is lost while the gate is shut, the gate is opened at once and the helper looks for an agent once a
// second. That is safe: an agent that comes back knows nothing of the epoch, so no checkpoint can come of it, and a
// rank must not hang because of it. Ranks that were frozen stay frozen; that is the cgroup's business, not the gate's.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstdint>

#include "mpi-hooks/core/communicators.h"
#include "mpi-hooks/core/gate.h"
#include "mpi-hooks/core/partitioned_sends.h"
#include "mpi-hooks/core/rank_link.h"

namespace stillpoint::hooks {

class Helper {
 public:
  using Progress = void (*)() noexcept;  // one turn of MPI's progress engine

  constexpr Helper(Gate& gate, Communicators& communicators, const PartitionedSends& partitioned) noexcept
      : gate_(gate), communicators_(communicators), partitioned_(partitioned) {}
  Helper(const Helper&) = delete;
  Helper& operator=(const Helper&) = delete;

  // Connects to the agent and starts the thread. False: nobody listens at `socket_path` (which must outlive the
  // helper), and the library had better keep out of the program's way. Once it is true it stays true. Any thread, and
  // several at once.
  bool start(const char* socket_path) noexcept;
  bool started() const noexcept { return started_.load(std::memory_order_acquire); }

  // What MPI_Init, or the first session's, came to. progress null: never pump (the thread level does not allow it).
  struct World {
    int rank = -1, size = 0;
    bool multiple = false;       // the program asked for MPI_THREAD_MULTIPLE
    bool spawned = false;        // by MPI_Comm_spawn
    const char* transport = "";  // name of the point-to-point layer; a constant
    Progress progress = nullptr;
  };
  // It has finished. Again after finalizing() where a program begins a session after its last one ended.
  void initialized(const World& world) noexcept;
  // For a call that goes into MPI without parking (MPI_Init, MPI_Session_init), when it has been announced: MPI may be
  // up already, and the helper pumping. On return the helper is out of MPI; it stays out until the call is left.
  void keep_out() noexcept;
  // MPI_Finalize was entered. On return the helper is out of MPI and will not enter it again.
  void finalizing() noexcept;
  // And is over.
  void finalized() noexcept;
  // ULFM reported a failed process (-1: unknown which). The caller parks.
  void peer_failed(int rank) noexcept;
  // The same of one that was ended by a signal, as mpirun's daemons tell. Any thread: it does not park.
  void peer_killed(int rank) noexcept;
  // This process ends itself before MPI_Finalize. Returns when the agent has been told, or after a second.
  void own_end(int exit_code) noexcept;
  // --- for stillpoint.h: threads of the program ---

  // A wish of the program's for the agent to pass on.
  void wish(RankWish kind) noexcept;
  // A critical section begins: from the return on no checkpoint is taken before its end, or its deadline. Waits for one
  // that is under way to be over. Sections of several threads overlap; the last deadline counts.
  void forbid(Thread& thread, const Call& call, std::int64_t for_ns) noexcept;
  // The same on a thread that is inside an MPI call, and so cannot wait: a checkpoint may be under way at the return.
  void forbid_from_inside(std::int64_t for_ns) noexcept;
  void allow() noexcept;
  // A checkpoint was put off because of a critical section, and none has been taken since.
  bool wanted() const noexcept { return wanted_.load(std::memory_order_relaxed); }
  // Called on the helper thread, which is none of the program's and may not call MPI: before this rank's gate shuts,
  // and after it has opened again, or, in a restored process, `restarted` instead of `after`.
  struct Callbacks {
    void (*before)(void*);
    void (*after)(void*);
    void (*restarted)(void*);
    void* context;
  };
  static constexpr std::uint32_t kMostCallbacks = 16;
  // False: there are as many already. Callers see to it that one thread at a time is in here.
  bool add_callbacks(const Callbacks& callbacks) noexcept;
  std::uint64_t epoch() const noexcept { return stood_for_.load(std::memory_order_relaxed); }
  std::uint32_t restarts() const noexcept { return restarts_.load(std::memory_order_relaxed); }

  // In a forked child: no thread, no connection; the library is inert there.
  void forget_after_fork() noexcept;

  // Ends the thread; for tests, which have more than one helper in a process.
  void stop() noexcept;

 private:
  enum class Phase : std::uint32_t { starting, running, finalizing, finalized };

  static void* thread_main(void* self) noexcept;
  void run() noexcept;
  bool connect_agent() noexcept;
  void lose_agent() noexcept;
  void greet() noexcept;
  void read_mail() noexcept;
  void handle(const RankPacket& request) noexcept;
  void tell_news() noexcept;
  std::int64_t forbidden_until_us() const noexcept;  // 0: it is not
  bool forbidden() const noexcept { return forbidden_until_us() != 0; }
  void try_to_shut() noexcept;
  void opened(std::uint32_t incarnation) noexcept;
  void call_back(void (*Callbacks::*which)(void*)) noexcept;
  bool pump(int turns) noexcept;
  bool pumping_allowed() noexcept;
  int rest_ms() noexcept;
  void wait() noexcept;
  RankPacket figures(RankMessage message) noexcept;
  void send(RankMessage message) noexcept;
  void send(const RankPacket& packet) noexcept;
  void ring() noexcept;

  Gate& gate_;
  Communicators& communicators_;
  const PartitionedSends& partitioned_;
  const char* socket_path_ = nullptr;
  pthread_t thread_{};
  int bell_ = -1;
  std::atomic<int> agent_{-1};  // changed by the helper thread; a forked child closes it
  std::atomic<bool> started_{false};
  std::atomic<bool> stopping_{false};

  // Written by a program thread before it sets `phase_` to running (release), read by the helper when it has seen that
  // (acquire). world_ only the first time: later the helper may be reading, so what a later session may change stands
  // beside it, relaxed. pump() looks at them again when the program can change nothing (below).
  World world_;
  std::atomic<bool> multiple_{false};
  std::atomic<Progress> progress_{nullptr};
  std::atomic<Phase> phase_{Phase::starting};

  // keep_out() against pump(). A program thread stores what keeps the helper out (`phase_`, or the `call` of its
  // record) and then changes in_mpi_ by nothing; pump() sets in_mpi_ and then looks at all that again. Both are
  // read-modify-writes (acq_rel), so one comes first: if the thread's, pump() sees what it stored, and keeps out; if
  // pump()'s, the thread sees it and waits for the 0 that is released when pump() is out. Hence, too, nothing of this
  // changes while the helper is in MPI.
  std::atomic<std::uint32_t> in_mpi_{0};  // 0 or 1; also what keep_out() sleeps on

  // Critical sections under way: their number, and above it their deadline. One word, so that the end of one section
  // cannot wipe the deadline of the next.
  //
  // forbid() against try_to_shut(): forbid counts itself, then passes the gate; the helper shuts the gate, then looks
  // at the count. The gate orders the two as it orders calls (gate.h), so relaxed will do here: either the helper sees
  // the count and opens again, or forbid sees the shut gate and parks until the checkpoint is over.
  static constexpr unsigned kForbidsBits = 16;
  static constexpr std::uint64_t kMostForbids = (std::uint64_t{1} << kForbidsBits) - 1;
  std::atomic<std::uint64_t> forbids_{0};  // deadline in µs of CLOCK_MONOTONIC << kForbidsBits | number

  // Words that stand for themselves: nothing else is read because of them.
  std::atomic<std::uint32_t> wishes_{0};  // a bit per RankWish
  std::atomic<bool> wanted_{false};
  std::atomic<std::uint64_t> stood_for_{0};
  std::atomic<std::uint32_t> restarts_{0};
  Callbacks callbacks_[kMostCallbacks] = {};
  std::atomic<std::uint32_t> callbacks_used_{0};  // released after the entry was written

  static constexpr int kNoFailure = -2;
  std::atomic<int> failed_rank_{kNoFailure};
  std::atomic<int> killed_rank_{kNoFailure};
  static constexpr int kNoEnd = -1;
  std::atomic<int> exit_code_{kNoEnd};
  std::atomic<std::uint32_t> told_end_{0};  // 0 or 1; what own_end() sleeps on

  pthread_mutex_t start_lock_ = PTHREAD_MUTEX_INITIALIZER;

  // The helper thread's own.
  std::uint64_t epoch_ = 0;   // of the hold
  bool owes_closed_ = false;  // closed is due, perhaps after a deferring
  bool said_deferring_ = false;
  bool called_before_ = false;     // and so `after` or `restarted` has to follow
  std::uint32_t incarnation_ = 0;  // of the job, as the agent said
  bool said_ready_ = false, said_finalizing_ = false, said_finalized_ = false, said_failed_ = false,
       said_killed_ = false;
};

}  // namespace stillpoint::hooks
