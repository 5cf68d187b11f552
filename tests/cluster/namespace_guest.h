// A guest without a machine: the real agent as process 1 of namespaces of its own (mount, pid, network, host name,
// IPC, cgroup), in the guest image's root file system with a layer in memory over it. Its clock is this machine's, its
// file system is never frozen (there is no layer's mount point under /run/stillpoint), its cgroup is at the place where
// the agent looks for it; everything else is as in a virtual machine.
//
// Nothing of it outlives the test, whatever ends that: the kernel kills process 1 when its parent ends, all others with
// it, and the namespaces go with their processes. Only the empty directories of its cgroup may stay; the next Cluster
// removes them.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>
#include <vector>

#include "common/fd.h"
#include "mpi-hooks/agent/gang.h"

namespace stillpoint::cluster {

struct GuestFiles {
  std::filesystem::path root;                   // of the guest image
  std::vector<std::filesystem::path> programs;  // agent, launch program, hook library: into /run/stillpoint
};

class NamespaceGuest : public agent::Guest {
 public:
  // The machine without its agent: namespaces, mounts, cgroup. FAILs the test when it cannot be made.
  NamespaceGuest(const GuestFiles& files, const std::filesystem::path& cgroup);
  ~NamespaceGuest() override;

  // Its network is there: the agent starts.
  void start();
  std::string story() const override;

  pid_t agent() const { return pid_; }
  // The processes of the job, as this machine numbers them.
  std::vector<pid_t> job_processes() const;
  // The kernel has frozen all of them.
  bool stands_still() const;
  // Its process 1 has ended, and all others with it.
  bool is_off() const;

 private:
  Fd connect() override { return std::move(channel_); }
  [[noreturn]] void become_agent(const GuestFiles& files, int channel, int go) const;

  std::filesystem::path cgroup_;
  pid_t pid_ = 0;
  Fd channel_;
  Fd go_;   // written to: start
  Fd log_;  // the agent's words, in memory
};

}  // namespace stillpoint::cluster
