// A connection that leaves the gang: its other end is in no image, and would be another one after a restart.
#include <charconv>

#include "mpi-hooks/agent/checks/check.h"

namespace stillpoint::agent {

Finding outside_connection(const Subject& process) {
  constexpr std::string_view kSocket = "socket:[";
  for (const std::string& file : process.open) {
    if (!file.starts_with(kSocket)) continue;
    std::uint64_t inode = 0;
    std::from_chars(file.data() + kSocket.size(), file.data() + file.size(), inode);
    const auto found = process.outside.find(inode);
    if (found != process.outside.end())
      return "it has a connection out of the job, " + found->second +
             ", which no restart could bring back: close it before the checkpoint";
  }
  return std::nullopt;
}

}  // namespace stillpoint::agent
