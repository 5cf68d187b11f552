// The gate of one rank: where its threads stop before they begin another MPI call while a checkpoint is being taken.
//
// The library owns one Gate and one Thread record per thread of the program. Threads of the program use enter, leave,
// announce and join; everything else belongs to the helper thread. Knows nothing of MPI: it is tested without mpi.h.
//
// Memory order. A program thread stores `call` and then loads `word`; the closer stores `word` and then loads every
// `call`. One of them must see the other's store, or a call starts behind a shut gate. That needs a full barrier
// between store and load on both sides; the thread's side would pay for it in every MPI call. So the closer pays for
// both: membarrier(PRIVATE_EXPEDITED) runs a full barrier on every CPU that runs a thread of this process, between
// the closer's store and its loads. A thread whose store of `call` came before that barrier is seen by the closer; one
// whose store came after it loads `word` after it too, and sees the gate shut. The signal fences only keep the
// compiler from swapping the two accesses. Where membarrier is refused (seccomp), the gate stays in `careful` mode:
// a bit that is always set sends every call down the slow path, where both sides order themselves by a
// read-modify-write of the same variable (`order`).
//
// A thread that comes out makes the same two steps, storing null and then loading `word`, for the same reason: either
// the closer sees that it is out, or it sees the shut gate and rings. One that parks rings always.
//
// The data behind the gate is libmpi's: leave() stores `call` with release, parking does so again, and the closer loads
// it with acquire, so the helper sees everything that the thread did in MPI; open() stores `word` with release and
// enter() loads it with acquire, so the thread sees everything that the helper did there. No wake-up is lost: open()
// stores `word` before it wakes, and a thread sleeps only on the value by which it decided to.
//
// All of this is tried: explore/ runs the gate in all orders, within bounds, with what memory may do in them
// (explore/memory.h), and explore/mutations.py takes each of these steps away and sees the test fail.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstdint>

namespace stillpoint::hooks {

enum class CallKind : std::uint8_t {
  gate,      // short and local: over in a moment
  blocking,  // may wait for another rank; a checkpoint may find a thread asleep in it
  defer,     // must be over before a checkpoint
};

// One function of MPI: a constant in the library. `symbol` is the name to forward to, "PMPI_Send".
struct Call {
  const char* symbol;
  CallKind kind;
  constexpr const char* name() const noexcept { return symbol + 1; }
};

class Gate;
// What `call` of a thread shows that has not been in MPI yet: anything but null, so that joining costs nothing later.
inline constexpr Call kStranger{"-not joined", CallKind::gate};

// One thread of the program. Written by that thread alone, except the list's links, which the gate's lock covers.
struct alignas(64) Thread {
  // The outermost MPI call that the thread is in, null outside MPI. Calls that libmpi, ROMIO or a callback make inside
  // a call find it set and go straight on: what is inside finishes.
  std::atomic<const Call*> call{&kStranger};
  std::atomic<const Call*> parked{nullptr};  // the call that waits at the gate
  std::atomic<std::uint64_t> calls{0};       // outermost calls begun; relaxed: read for figures only
  // The communicator that the call was given, null when none: a handle to compare, never to follow (communicators.h).
  // Relaxed and stored before `call`: for people, who may now and then be shown that of the call before.
  std::atomic<const void*> communicator{nullptr};
  Thread* next = nullptr;
  Thread* previous = nullptr;
  Gate* joined = nullptr;
  // The helper's notes of its last look: under the gate's lock.
  const Call* seen_call = nullptr;
  std::uint64_t seen_calls = 0;
  std::int64_t seen_ns = 0;  // since when at the latest it has been as it is
};

// What the threads of a rank are doing, at one look.
struct Survey {
  std::uint32_t threads = 0;
  std::uint32_t in_gate = 0, in_blocking = 0, in_defer = 0, parked = 0;
  std::uint64_t calls = 0;  // begun by all threads, those that have ended too
  // Of the most telling thread: deferring, else in a call, else parked, else the one that was last seen to change.
  const Call* shown = nullptr;
  const void* communicator = nullptr;
  std::int64_t since_ns = 0;
  bool inside() const noexcept { return in_gate + in_blocking + in_defer != 0; }
};

class Gate {
 public:
  constexpr Gate() noexcept = default;
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;

