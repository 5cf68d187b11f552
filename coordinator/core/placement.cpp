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

// The host that the next guest goes to, or none that has room.
Room* choose(std::vector<Room>& rooms, std::uint64_t guest_bytes, bool spread) {
  Room* best = nullptr;
  // Smaller is better. Spread: few guests of this job, then much memory. Packed: the first host that has room.
  const auto rank = [&](const Room& r) {
    return spread ? std::tuple{r.taken, ~r.room.free_bytes, r.room.host.value}
                  : std::tuple{0u, std::uint64_t{0}, r.room.host.value};
  };
  for (auto& r : rooms) {
    if (r.room.free_bytes < guest_bytes) continue;
    if (best == nullptr || rank(r) < rank(*best)) best = &r;
  }
  return best;
}

}  // namespace

Result<std::vector<Placement>> place(const std::vector<HostRoom>& hosts, std::uint32_t guests,
                                     std::uint64_t guest_bytes, bool spread) {
  if (hosts.empty()) return Error{ErrorKind::transient, "placement", "", "no host is up that the job may use"};
  std::vector<Room> rooms;
  for (const auto& host : hosts) rooms.push_back({host});
  std::vector<Placement> result;
  for (std::uint32_t guest = 0; guest < guests; ++guest) {
    Room* room = choose(rooms, guest_bytes, spread);
    if (room == nullptr) {
      std::string names;
      for (const auto& host : hosts) names += (names.empty() ? "" : ", ") + host.host.value;
      return Error{ErrorKind::transient, "placement", fmt::format("guest {} of {}", guest, guests),
                   fmt::format("no room for {} MiB on {}", guest_bytes >> 20, names)};
    }
    room->taken += 1;
    room->room.free_bytes -= guest_bytes;
    result.push_back({GuestIndex{guest}, room->room.host});
  }
  return result;
}

}  // namespace stillpoint::coordinator
