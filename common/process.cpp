#include "common/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "common/fd.h"

extern char** environ;

namespace stillpoint {
namespace {

using Clock = std::chrono::steady_clock;

struct Pipe {
  Fd read, write;
};

Result<Pipe> make_pipe() {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) return errno_error("pipe", "", errno);
  return Pipe{Fd(fds[0]), Fd(fds[1])};
}

std::string join(const std::vector<std::string>& argv) {
  std::string text;
  for (const auto& arg : argv) text += (text.empty() ? "" : " ") + arg;
  return text;
}

Result<pid_t> spawn(const std::vector<std::string>& argv, Pipe& in, Pipe& out, Pipe& err) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in.read.get(), 0);
  posix_spawn_file_actions_adddup2(&actions, out.write.get(), 1);
  posix_spawn_file_actions_adddup2(&actions, err.write.get(), 2);
  // We may ignore SIGPIPE; the program that we start expects to die of it.
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t defaults;
  sigemptyset(&defaults);
  sigaddset(&defaults, SIGPIPE);
  posix_spawnattr_setsigdefault(&attributes, &defaults);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
  std::vector<char*> args;
  for (const auto& arg : argv) args.push_back(const_cast<char*>(arg.c_str()));
  args.push_back(nullptr);
  pid_t pid = -1;
  const int failed = ::posix_spawnp(&pid, args[0], &actions, &attributes, args.data(), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) return errno_error("start", argv[0], failed);
  return pid;
}

enum class PumpEnd { outputs_closed, deadline, too_much_output };

// Moves bytes until both outputs are at their end.
PumpEnd pump(const ProcessOptions& options, Pipe& in, Pipe& out, Pipe& err, ProcessOutcome& outcome,
             Clock::time_point end) {
  std::string_view input = options.input;
  if (input.empty()) in.write.reset();
  while (out.read || err.read) {
    pollfd polls[3] = {{out.read.get(), POLLIN, 0}, {err.read.get(), POLLIN, 0}, {in.write.get(), POLLOUT, 0}};
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count();
    if (left <= 0) return PumpEnd::deadline;
    if (::poll(polls, 3, static_cast<int>(left)) < 0) continue;  // EINTR; the arguments are good
    auto drain = [&options](Fd& fd, short events, std::string& into) {
      if (!fd || !(events & (POLLIN | POLLHUP | POLLERR))) return true;
      char block[16 << 10];
      const ssize_t n = ::read(fd.get(), block, sizeof block);
      if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN)) fd.reset();
      if (n > 0) into.append(block, static_cast<std::size_t>(n));
      return into.size() <= options.output_limit;
    };
    if (!drain(out.read, polls[0].revents, outcome.out) || !drain(err.read, polls[1].revents, outcome.err))
      return PumpEnd::too_much_output;
    if (in.write && (polls[2].revents & (POLLOUT | POLLERR))) {
      const ssize_t n = ::write(in.write.get(), input.data(), input.size());
      if (n > 0) input.remove_prefix(static_cast<std::size_t>(n));
      if (input.empty() || (n < 0 && errno != EINTR && errno != EAGAIN)) in.write.reset();
    }
  }
  return PumpEnd::outputs_closed;
}

std::chrono::nanoseconds time_of(const timeval& time) {
  return std::chrono::seconds(time.tv_sec) + std::chrono::microseconds(time.tv_usec);
}

// Whether it ends by then. Closed outputs do not say so: a program may close them and go on.
bool ends_by(pid_t pid, Clock::time_point end) {
  const Fd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!process) return true;  // a kernel without it: waited for without a deadline
  for (;;) {
    pollfd one{process.get(), POLLIN, 0};
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - Clock::now()).count();
    const int ready = ::poll(&one, 1, static_cast<int>(std::max<decltype(left)>(left, 0)));
    if (ready > 0) return true;
    if (ready == 0 && left <= 0) return false;
  }
}

}  // namespace

Result<ProcessOutcome> run_process(const std::vector<std::string>& argv, const ProcessOptions& options) {
  auto in = make_pipe(), out = make_pipe(), err = make_pipe();
  if (!in || !out || !err) return Error{ErrorKind::transient, "start", argv.at(0), "out of file descriptors"};
  ::fcntl(in->write.get(), F_SETFL, O_NONBLOCK);
  auto pid = spawn(argv, *in, *out, *err);
  if (!pid) return pid.error();
  in->read.reset();
  out->write.reset();
  err->write.reset();

  ProcessOutcome outcome;
  PumpEnd end = PumpEnd::outputs_closed;
  {
    // Gone before the program is reaped: until then its process id is nobody else's.
    const std::stop_callback kill_it(options.stop, [pid = *pid] { ::kill(pid, SIGKILL); });
    const auto deadline = Clock::now() + options.deadline;
    end = pump(options, *in, *out, *err, outcome, deadline);
    if (end == PumpEnd::outputs_closed && !ends_by(*pid, deadline)) end = PumpEnd::deadline;
    if (end != PumpEnd::outputs_closed) ::kill(*pid, SIGKILL);
    siginfo_t info{};
    while (::waitid(P_PID, static_cast<id_t>(*pid), &info, WEXITED | WNOWAIT) < 0 && errno == EINTR) {}
  }
  int status = 0;
  rusage used{};
  while (::wait4(*pid, &status, 0, &used) < 0 && errno == EINTR) {}
  if (options.cpu != nullptr) *options.cpu = time_of(used.ru_utime) + time_of(used.ru_stime);
  if (options.stop.stop_requested())
    return Error{ErrorKind::refused, "run", join(argv), "it was given up before its end"};
  if (end == PumpEnd::deadline)
    return Error{ErrorKind::deadline, "run", join(argv),
                 "did not end within " + std::to_string(options.deadline.count()) + " ms"};
  if (end == PumpEnd::too_much_output)
    return Error{ErrorKind::permanent, "run", join(argv),
                 "printed more than " + std::to_string(options.output_limit) + " bytes"};
  outcome.exit_code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  return outcome;
}

Result<std::string> run_checked(const std::vector<std::string>& argv, const ProcessOptions& options) {
  auto outcome = run_process(argv, options);
  if (!outcome) return outcome.error();
  if (outcome->exit_code != 0) {
    while (!outcome->err.empty() && outcome->err.back() == '\n') outcome->err.pop_back();
    return Error{ErrorKind::permanent, "run", join(argv),
                 "exit code " + std::to_string(outcome->exit_code) + (outcome->err.empty() ? "" : ": " + outcome->err)};
  }
  return std::move(outcome->out);
}

}  // namespace stillpoint