  // --- threads of the program ---

  // Takes a thread into the list, at its first MPI call (when call == &kStranger). Leaves call = null.
  void join(Thread& thread) noexcept;
  // A thread that ends leaves the list; what it counted stays.
  void part(Thread& thread) noexcept;

  // Before an outermost call; parks while the gate is shut.
  [[gnu::always_inline]] void enter(Thread& thread, const Call& call, const void* communicator = nullptr) noexcept {
    if (!try_enter(thread, call, communicator)) [[unlikely]]
      wait_at_gate(thread, call);
  }
  // Its two steps: false, and wait_at_gate has to follow.
  [[gnu::always_inline]] bool try_enter(Thread& thread, const Call& call, const void* communicator = nullptr) noexcept {
    announce(thread, call, communicator);
    return word_.load(std::memory_order_acquire) == 0;
  }
  void wait_at_gate(Thread& thread, const Call& call) noexcept;
  // After it. A closer that waits for this thread to come out is told.
  [[gnu::always_inline]] void leave(Thread& thread) noexcept {
    thread.call.store(nullptr, std::memory_order_release);
    std::atomic_signal_fence(std::memory_order_seq_cst);
    if (word_.load(std::memory_order_relaxed) != 0) [[unlikely]]
      leave_slow();
  }
  // As enter, but never parks: for MPI_Init, which ranks must not enter half and half.
  [[gnu::always_inline]] void announce(Thread& thread, const Call& call, const void* communicator = nullptr) noexcept {
    thread.communicator.store(communicator, std::memory_order_relaxed);
    thread.call.store(&call, std::memory_order_relaxed);
    thread.calls.store(thread.calls.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    std::atomic_signal_fence(std::memory_order_seq_cst);
  }
  // A peer has died: no thread of this rank begins another call, ever, whatever open() says.
  void lock_for_good() noexcept { word_.fetch_or(kFailed, std::memory_order_seq_cst); }
  bool is_locked_for_good() const noexcept { return (word_.load(std::memory_order_acquire) & kFailed) != 0; }
  // In a forked child, which is not the rank: no gate, no other threads.
  void forget_after_fork(Thread& survivor) noexcept;

  // --- the helper thread ---

  // Before the program's threads make calls that count, so before MPI is up. `bell` is an eventfd, rung when a thread
  // parks or comes out of a call while the gate is shut. With `careful` membarrier is not used (tests).
  void prepare(int bell, bool careful = false) noexcept;
  // From the return of shut() on, no thread begins a call, and survey() shows all that began before.
  void shut() noexcept;
  void open() noexcept;
  bool is_shut() const noexcept { return (word_.load(std::memory_order_relaxed) & kShut) != 0; }
  // now_ns: a monotonic clock, for since_ns. Nothing in the fast path takes the time, so since_ns is when the helper
  // first saw what it still sees: as exact as the helper looks often.
  Survey survey(std::int64_t now_ns = 0) noexcept;

 private:
  static constexpr std::uint32_t kShut = 1, kFailed = 2, kCareful = 4;
  void leave_slow() noexcept;
  void order() noexcept { order_.fetch_add(1, std::memory_order_acq_rel); }
  void ring() noexcept;
  const Call* look_at(Thread& thread, std::int64_t now_ns) noexcept;

  // 0 = go on; also what parked threads sleep on (futex). Bits are set and cleared by read-modify-writes, so nobody's
  // is lost: kShut by the helper, kFailed by any thread, kCareful by prepare().
  std::atomic<std::uint32_t> word_{0};
  // Changed by all who order themselves in `careful` mode; the value means nothing.
  std::atomic<std::uint32_t> order_{0};
  std::atomic<int> bell_{-1};  // relaxed: stored by prepare(), before the program's threads come here
  pthread_mutex_t lock_ = PTHREAD_MUTEX_INITIALIZER;  // the list; taken once per thread and by survey, never per call
  Thread* threads_ = nullptr;
  std::uint64_t parted_calls_ = 0;
};

}  // namespace stillpoint::hooks
