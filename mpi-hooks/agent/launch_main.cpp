// stillpoint-launch TARGET COMMAND…: what mpirun calls in place of ssh (plm_ssh_agent). Asks the agent of this guest to
// have COMMAND started in guest TARGET; 0 when it was started there, 1 with a reason on stderr when it was not.
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <string>

#include "common/fd.h"
#include "mpi-hooks/agent/local_socket.h"

int main(int argc, char** argv) {
  using namespace stillpoint;
  if (argc < 3) {
    std::fputs("usage: stillpoint-launch TARGET COMMAND...\n", stderr);
    return 2;
  }
  std::string packet;
  for (int i = 1; i < argc; ++i) packet.append(argv[i]).push_back('\0');

  const Fd agent(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, agent::kLaunchSocket, sizeof address.sun_path - 1);
  char words[4096];
  ssize_t n = -1;
  if (agent && ::connect(agent.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 &&
      ::send(agent.get(), packet.data(), packet.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(packet.size()))
    n = ::recv(agent.get(), words, sizeof words - 1, 0);
  if (n == 1 && words[0] == '\0') return 0;
  if (n > 0) {
    words[n] = '\0';
    std::fprintf(stderr, "stillpoint: %s: %s\n", argv[1], words);
  } else {
    std::fprintf(stderr, "stillpoint: %s: the guest's agent does not answer: %s\n", argv[1],
                 n == 0 ? "it hung up" : std::strerror(errno));
  }
  return 1;
}
