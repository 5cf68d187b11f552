#include "coordinator/core/placement.h"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>

namespace stillpoint::coordinator {
namespace {

struct Room {
  HostRoom room;
  std::uint32_t taken = 0;
};

// Whether the next guest had better go to the other one.
bool is_worse(const Room& a, const Room& b, bool spread) {
  const auto rank = [&](const Room& r) {
    const auto& [host, free, load, guest_load, failed] = r.room;
    using Rank = std::tuple<bool, std::uint32_t, double, std::uint64_t, const std::string&>;
    return spread ? Rank{failed, r.taken, load, ~free, host.value} : Rank{failed, 0u, 0.0, 0u, host.value};
  };
  return rank(b) < rank(a);
}

}  // namespace

Result<std::vector<Placement>> place(const std::vector<HostRoom>& hosts, std::uint32_t guests,
                                     std::uint64_t guest_bytes, bool spread) {
  if (hosts.empty()) return Error{ErrorKind::transient, "placement", "", "no host is up that the job may use"};
  // A heap with the best host in front: gangs and sites may both have thousands.
  const auto worse = [&](const Room& a, const Room& b) { return is_worse(a, b, spread); };
  std::vector<Room> rooms;
  for (const auto& host : hosts)
    if (host.free_bytes >= guest_bytes) rooms.push_back({host});
  std::ranges::make_heap(rooms, worse);
  std::vector<Placement> result;
  for (std::uint32_t guest = 0; guest < guests; ++guest) {
    if (rooms.empty()) {
      std::string names;
      for (const auto& host : hosts) names += (names.empty() ? "" : ", ") + host.host.value;
      return Error{ErrorKind::transient, "placement", fmt::format("guest {} of {}", guest, guests),
                   fmt::format("no room for {} MiB on {}", guest_bytes >> 20, names)};
    }
    std::ranges::pop_heap(rooms, worse);
    Room& room = rooms.back();
    room.taken += 1;
    room.room.free_bytes -= guest_bytes;
    room.room.load += room.room.guest_load;
    result.push_back({GuestIndex{guest}, room.room.host});
    if (room.room.free_bytes >= guest_bytes) std::ranges::push_heap(rooms, worse);
    else rooms.pop_back();
  }
  return result;
}

}  // namespace stillpoint::coordinator
