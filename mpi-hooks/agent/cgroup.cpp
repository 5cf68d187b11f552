#include "mpi-hooks/agent/cgroup.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "common/fd.h"

namespace stillpoint::agent {
namespace {

bool write_word(const std::string& path, const char* word) {
  const Fd file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  return file && ::write(file.get(), word, std::strlen(word)) == static_cast<ssize_t>(std::strlen(word));
}

std::string read_small(int fd) {
  std::string text(64u << 10, '\0');
  std::size_t got = 0;
  for (ssize_t n;
       got < text.size() && (n = ::pread(fd, text.data() + got, text.size() - got, static_cast<off_t>(got))) > 0;)
    got += static_cast<std::size_t>(n);
  text.resize(got);
  return text;
}

bool says(const std::string& events, const char* key, bool value) {
  return events.find(std::string(key) + (value ? " 1\n" : " 0\n")) != events.npos;
}

}  // namespace

Done Cgroup::create() {
  if (::mkdir(directory_.c_str(), 0755) != 0 && errno != EEXIST)
    return errno_failure("make the job's cgroup", directory_);
  return Nothing{};
}

Done Cgroup::set_frozen(bool frozen, Millis deadline) {
  const std::string step = frozen ? "freeze the job's processes" : "thaw the job's processes";
  if (!write_word(directory_ + "/cgroup.freeze", frozen ? "1" : "0")) return errno_failure(step, directory_);
  const Fd events(::open((directory_ + "/cgroup.events").c_str(), O_RDONLY | O_CLOEXEC));
  if (!events) return errno_failure(step, directory_);
  // The kernel marks the file with POLLPRI at each change; reading it first arms that.
  while (!says(read_small(events.get()), "frozen", frozen)) {
    const Millis left = deadline - monotonic_ms();
    if (left <= 0) return failure(wire::Failure::DEADLINE, step, directory_, "a process did not stop in time");
    pollfd wait{events.get(), POLLPRI, 0};
    ::poll(&wait, 1, static_cast<int>(std::min<Millis>(left, 100)));
  }
  return Nothing{};
}

bool Cgroup::populated() const {
  const Fd events(::open((directory_ + "/cgroup.events").c_str(), O_RDONLY | O_CLOEXEC));
  return events && says(read_small(events.get()), "populated", true);
}

std::vector<pid_t> Cgroup::processes() const {
  std::vector<pid_t> pids;
  const Fd procs(::open((directory_ + "/cgroup.procs").c_str(), O_RDONLY | O_CLOEXEC));
  if (!procs) return pids;
  const std::string list = read_small(procs.get());
  for (std::size_t at = 0; at < list.size();) {
    const int pid = std::atoi(list.c_str() + at);
    if (pid > 1) pids.push_back(pid);
    const std::size_t line = list.find('\n', at);
    at = line == list.npos ? list.size() : line + 1;
  }
  return pids;
}

void Cgroup::signal(int signal_number) const {
  for (const pid_t pid : processes()) ::kill(pid, signal_number);
}

void Cgroup::kill() const { write_word(directory_ + "/cgroup.kill", "1"); }

}  // namespace stillpoint::agent
