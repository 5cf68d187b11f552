// The job's cgroup (v2): everything that mpirun, prted and the ranks are. The agent stands outside of it.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "mpi-hooks/agent/clock.h"
#include "mpi-hooks/agent/outcome.h"

namespace stillpoint::agent {

class Cgroup {
 public:
  explicit Cgroup(std::string directory) : directory_(std::move(directory)) {}

  Done create();
  // Waits until the kernel says that every task is frozen, or thawed; until deadline (monotonic) at most.
  Done set_frozen(bool frozen, Millis deadline);
  bool populated() const;
  std::vector<pid_t> processes() const;
  // Each process of the group gets the signal.
  void signal(int signal_number) const;
  // SIGKILL to all at once, also to what is being forked.
  void kill() const;
  const std::string& directory() const { return directory_; }

 private:
  std::string directory_;
};

}  // namespace stillpoint::agent
