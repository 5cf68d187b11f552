// Which process a socket belongs to, by its inode. Looking through a process's descriptors is slow next to a counter
// round, so what was found is kept, and only an unknown inode makes it look again. One owner.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <vector>

#include "mpi-hooks/agent/proc.h"

namespace stillpoint::agent {

class SocketOwners {
 public:
  explicit SocketOwners(Proc proc = Proc()) : proc_(std::move(proc)) {}
  // Among these processes; 0: none of them has it.
  pid_t owner(std::uint64_t inode, const std::vector<pid_t>& among);
  // Inodes are used again: what was found is forgotten between checkpoints.
  void forget() { owners_.clear(); }

 private:
  Proc proc_;
  std::map<std::uint64_t, pid_t> owners_;
};

}  // namespace stillpoint::agent
