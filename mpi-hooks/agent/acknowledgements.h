// Makes this guest's kernel send the TCP acknowledgements that it holds back, in the hope of data to send along with
// them: up to 40 ms, most of the time that a busy job would need to a verified cut. Setting TCP_QUICKACK sends what is
// due at once where the program has read what arrived (tcp(7)); the option is not permanent, and no program notices.
//
// The sockets are the job's processes'; the agent borrows each for the moment by pidfd_getfd, which needs nothing of
// the process, not even that it runs. One owner.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "gang.pb.h"
#include "mpi-hooks/agent/socket_owners.h"

namespace stillpoint::agent {

class Acknowledgements {
 public:
  explicit Acknowledgements(SocketOwners& owners) : owners_(owners) {}
  // Of those sockets that have received something since they were last seen here. What cannot be borrowed (its process
  // is gone, or the kernel is older than 5.6) is acknowledged when the kernel pleases.
  void send_now(const std::vector<wire::SocketFigures>& sockets, const std::vector<pid_t>& processes);
  // Between checkpoints: inodes are used again.
  void forget() { received_.clear(); }

 private:
  SocketOwners& owners_;
  std::map<std::uint64_t, std::uint64_t> received_;  // by inode
};

}  // namespace stillpoint::agent
