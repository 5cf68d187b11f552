// stillpoint-agent: process 1 of a guest (see agent.h).
#include <signal.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cstdio>

#include "mpi-hooks/agent/agent.h"
#include "mpi-hooks/agent/local_socket.h"

int main() {
  using namespace stillpoint::agent;
  // Children are reaped in the loop; a peer that went away is seen at the write.
  sigset_t signals;
  ::sigemptyset(&signals);
  ::sigaddset(&signals, SIGCHLD);
  ::sigprocmask(SIG_BLOCK, &signals, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  const int children = ::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);

  AgentOptions options;
  options.launch_socket = kLaunchSocket;
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
