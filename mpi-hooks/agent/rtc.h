// The machine's real-time clock chip, which the host keeps going while the guest's own clocks stand still.
#pragma once

#include <cstdint>
#include <optional>

namespace stillpoint::agent {

// Seconds that the chip is ahead of CLOCK_MONOTONIC; nothing where there is no chip.
std::optional<std::int64_t> rtc_skew();

}  // namespace stillpoint::agent
