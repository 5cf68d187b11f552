#include "tests/cluster/namespace_guest.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

namespace stillpoint::cluster {
namespace fs = std::filesystem;
namespace {

constexpr int kNamespaces = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC;
constexpr int kChannel = 3;

[[noreturn]] void fail(const std::string& step) {
  std::perror(("guest: " + step).c_str());
  ::_exit(127);
}

void mount_or_fail(const char* source, const fs::path& target, const char* type, unsigned long flags,
                   const std::string& options = {}) {
  if (::mount(source, target.c_str(), type, flags, options.c_str()) != 0) fail("mount " + target.string());
}

void bind_file(const fs::path& source, const fs::path& target) {
  std::ofstream{target};
  mount_or_fail(source.c_str(), target, nullptr, MS_BIND);
}

// The image's root with a layer in memory over it, and what an init mounts. In the guest's own mount namespace.
fs::path make_root(const GuestFiles& files) {
  mount_or_fail("none", "/", nullptr, MS_REC | MS_PRIVATE);
  const fs::path top = files.root / "mnt", root = top / "root";  // as good a place as any, and seen by nobody else
  mount_or_fail("tmpfs", top, "tmpfs", 0);
  for (const char* part : {"upper", "work", "root"}) fs::create_directory(top / part);
  mount_or_fail("overlay", root, "overlay", 0,
                "lowerdir=" + files.root.string() + ",upperdir=" + (top / "upper").string() +
                    ",workdir=" + (top / "work").string());
  mount_or_fail("proc", root / "proc", "proc", 0);
  mount_or_fail("sysfs", root / "sys", "sysfs", 0);
  mount_or_fail("tmpfs", root / "dev", "tmpfs", 0, "mode=755");
  for (const char* device : {"null", "zero", "full", "random", "urandom", "tty"})
    bind_file(fs::path("/dev") / device, root / "dev" / device);
  fs::create_directory(root / "dev/pts");
  mount_or_fail("devpts", root / "dev/pts", "devpts", 0, "newinstance,mode=620,ptmxmode=666");
  fs::create_symlink("pts/ptmx", root / "dev/ptmx");
  fs::create_directory(root / "dev/shm");
  mount_or_fail("shm", root / "dev/shm", "tmpfs", 0, "mode=1777");
  mount_or_fail("run", root / "run", "tmpfs", 0, "mode=755");
  mount_or_fail("tmp", root / "tmp", "tmpfs", 0, "mode=1777");
  fs::create_directories(root / "run/stillpoint");
  for (const fs::path& program : files.programs) bind_file(program, root / "run/stillpoint" / program.filename());
  mount_or_fail("cgroup", root / "sys/fs/cgroup", "cgroup2", 0);
  return root;
}

}  // namespace

NamespaceGuest::NamespaceGuest(const GuestFiles& files, const fs::path& cgroup) : cgroup_(cgroup) {
  fs::create_directories(cgroup_);
  int ends[2], go[2];
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
  channel_.reset(ends[0]);
  const Fd theirs(ends[1]);
  REQUIRE(::pipe2(go, O_CLOEXEC) == 0);
  const Fd wait(go[0]);
  go_.reset(go[1]);
  log_.reset(::memfd_create("agent.log", MFD_CLOEXEC));
  // As fork(), with namespaces; this process has one thread.
  const auto pid = static_cast<pid_t>(::syscall(SYS_clone, kNamespaces | SIGCHLD, nullptr, nullptr, nullptr, nullptr));
  REQUIRE_MESSAGE(pid >= 0, "namespaces cannot be made: are you root?");
  if (pid == 0) become_agent(files, theirs.get(), wait.get());
  pid_ = pid;
  std::ofstream(cgroup_ / "cgroup.procs") << pid_ << std::flush;
}

void NamespaceGuest::become_agent(const GuestFiles& files, int channel, int go) const {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::dup2(log_.get(), 1);
  ::dup2(log_.get(), 2);
  char word;
  if (::read(go, &word, 1) != 1) ::_exit(1);
  // After it was put into its cgroup: that is what the namespace shows as the root.
  if (::unshare(CLONE_NEWCGROUP) != 0) fail("cgroup namespace");
  const fs::path root = make_root(files);
  for (const char* scope : {"all", "default"})
    std::ofstream(std::string("/proc/sys/net/ipv6/conf/") + scope + "/disable_ipv6") << "1";
  if (::chroot(root.c_str()) != 0 || ::chdir("/") != 0) fail("chroot");
  // dup2 leaves close-on-exec out; where the number is right already it does nothing.
  if (channel == kChannel) ::fcntl(channel, F_SETFD, 0);
  else ::dup2(channel, kChannel);
  ::clearenv();
  ::execl("/run/stillpoint/stillpoint-agent", "stillpoint-agent", "--link-fd", "3", nullptr);
  fail("start the agent");
}

void NamespaceGuest::start() { CHECK(::write(go_.get(), "g", 1) == 1); }

NamespaceGuest::~NamespaceGuest() {
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
  // Emptied by the kernel's own pace.
  for (int i = 0; i < 100; ++i) {
    ::rmdir((cgroup_ / "job").c_str());
    if (::rmdir(cgroup_.c_str()) == 0) return;
    ::poll(nullptr, 0, 10);
  }
}

std::string NamespaceGuest::story() const {
  std::string text(1u << 16, '\0');
  const ssize_t n = ::pread(log_.get(), text.data(), text.size(), 0);
  text.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
  return "agent " + std::to_string(pid_) + ": " + text;
}

std::vector<pid_t> NamespaceGuest::job_processes() const {
  std::ifstream file(cgroup_ / "job/cgroup.procs");
  std::vector<pid_t> pids;
  for (pid_t pid; file >> pid;) pids.push_back(pid);
  return pids;
}

bool NamespaceGuest::stands_still() const {
  std::ifstream file(cgroup_ / "job/cgroup.events");
  const std::string events{std::istreambuf_iterator<char>(file), {}};
  return events.find("frozen 1") != events.npos;
}

bool NamespaceGuest::is_off() const {
  siginfo_t ended{};  // left as it is for the destructor
  return ::waitid(P_PID, static_cast<id_t>(pid_), &ended, WEXITED | WNOHANG | WNOWAIT) == 0 && ended.si_pid == pid_;
}

}  // namespace stillpoint::cluster
