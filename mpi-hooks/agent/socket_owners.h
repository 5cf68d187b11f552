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
  struct Owner {
    pid_t pid = 0;  // 0: none of the processes has it
    int fd = -1;    // there
  };
  explicit SocketOwners(Proc proc = Proc()) : proc_(std::move(proc)) {}
  Owner owner(std::uint64_t inode, const std::vector<pid_t>& among);
  // Inodes and descriptors are used again: what was found is forgotten between checkpoints.
  void forget() { owners_.clear(); }

 private:
  Proc proc_;
  std::map<std::uint64_t, Owner> owners_;
};

}  // namespace stillpoint::agent
