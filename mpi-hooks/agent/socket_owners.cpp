#include "mpi-hooks/agent/socket_owners.h"

namespace stillpoint::agent {

SocketOwners::Owner SocketOwners::owner(std::uint64_t inode, const std::vector<pid_t>& among) {
  if (const auto found = owners_.find(inode); found != owners_.end()) return found->second;
  for (const pid_t pid : among)
    for (const auto& [fd, number] : proc_.sockets(pid)) owners_.emplace(number, Owner{pid, fd});
  return owners_.emplace(inode, Owner{}).first->second;
}

}  // namespace stillpoint::agent
