#include "mpi-hooks/agent/spawn.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>

#include "common/fd.h"

namespace stillpoint::agent {
namespace {

// In the child, between fork and exec: the agent has one thread, so the heap may be used.
[[noreturn]] void become(const SpawnRequest& request, int report) {
  const auto fail = [report](char step) {
    const int error = errno;
    std::array<char, 1 + sizeof error> words{step};
    std::memcpy(words.data() + 1, &error, sizeof error);
    (void)!::write(report, words.data(), words.size());
    ::_exit(127);
  };
  ::setsid();
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::signal(SIGPIPE, SIG_DFL);

  const int procs = ::open((request.cgroup + "/cgroup.procs").c_str(), O_WRONLY | O_CLOEXEC);
  if (procs < 0 || ::write(procs, "0", 1) != 1) fail('g');
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null < 0 || ::dup2(null, 0) < 0) fail('i');
  const int output = request.output >= 0 ? request.output : null;
  if (::dup2(output, 1) < 0 || ::dup2(output, 2) < 0) fail('o');
  if (::chdir(request.directory.c_str()) != 0) fail('d');

  ::clearenv();
  for (const auto& [name, value] : request.env) ::setenv(name.c_str(), value.c_str(), 1);
  std::vector<char*> argv;
  for (const std::string& word : request.argv) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  ::execvp(argv[0], argv.data());
  fail('x');
  ::_exit(127);
}

std::string step_name(char step) {
  switch (step) {
    case 'g': return "join the job's cgroup";
    case 'd': return "enter the work directory";
    case 'x': return "start";
    default: return "redirect the output of";
  }
}

}  // namespace

Outcome<pid_t> spawn(const SpawnRequest& request) {
  int ends[2];
  if (request.argv.empty()) return failure(wire::Failure::REFUSED, "start", "a program", "the command is empty");
  if (::pipe2(ends, O_CLOEXEC) != 0) return errno_failure("start", request.argv[0]);
  Fd reader(ends[0]), writer(ends[1]);
  const pid_t pid = ::fork();
  if (pid < 0) return errno_failure("start", request.argv[0]);
  if (pid == 0) become(request, writer.get());
  writer.reset();

  // The pipe closes without a word when execve succeeds.
  std::array<char, 1 + sizeof(int)> words{};
  ssize_t n;
  do {
    n = ::read(reader.get(), words.data(), words.size());
  } while (n < 0 && errno == EINTR);
  if (n == 0) return pid;
  ::waitpid(pid, nullptr, 0);
  int error = EIO;
  std::memcpy(&error, words.data() + 1, sizeof error);
  return errno_failure(step_name(words[0]), request.argv[0], error);
}

}  // namespace stillpoint::agent
