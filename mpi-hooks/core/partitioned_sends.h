// How many parts of partitioned sends the program has started and not made ready yet. While there are any, the helper
// must not turn MPI's progress engine: Open MPI 5.0's part/persist takes a part that is started and not ready for one
// that has been sent, and from then on the send completes too early or never (docs/quiesce.md).
//
// The wrappers of the program's threads call made, started, ready and forget; the helper asks any_unready. A request is
// known by the value of its handle, which is never followed. Memory for the table is taken on the program's threads.
//
// Memory order. The threads count inside their call, between enter and leave of the gate. The helper asks after a
// survey that showed no thread in a short call (gate.h): it has acquired what their leave() released, and as long as
// the gate is shut nothing is added. Hence relaxed.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace stillpoint::hooks {

class PartitionedSends {
 public:
  constexpr PartitionedSends() noexcept = default;
  PartitionedSends(const PartitionedSends&) = delete;
  PartitionedSends& operator=(const PartitionedSends&) = delete;

  // False: no memory for one more.
  bool made(const void* request, std::uint32_t parts) noexcept;
  // These do nothing for a request that is no partitioned send.
  void started(const void* request) noexcept;
  void not_started(const void* request) noexcept;  // MPI refused
  void ready(const void* request, std::uint32_t parts) noexcept;
  void forget(const void* request) noexcept;
  bool any() const noexcept { return used_.load(std::memory_order_relaxed) != 0; }
  bool any_unready() const noexcept { return unready_.load(std::memory_order_relaxed) != 0; }
  // In a forked child: another thread may have held the lock.
  void forget_after_fork() noexcept { lock_ = PTHREAD_MUTEX_INITIALIZER; }

 private:
  struct Send {
    const void* request;
    std::uint32_t parts, unready;
  };
  Send* find(const void* request) noexcept;  // null when it is not there
  void set_unready(Send& send, std::uint32_t unready) noexcept;

  pthread_mutex_t lock_ = PTHREAD_MUTEX_INITIALIZER;
  Send* sends_ = nullptr;
  std::size_t room_ = 0;
  std::atomic<std::size_t> used_{0};  // so that a program without such sends takes no lock
  std::atomic<std::uint64_t> unready_{0};
};

}  // namespace stillpoint::hooks
