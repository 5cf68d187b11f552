// The command line of mpirun for a job, and the environment of everything that belongs to it. Pure.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "guest.pb.h"
#include "mpi-hooks/agent/outcome.h"

namespace stillpoint::agent {

inline constexpr char kHookLibrary[] = "/run/stillpoint/libstillpoint-mpi.so";
inline constexpr char kLaunchProgram[] = "/run/stillpoint/stillpoint-launch";

struct MpirunInputs {
  const wire::StartJob* job = nullptr;
  std::vector<std::string> guests;  // names; the index is the guest
  std::string workdir;
  unsigned cpus = 1;  // of each guest
  bool hooks = true;  // whether the hook library is there
};

// Refused: no ranks, more entries in ranks_per_guest than guests, an empty command, a variable without a proper name.
Outcome<std::vector<std::string>> mpirun_command(const MpirunInputs& inputs);

// What mpirun and prted run with; the manifest's variables on top. Its programs are looked for in the work directory
// too, last. With hooks: they have the hook library too, in which it does nothing, for what they start by themselves:
// MPI_Comm_spawn takes no variable from mpirun's -x along, only from the daemon that carries it out.
std::map<std::string, std::string> job_environment(const std::string& workdir, const wire::StartJob* job, bool hooks);

}  // namespace stillpoint::agent
