#include "mpi-hooks/core/partitioned_sends.h"

#include <stdlib.h>

#include "mpi-hooks/core/locked.h"

namespace stillpoint::hooks {

PartitionedSends::Send* PartitionedSends::find(const void* request) noexcept {
  const std::size_t used = used_.load(std::memory_order_relaxed);
  for (std::size_t i = 0; i < used; i++)
    if (sends_[i].request == request) return &sends_[i];
  return nullptr;
}

void PartitionedSends::set_unready(Send& send, std::uint32_t unready) noexcept {
  unready_.fetch_add(std::uint64_t{unready} - send.unready, std::memory_order_relaxed);  // modulo 2^64: also down
  send.unready = unready;
}

bool PartitionedSends::made(const void* request, std::uint32_t parts) noexcept {
  Locked locked(lock_);
  const std::size_t used = used_.load(std::memory_order_relaxed);
  if (used == room_) {
    const std::size_t room = room_ == 0 ? 16 : 2 * room_;
    auto* const sends = static_cast<Send*>(realloc(sends_, room * sizeof(Send)));
    if (sends == nullptr) return false;
    sends_ = sends;
    room_ = room;
  }
  sends_[used] = {request, parts, 0};
  used_.store(used + 1, std::memory_order_relaxed);
  return true;
}

void PartitionedSends::started(const void* request) noexcept {
  if (used_.load(std::memory_order_relaxed) == 0) return;
  Locked locked(lock_);
  if (Send* send = find(request)) set_unready(*send, send->parts);
}

void PartitionedSends::not_started(const void* request) noexcept {
  if (used_.load(std::memory_order_relaxed) == 0) return;
  Locked locked(lock_);
  if (Send* send = find(request)) set_unready(*send, 0);
}

void PartitionedSends::ready(const void* request, std::uint32_t parts) noexcept {
  Locked locked(lock_);
  if (Send* send = find(request)) set_unready(*send, parts < send->unready ? send->unready - parts : 0);
}

void PartitionedSends::forget(const void* request) noexcept {
  if (used_.load(std::memory_order_relaxed) == 0) return;
  Locked locked(lock_);
  Send* send = find(request);
  if (send == nullptr) return;
  set_unready(*send, 0);
  const std::size_t last = used_.load(std::memory_order_relaxed) - 1;
  *send = sends_[last];
  used_.store(last, std::memory_order_relaxed);
}

}  // namespace stillpoint::hooks
