#include "mpi-hooks/core/communicators.h"

#include <string.h>

#include "mpi-hooks/core/locked.h"

namespace stillpoint::hooks {

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
