// AF_UNIX SOCK_SEQPACKET sockets inside the guest: ranks and launch programs talk to the agent over them.
#pragma once

#include <string>

#include "common/fd.h"
#include "mpi-hooks/agent/outcome.h"

namespace stillpoint::agent {

inline constexpr char kLaunchSocket[] = "/run/stillpoint/launch.sock";

// Non-blocking, close-on-exec. A socket file that is there already is replaced.
Outcome<Fd> listen_local(const std::string& path);

}  // namespace stillpoint::agent
