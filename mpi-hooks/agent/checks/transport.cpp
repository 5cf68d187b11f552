// A point-to-point layer that moves messages by other ways than the kernel's TCP, where VERIFY cannot see them.
#include "mpi-hooks/agent/checks/check.h"

namespace stillpoint::agent {

Finding transport(const Subject& process) {
  if (process.transport.empty() || process.transport == "ob1") return std::nullopt;
  return "libmpi chose the point-to-point layer " + process.transport +
         ", whose messages cannot be brought to rest: remove OMPI_MCA_pml from the environment and from "
         "openmpi-mca-params.conf, so that pml=ob1 holds";
}

}  // namespace stillpoint::agent
