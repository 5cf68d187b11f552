// stillpoint-agent [--link-fd N]: process 1 of a guest (see agent.h). N: an inherited socket that leads to the daemon,
// in a guest that is no machine and has no virtio-serial port.
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "mpi-hooks/agent/agent.h"
#include "mpi-hooks/agent/local_socket.h"

namespace {

// Ranks spin while they wait, and a checkpoint stalls the job for as long as the agent waits for a processor. In a
// machine, where nothing else is served by it, the agent goes first; what it starts does not. Without the right to it
// answers are slower, nothing else.
void go_first() {
  const sched_param lowest{1};
  (void)::sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &lowest);
}

// Nothing is synced: what lies in this guest's memory is to be forgotten.
void power_off() {
  if (::getpid() == 1) ::reboot(RB_POWER_OFF);
  ::_exit(1);
}

}  // namespace

int main(int argc, char** argv) {
  using namespace stillpoint::agent;
  AgentOptions options;
  options.launch_socket = kLaunchSocket;
  options.power_off = power_off;
  if (argc == 3 && std::string_view(argv[1]) == "--link-fd") {
    options.link_fd = std::atoi(argv[2]);
    ::fcntl(options.link_fd, F_SETFD, FD_CLOEXEC);
    ::fcntl(options.link_fd, F_SETFL, O_NONBLOCK);
    options.power_off = [] { ::_exit(0); };  // process 1 of its namespaces: all others end with it
  } else {
    go_first();
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
