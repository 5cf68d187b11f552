#include "node-daemon/domain/orphan_reaper.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>

namespace stillpoint::node {
namespace {

// Written by the signal handler, so a plain descriptor with the life of the process.
const int child_ended = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

void on_child_ended(int) {
  const int saved = errno;
  ::eventfd_write(child_ended, 1);
  errno = saved;
}

// An ended QEMU that was orphaned to this process. Both ways in which libvirt makes one a daemon put it into a session
// of its own; what somebody here waits for is in ours, or, as libvirt's helper that starts the daemon, has not become
// QEMU.
bool is_ended_orphan(pid_t pid) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  std::getline(in, line);
  const auto name_begin = line.find('('), name_end = line.rfind(')');
  if (name_begin == line.npos || name_end == line.npos) return false;
  if (!std::string_view(line).substr(name_begin + 1).starts_with("qemu-system")) return false;
  std::istringstream fields(line.substr(name_end + 1));
  char state = 0;
  pid_t parent = 0, group = 0, session = 0;
  fields >> state >> parent >> group >> session;
  return state == 'Z' && parent == ::getpid() && session != ::getsid(0);
}

void reap_orphans() {
  std::error_code code;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", code)) {
    const std::string name = entry.path().filename().string();
    pid_t pid = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (error != std::errc{} || end != name.data() + name.size()) continue;
    if (is_ended_orphan(pid)) ::waitpid(pid, nullptr, WNOHANG);
  }
}

}  // namespace

OrphanReaper::OrphanReaper() {
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  struct sigaction action {};
  action.sa_handler = on_child_ended;
  action.sa_flags = SA_RESTART | SA_NOCLDSTOP;
  ::sigaction(SIGCHLD, &action, &previous_);
  thread_ = std::thread([this] { run(); });
}

OrphanReaper::~OrphanReaper() {
  stop_ = true;
  ::eventfd_write(child_ended, 1);
  thread_.join();
  ::sigaction(SIGCHLD, &previous_, nullptr);
  ::prctl(PR_SET_CHILD_SUBREAPER, 0);
}

void OrphanReaper::run() {
  while (!stop_) {
    pollfd poll_on{child_ended, POLLIN, 0};
    ::poll(&poll_on, 1, -1);
    eventfd_t count = 0;
    ::eventfd_read(child_ended, &count);
    if (!stop_) reap_orphans();
  }
}

}  // namespace stillpoint::node
