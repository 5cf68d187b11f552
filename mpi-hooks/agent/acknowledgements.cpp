#include "mpi-hooks/agent/acknowledgements.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/fd.h"

namespace stillpoint::agent {
namespace {

// The process's socket of that inode: its descriptor may have been closed and be another file by now.
Fd borrow(const Fd& process, int fd, std::uint64_t inode) {
  Fd socket(static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), fd, 0)));
  struct stat status {};
  if (socket && (::fstat(socket.get(), &status) != 0 || status.st_ino != inode)) socket.reset();
  return socket;
}

}  // namespace

void Acknowledgements::send_now(const std::vector<wire::SocketFigures>& sockets, const std::vector<pid_t>& processes) {
  std::map<pid_t, Fd> opened;
  for (const wire::SocketFigures& figures : sockets) {
    // No longer any process's; or not all read: nothing would be sent, and there will be another look.
    if (figures.inode() == 0 || figures.receive_queue() != 0) continue;
    const auto seen = received_.find(figures.inode());
    if (seen != received_.end() && seen->second == figures.bytes_received()) continue;
    received_[figures.inode()] = figures.bytes_received();
    const SocketOwners::Owner owner = owners_.owner(figures.inode(), processes);
    if (owner.pid == 0) continue;
    Fd& process = opened[owner.pid];
    if (!process) process.reset(static_cast<int>(::syscall(SYS_pidfd_open, owner.pid, 0)));
    const Fd socket = process ? borrow(process, owner.fd, figures.inode()) : Fd();
    const int on = 1;
    if (socket) (void)::setsockopt(socket.get(), IPPROTO_TCP, TCP_QUICKACK, &on, sizeof on);
  }
}

}  // namespace stillpoint::agent
