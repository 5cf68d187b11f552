#include "mpi-hooks/agent/socket_owners.h"

#include <charconv>
#include <string_view>

namespace stillpoint::agent {

pid_t SocketOwners::owner(std::uint64_t inode, const std::vector<pid_t>& among) {
  if (const auto found = owners_.find(inode); found != owners_.end()) return found->second;
  constexpr std::string_view kSocket = "socket:[";
  for (const pid_t pid : among)
    for (const std::string& file : proc_.open_files(pid)) {
      std::uint64_t number = 0;
      if (!file.starts_with(kSocket)) continue;
      std::from_chars(file.data() + kSocket.size(), file.data() + file.size(), number);
      owners_.emplace(number, pid);
    }
  return owners_.emplace(inode, 0).first->second;
}

}  // namespace stillpoint::agent
