#include "mpi-hooks/core/gate.h"

#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "mpi-hooks/core/futex.h"
#include "mpi-hooks/core/locked.h"

namespace stillpoint::hooks {
namespace {

long membarrier(int command) noexcept { return syscall(SYS_membarrier, command, 0, 0); }

}  // namespace

// A thread that joins after a closer's survey took the lock after it, and so sees the gate shut.
void Gate::join(Thread& thread) noexcept {
  Locked locked(lock_);
  thread.call.store(nullptr, std::memory_order_relaxed);
  thread.joined = this;
  thread.previous = nullptr;
  thread.next = threads_;
  if (threads_ != nullptr) threads_->previous = &thread;
  threads_ = &thread;
}

void Gate::part(Thread& thread) noexcept {
  Locked locked(lock_);
  if (thread.joined != this) return;
  if (thread.previous != nullptr) thread.previous->next = thread.next;
  else threads_ = thread.next;
  if (thread.next != nullptr) thread.next->previous = thread.previous;
  parted_calls_ += thread.calls.exchange(0, std::memory_order_relaxed);
  thread.joined = nullptr;
  thread.call.store(&kStranger, std::memory_order_relaxed);
}

void Gate::wait_at_gate(Thread& thread, const Call& call) noexcept {
  for (;;) {
    if ((word_.load(std::memory_order_relaxed) & kCareful) != 0) order();
    const std::uint32_t seen = word_.load(std::memory_order_acquire);
    if ((seen & (kShut | kFailed)) == 0) break;
    thread.parked.store(&call, std::memory_order_relaxed);
    thread.call.store(nullptr, std::memory_order_release);
    ring();  // the closer may have seen `call` for a moment and wait for it to go
    futex_wait(word_, seen);
    // Announce again before looking again: the gate may have opened and shut meanwhile.
    thread.call.store(&call, std::memory_order_relaxed);
    std::atomic_signal_fence(std::memory_order_seq_cst);
  }
  thread.parked.store(nullptr, std::memory_order_relaxed);
}

void Gate::leave_slow() noexcept {
  if ((word_.load(std::memory_order_relaxed) & kCareful) != 0) order();
  if ((word_.load(std::memory_order_relaxed) & kShut) != 0) ring();
}

void Gate::ring() noexcept {
  const int bell = bell_.load(std::memory_order_relaxed);
  const std::uint64_t one = 1;
  // Fails only when the counter is full: then it has been rung already.
  if (bell >= 0) [[maybe_unused]]
    const auto written = write(bell, &one, sizeof one);
}

void Gate::forget_after_fork(Thread& survivor) noexcept {
  lock_ = PTHREAD_MUTEX_INITIALIZER;
  word_.store(0, std::memory_order_relaxed);
  bell_.store(-1, std::memory_order_relaxed);
  threads_ = nullptr;
  if (survivor.joined != this) return;
  survivor.next = survivor.previous = nullptr;
  threads_ = &survivor;
}

void Gate::prepare(int bell, bool careful) noexcept {
  bell_.store(bell, std::memory_order_relaxed);
  if (careful || membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) != 0)
    word_.fetch_or(kCareful, std::memory_order_seq_cst);
}

void Gate::shut() noexcept {
  const std::uint32_t before = word_.fetch_or(kShut, std::memory_order_seq_cst);
  if ((before & kCareful) != 0) order();
  else membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED);
}

void Gate::open() noexcept {
  word_.fetch_and(~kShut, std::memory_order_release);
  futex_wake_all(word_);
}

// Notes what the thread does now; a change is dated with this look.
const Call* Gate::look_at(Thread& thread, std::int64_t now_ns) noexcept {
  const Call* call = thread.call.load(std::memory_order_acquire);
  const Call* shown = call != nullptr ? call : thread.parked.load(std::memory_order_relaxed);
  const std::uint64_t calls = thread.calls.load(std::memory_order_relaxed);
  if (now_ns != 0 && (thread.seen_ns == 0 || thread.seen_call != shown || thread.seen_calls != calls)) {
    thread.seen_call = shown;
    thread.seen_calls = calls;
    thread.seen_ns = now_ns;
  }
  return call;
}

Survey Gate::survey(std::int64_t now_ns) noexcept {
  Survey all;
  int telling = 0;  // how much `shown` says
  const auto show = [&](const Thread& thread, const Call* call, int weight) {
    if (weight <= telling) return;
    telling = weight;
    all.shown = call;
    all.communicator = thread.communicator.load(std::memory_order_relaxed);
    all.since_ns = thread.seen_ns;
  };
  Locked locked(lock_);
  all.calls = parted_calls_;
  for (Thread* thread = threads_; thread != nullptr; thread = thread->next) {
    all.threads++;
    all.calls += thread->calls.load(std::memory_order_relaxed);
    if (const Call* call = look_at(*thread, now_ns)) {
      switch (call->kind) {
        case CallKind::gate: all.in_gate++, show(*thread, call, 3); break;
        case CallKind::blocking: all.in_blocking++, show(*thread, call, 2); break;
        case CallKind::defer: all.in_defer++, show(*thread, call, 4); break;
      }
    } else if (const Call* waiting = thread->parked.load(std::memory_order_relaxed)) {
      all.parked++, show(*thread, waiting, 1);
    } else if (telling == 0 && thread->seen_ns > all.since_ns) {
      all.since_ns = thread->seen_ns;
    }
  }
  return all;
}

}  // namespace stillpoint::hooks
