#include "mpi-hooks/core/communicators.h"

#include <string.h>

namespace stillpoint::hooks {
namespace {

class Locked {
 public:
  explicit Locked(pthread_mutex_t& mutex) noexcept : mutex_(mutex) { pthread_mutex_lock(&mutex_); }
  ~Locked() { pthread_mutex_unlock(&mutex_); }
  Locked(const Locked&) = delete;
  Locked& operator=(const Locked&) = delete;

 private:
  pthread_mutex_t& mutex_;
};

}  // namespace

std::size_t Communicators::index_of(const void* handle) const noexcept {
  std::size_t i = 0;
  while (i < used_ && handles_[i] != handle) i++;
  return i;
}

void Communicators::remember(const void* handle, std::uint32_t peers, const char* name) noexcept {
  if (handle == nullptr) return;
  Locked locked(lock_);
  const std::size_t at = index_of(handle);
  if (at == kMost) return;
  if (at == used_) used_++;
  handles_[at] = handle;
  notes_[at] = CommunicatorNote{};
  notes_[at].peers = peers;
  strncpy(notes_[at].name, name, sizeof notes_[at].name - 1);
}

void Communicators::forget(const void* handle) noexcept {
  Locked locked(lock_);
  const std::size_t at = index_of(handle);
  if (at == used_) return;
  used_--;
  handles_[at] = handles_[used_];
  notes_[at] = notes_[used_];
}

bool Communicators::find(const void* handle, CommunicatorNote& note) noexcept {
  if (handle == nullptr) return false;
  Locked locked(lock_);
  const std::size_t at = index_of(handle);
  if (at == used_) return false;
  note = notes_[at];
  return true;
}

}  // namespace stillpoint::hooks
