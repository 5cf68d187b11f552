// What the coordinator's memory must forget, and leap over, when it is an older one than what was done. Pure; any
// thread.
#pragma once

#include "coordinator/core/records.h"

namespace stillpoint::coordinator {

// How far numbers jump ahead of those of an older copy: beyond whatever was given out since it was made.
inline constexpr std::uint64_t kJobsAhead = 1'000, kEpochsAhead = 1'000'000, kIncarnationsAhead = 1'000;
inline constexpr std::uint32_t kVnisAhead = 10'000;

// What an older copy must forget before it may be gone by. Nobody knows what was done since it was made: so no job is
// taken to be running, and none is started by itself; all numbers jump ahead; an attempt that was under way is neither
// committed nor aborted, and its images stay until its job is removed. Pure.
std::vector<CatalogChange> after_loss(const CatalogState& state, const std::string& what_happened, WallSeconds now);

// Where an empty catalog begins when there was one before: behind the newest job that is known of, and the epochs that
// a site can have taken since there is this program, one a second.
std::vector<CatalogChange> beyond_loss(std::uint64_t newest_job, WallSeconds now);

}  // namespace stillpoint::coordinator
