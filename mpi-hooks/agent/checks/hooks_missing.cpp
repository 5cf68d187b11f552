// A process that uses libmpi without the hook library, so that nobody can close its gate.
//
// The loader maps preloaded libraries first, and new mappings at lower addresses, which are listed first: whoever reads
// libmpi in the list reads the hook library further down, however early he came.
#include "mpi-hooks/agent/checks/check.h"

namespace stillpoint::agent {

Finding hooks_missing(const Subject& process) {
  if (process.linked || find_library(process.mapped, "libmpi.so") == nullptr ||
      find_library(process.mapped, "libstillpoint-mpi.so") != nullptr)
    return std::nullopt;
  return "it uses MPI without Stillpoint's hook library: leave LD_PRELOAD as mpirun gives it to the ranks (a wrapper "
         "script that sets it, `env -i`, or a set-user-ID program takes it away)";
}

}  // namespace stillpoint::agent
