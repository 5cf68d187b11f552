// Strong types for what Stillpoint numbers and names. Values; any thread.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <ostream>
#include <string>
#include <utility>

namespace stillpoint {

// A number that only compares with its own kind. Tag is an incomplete type that names the kind.
template <class Tag>
struct Number {
  std::uint64_t value = 0;
  constexpr auto operator<=>(const Number&) const = default;
  constexpr Number next() const { return Number{value + 1}; }
};

// A name that only compares with its own kind.
template <class Tag>
struct Name {
  std::string value;
  auto operator<=>(const Name&) const = default;
  bool empty() const { return value.empty(); }
};

template <class Tag>
std::ostream& operator<<(std::ostream& out, const Number<Tag>& n) {
  return out << n.value;
}
template <class Tag>
std::ostream& operator<<(std::ostream& out, const Name<Tag>& n) {
  return out << n.value;
}

using JobId = Name<struct JobIdTag>;                // "j7": made by the catalog, never reused
using HostName = Name<struct HostNameTag>;          // as in the host's certificate
using Incarnation = Number<struct IncarnationTag>;  // one launch or restore of a job; the first is 1
using Epoch = Number<struct EpochTag>;  // one checkpoint attempt; per site, increasing, never reused; 0 = none
using GuestIndex = Number<struct GuestIndexTag>;  // 0 … guests - 1

}  // namespace stillpoint

template <class Tag>
struct std::hash<stillpoint::Number<Tag>> {
  std::size_t operator()(const stillpoint::Number<Tag>& n) const noexcept {
    return std::hash<std::uint64_t>{}(n.value);
  }
};
template <class Tag>
struct std::hash<stillpoint::Name<Tag>> {
  std::size_t operator()(const stillpoint::Name<Tag>& n) const noexcept { return std::hash<std::string>{}(n.value); }
};
