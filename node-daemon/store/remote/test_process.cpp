#include "node-daemon/store/remote/test_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <cerrno>
#include <stdexcept>

namespace stillpoint::node::test {
namespace {

// Between fork and exec: nothing that takes a lock or memory.
[[noreturn]] void become(char* const* arguments, int out, pid_t parent) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(127);
  ::dup2(out, STDOUT_FILENO);
  ::execvp(arguments[0], arguments);
  ::_exit(127);
}

}  // namespace

TestProcess::TestProcess(const std::vector<std::string>& argv) {
  std::vector<char*> arguments;
  for (const std::string& argument : argv) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("no pipe");
  out_.reset(ends[0]);
  const Fd write_end(ends[1]);
  const pid_t parent = ::getpid();
  pid_ = ::fork();
  if (pid_ == 0) become(arguments.data(), write_end.get(), parent);
  if (pid_ < 0) throw std::runtime_error("cannot start " + argv.front());
}

std::string TestProcess::line(std::chrono::seconds deadline) {
  const auto end = std::chrono::steady_clock::now() + deadline;
  for (std::string text;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
    pollfd readable{out_.get(), POLLIN, 0};
    if (left.count() <= 0 || ::poll(&readable, 1, static_cast<int>(left.count())) < 0)
      throw std::runtime_error("a program said nothing in time");
    char c = 0;
    if (readable.revents == 0) continue;
    if (::read(out_.get(), &c, 1) != 1) throw std::runtime_error("a program ended before it was ready");
    if (c == '\n') return text;
    text += c;
  }
}

void TestProcess::kill() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {}
  pid_ = -1;
}

}  // namespace stillpoint::node::test
