// stillpoint-agent [--link-fd N]: process 1 of a guest (see agent.h). N: an inherited socket that leads to the daemon,
// in a guest that is no machine and has no virtio-serial port.
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "mpi-hooks/agent/agent.h"
#include "mpi-hooks/agent/local_socket.h"

int main(int argc, char** argv) {
  using namespace stillpoint::agent;
  AgentOptions options;
  options.launch_socket = kLaunchSocket;
  if (argc == 3 && std::string_view(argv[1]) == "--link-fd") {
    options.link_fd = std::atoi(argv[2]);
    ::fcntl(options.link_fd, F_SETFD, FD_CLOEXEC);
    ::fcntl(options.link_fd, F_SETFL, O_NONBLOCK);
  }
  // Children are reaped in the loop; a peer that went away is seen at the write.
  sigset_t signals;
  ::sigemptyset(&signals);
  ::sigaddset(&signals, SIGCHLD);
  ::sigprocmask(SIG_BLOCK, &signals, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  const int children = ::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);

  Agent agent(options);
  auto listening = agent.listen();
  if (children < 0 || !listening.ok()) {
    std::fprintf(stderr, "stillpoint-agent: %s: %s\n",
                 listening.ok() ? "signalfd" : listening.failure().object().c_str(),
                 listening.ok() ? "failed" : listening.failure().cause().c_str());
    return 1;
  }
  std::fprintf(stderr, "stillpoint-agent %s is up\n", STILLPOINT_VERSION);
  agent.run(children);
}
