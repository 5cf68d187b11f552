// The two clocks of a guest. CLOCK_MONOTONIC stands still while the machine is off or paused; all deadlines of the
// agent are on it, so neither a capture nor a stored image uses them up.
#pragma once

#include <cstdint>
#include <ctime>

namespace stillpoint::agent {

using Millis = std::int64_t;
inline constexpr Millis kNever = INT64_MAX;

inline std::int64_t clock_ns(clockid_t clock) {
  timespec t{};
  ::clock_gettime(clock, &t);
  return static_cast<std::int64_t>(t.tv_sec) * 1'000'000'000 + t.tv_nsec;
}
inline Millis monotonic_ms() { return clock_ns(CLOCK_MONOTONIC) / 1'000'000; }

// Only where it is off by more than the message may have taken: a running program's clock must not step back by
// milliseconds at each checkpoint.
inline void set_wall_clock(std::uint64_t ns) {
  const std::int64_t off = static_cast<std::int64_t>(ns) - clock_ns(CLOCK_REALTIME);
  if (off > -500'000'000 && off < 500'000'000) return;
  const timespec t{static_cast<time_t>(ns / 1'000'000'000), static_cast<long>(ns % 1'000'000'000)};
  ::clock_settime(CLOCK_REALTIME, &t);
}

}  // namespace stillpoint::agent
