// An open RDMA device: its queues live in an adapter, which is in no image.
#include "mpi-hooks/agent/checks/check.h"

namespace stillpoint::agent {

Finding rdma_device(const Subject& process) {
  for (const std::string& file : process.open)
    if (file.starts_with("/dev/infiniband/"))
      return "it holds the RDMA device " + file +
             ", whose state no checkpoint contains: keep the program to TCP "
             "(remove the device from the guest, or whatever makes the program open it)";
  return std::nullopt;
}

}  // namespace stillpoint::agent
