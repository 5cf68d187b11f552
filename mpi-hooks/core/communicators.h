// What the rank's communicators are called and how many processes are in each, for people.
//
// The helper thread may not ask MPI: below MPI_THREAD_MULTIPLE it may be in MPI only while no other thread is, and the
// rank worth a question is the one that sits in a call. Nor may it follow a handle, which the program may be freeing.
// So the program's own threads write it down here, inside the calls that make, name and free communicators (they may
// ask MPI there), and the helper looks a handle up by its value. Those calls are collective and slow, so a lock does
// no harm; the calls of the fast path store the handle in their Thread and do not come here. A bounded table: in a
// program that has more communicators at once than it holds, the later ones are shown without a name.
#pragma once

#include <pthread.h>

#include <cstddef>
#include <cstdint>

namespace stillpoint::hooks {

struct CommunicatorNote {
  std::uint32_t peers = 0;  // processes in it; of an intercommunicator the remote ones
  char name[40] = {};       // cut short, zero-terminated
};

// Any thread.
class Communicators {
 public:
  static constexpr std::size_t kMost = 512;

  constexpr Communicators() noexcept = default;
  Communicators(const Communicators&) = delete;
  Communicators& operator=(const Communicators&) = delete;

  // New, or known under another name until now. A null handle is no communicator.
  void remember(const void* handle, std::uint32_t peers, const char* name) noexcept;
  void forget(const void* handle) noexcept;
  bool find(const void* handle, CommunicatorNote& note) noexcept;
  // In a forked child: another thread may have held the lock.
  void forget_after_fork() noexcept { lock_ = PTHREAD_MUTEX_INITIALIZER; }

 private:
  std::size_t index_of(const void* handle) const noexcept;  // used_ when it is not there

  pthread_mutex_t lock_ = PTHREAD_MUTEX_INITIALIZER;
  std::size_t used_ = 0;
  const void* handles_[kMost] = {};  // apart from the notes: the search touches little memory
  CommunicatorNote notes_[kMost] = {};
};

}  // namespace stillpoint::hooks
