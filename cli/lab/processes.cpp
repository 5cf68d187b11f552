#include "cli/lab/processes.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern "C" {  // glibc 2.36 forgets to say so
#include <sys/pidfd.h>
}

#include <cerrno>
#include <charconv>
#include <optional>

#include "cli/lab/layout.h"
#include "common/fd.h"
#include "common/file.h"

namespace stillpoint::lab {
namespace fs = std::filesystem;
namespace {

using Clock = std::chrono::steady_clock;

// Inode numbers of namespaces; unique while the namespace lives.
using NamespaceIds = std::vector<std::pair<dev_t, ino_t>>;

NamespaceIds ids_of(const std::vector<std::string>& namespaces) {
  NamespaceIds ids;
  for (const auto& name : namespaces) {
    struct stat found;
    if (::stat(namespace_file(name).c_str(), &found) == 0) ids.emplace_back(found.st_dev, found.st_ino);
  }
  return ids;
}

bool is_in(pid_t pid, const NamespaceIds& ids) {
  struct stat found;
  if (::stat(("/proc/" + std::to_string(pid) + "/ns/net").c_str(), &found) != 0) return false;
  for (const auto& id : ids)
    if (id.first == found.st_dev && id.second == found.st_ino) return true;
  return false;
}

std::vector<pid_t> find_in(const NamespaceIds& ids) {
  std::vector<pid_t> pids;
  std::error_code failed;
  for (fs::directory_iterator entry("/proc", failed), end; !failed && entry != end; entry.increment(failed)) {
    const std::string name = entry->path().filename();
    pid_t pid = 0;
    const auto [last, bad] = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (bad == std::errc() && last == name.data() + name.size() && pid != ::getpid() && is_in(pid, ids))
      pids.push_back(pid);
  }
  return pids;
}

struct ProcessStat {
  char state = 'X';
  std::uint64_t start_ticks = 0;
};

std::optional<ProcessStat> stat_of(pid_t pid) {
  auto text = read_file("/proc/" + std::to_string(pid) + "/stat", 4096);
  if (!text) return std::nullopt;
  const auto after_name = text->rfind(')');
  if (after_name == std::string::npos || after_name + 2 >= text->size()) return std::nullopt;
  ProcessStat found;
  found.state = (*text)[after_name + 2];
  std::size_t at = after_name + 2;  // field 3; the start time is field 22
  for (int field = 3; field < 22 && at != std::string::npos; ++field) at = text->find(' ', at + 1);
  if (at == std::string::npos) return std::nullopt;
  std::from_chars(text->data() + at + 1, text->data() + text->size(), found.start_ticks);
  return found;
}

// In the child: the namespaces, the session, the descriptors; then the program. Only async-signal-safe calls.
[[noreturn]] void become_daemon(char* const* argv, int network, int log, int null, int report) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // whoever starts us dies before we are in the namespace: so do we
  const auto give_up = [report] {
    const int reason = errno;
    [[maybe_unused]] const auto written = ::write(report, &reason, sizeof reason);
    ::_exit(127);
  };
  if (::setns(network, CLONE_NEWNET) != 0 || ::unshare(CLONE_NEWNS) != 0) give_up();
  // A /sys that shows this network namespace, as `ip netns exec` makes it; nothing mounted here is seen outside.
  if (::mount("", "/", "none", MS_SLAVE | MS_REC, nullptr) != 0) give_up();
  ::umount2("/sys", MNT_DETACH);
  if (::mount("sysfs", "/sys", "sysfs", 0, nullptr) != 0) give_up();
  ::setsid();
  ::dup2(null, 0);
  ::dup2(log, 1);
  ::dup2(log, 2);
  if (::chdir("/") != 0) give_up();
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::signal(SIGPIPE, SIG_DFL);  // ignored in this command, and exec keeps that
  ::close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
  ::prctl(PR_SET_PDEATHSIG, 0);
  ::execv(argv[0], argv);
  give_up();
  ::_exit(127);
}

}  // namespace

Result<ProcessRecord> start_in_namespace(const std::vector<std::string>& argv, const std::string& network_namespace,
                                         const fs::path& log) {
  Fd network(::open(namespace_file(network_namespace).c_str(), O_RDONLY | O_CLOEXEC));
  if (!network) return errno_error("open network namespace", network_namespace, errno);
  Fd log_file(::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  if (!log_file) return errno_error("open log", log.string(), errno);
  Fd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  int pipe_fds[2];
  if (!null || ::pipe2(pipe_fds, O_CLOEXEC) != 0) return errno_error("start", argv.at(0), errno);
  Fd report_read(pipe_fds[0]), report_write(pipe_fds[1]);
  std::vector<char*> args;
  for (const auto& arg : argv) args.push_back(const_cast<char*>(arg.c_str()));
  args.push_back(nullptr);

  const pid_t pid = ::fork();
  if (pid < 0) return errno_error("start", argv.at(0), errno);
  if (pid == 0) become_daemon(args.data(), network.get(), log_file.get(), null.get(), report_write.get());
  report_write.reset();
  int reason = 0;
  ssize_t got = 0;
  do got = ::read(report_read.get(), &reason, sizeof reason);
  while (got < 0 && errno == EINTR);
  if (got > 0) {
    ::waitpid(pid, nullptr, 0);
    return errno_error("start", argv.at(0), reason);
  }
  const auto found = stat_of(pid);
  return ProcessRecord{pid, found ? found->start_ticks : 0};
}

bool alive(const ProcessRecord& process) {
  if (process.pid <= 0) return false;
  ::waitpid(process.pid, nullptr, WNOHANG);  // ours, when this very command started it
  const auto found = stat_of(process.pid);
  return found && found->start_ticks == process.start_ticks && found->state != 'Z' && found->state != 'X';
}

std::vector<pid_t> processes_in(const std::vector<std::string>& namespaces) { return find_in(ids_of(namespaces)); }

Result<unsigned> kill_all_in(const std::vector<std::string>& namespaces, std::chrono::milliseconds deadline) {
  const auto end = Clock::now() + deadline;
  const NamespaceIds ids = ids_of(namespaces);
  unsigned killed = 0;
  for (;;) {
    std::vector<Fd> targets;
    for (const pid_t pid : find_in(ids)) {
      Fd target(::pidfd_open(pid, 0));
      if (target && is_in(pid, ids)) targets.push_back(std::move(target));  // it is still the one that we saw
    }
    if (targets.empty()) return killed;
    for (const auto& target : targets)
      if (::pidfd_send_signal(target.get(), SIGKILL, nullptr, 0) == 0) ++killed;
    for (const auto& target : targets) {
      pollfd ended{target.get(), POLLIN, 0};
      while (ended.revents == 0) {
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count();
        if (left <= 0)
          return Error{ErrorKind::deadline, "kill processes", namespaces.empty() ? "" : namespaces.front(),
                       "a process did not end after SIGKILL"};
        ::poll(&ended, 1, static_cast<int>(left));
      }
      siginfo_t ours;
      ::waitid(P_PIDFD, static_cast<id_t>(target.get()), &ours, WEXITED | WNOHANG);
    }
  }
}

void wait_for_end(const std::vector<ProcessRecord>& processes, std::chrono::milliseconds timeout) {
  std::vector<Fd> targets;
  std::vector<pollfd> polls;
  for (const auto& process : processes) {
    Fd target(::pidfd_open(process.pid, 0));
    if (!target || !alive(process)) return;
    polls.push_back({target.get(), POLLIN, 0});
    targets.push_back(std::move(target));
  }
  ::poll(polls.data(), polls.size(), static_cast<int>(timeout.count()));
}

}  // namespace stillpoint::lab
