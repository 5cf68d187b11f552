// Starts a program in the job's cgroup, with nothing of the agent's but what is given here.
#pragma once

#include <sys/types.h>

#include <map>
#include <string>
#include <vector>

#include "mpi-hooks/agent/outcome.h"

namespace stillpoint::agent {

struct SpawnRequest {
  std::vector<std::string> argv;           // argv[0] is looked up in the environment's PATH
  std::map<std::string, std::string> env;  // the whole environment
  std::string directory;
  std::string cgroup;  // joined before the program starts, so that no child can escape
  int output = -1;     // becomes stdout and stderr
};

// The process, once execve has succeeded. The caller reaps it.
Outcome<pid_t> spawn(const SpawnRequest& request);

}  // namespace stillpoint::agent
