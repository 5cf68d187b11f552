// What a job may name and how much of everything it may have: one set of rules for manifests and for the API. Pure
// functions; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace stillpoint {

inline constexpr std::uint64_t kMostGuests = 1024;
inline constexpr std::uint64_t kMostVcpus = 255;
inline constexpr std::uint64_t kMostRanks = 65'536;
inline constexpr std::size_t kMostFiles = 1024;  // input files, and outputs

// What is wrong with name as a relative path that stays below where it starts ("is absolute"), or nothing: no empty,
// "." or ".." part, no control character, bounded in length and depth. ".." inside a part is a name like any other.
std::string relative_name_fault(std::string_view name);
inline bool safe_relative_name(std::string_view name) { return relative_name_fault(name).empty(); }

}  // namespace stillpoint
