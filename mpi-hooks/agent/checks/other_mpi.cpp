// A rank that runs with another MPI than the guest's Open MPI 5: its calls have the same names and another meaning.
#include "mpi-hooks/agent/checks/check.h"

namespace stillpoint::agent {
namespace {

constexpr char kOurs[] = "libmpi.so.40";  // of Open MPI 5; MPICH, Intel MPI and MVAPICH have libmpi.so.12
constexpr const char* kOthers[] = {"libmpich.so", "libmpichcxx.so", "libmpi_cray.so", "libmpi_ibm.so", "libmpi.so"};

}  // namespace

Finding other_mpi(const Subject& process) {
  for (const char* name : kOthers) {
    const std::string* library = find_library(process.mapped, name);
    if (library == nullptr || find_library({*library}, kOurs) != nullptr) continue;
    return "it runs with the MPI library " + *library +
           ": build it with the mpicc of the guest's Open MPI 5, and see "
           "that LD_LIBRARY_PATH leads to no other MPI";
  }
  return std::nullopt;
}

}  // namespace stillpoint::agent
