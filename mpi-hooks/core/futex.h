// Sleeping on a word of this process. Spurious wake-ups and signals are the caller's to expect.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstdint>

namespace stillpoint::hooks {

static_assert(sizeof(std::atomic<std::uint32_t>) == sizeof(std::uint32_t));

inline void futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t while_equal) noexcept {
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, while_equal, nullptr, nullptr, 0);
}
inline void futex_wait_for(std::atomic<std::uint32_t>& word, std::uint32_t while_equal, int ms) noexcept {
  const timespec limit{ms / 1000, ms % 1000 * 1'000'000L};
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, while_equal, &limit, nullptr, 0);
}
inline void futex_wake_all(std::atomic<std::uint32_t>& word) noexcept {
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

}  // namespace stillpoint::hooks
