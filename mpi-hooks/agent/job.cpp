#include "mpi-hooks/agent/job.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "mpi-hooks/agent/mpirun.h"
#include "mpi-hooks/agent/spawn.h"

namespace stillpoint::agent {
namespace {
// A process that the program left behind may keep the pipe open; its output is not waited for.
constexpr Millis kWaitForPipe = 2000;

bool hooks_are_here() { return ::access(kHookLibrary, R_OK) == 0; }
}  // namespace

Done Job::start(const wire::StartJob& start, const std::vector<std::string>& guests, const std::string& workdir) {
  if (started_) return Nothing{};
  MpirunInputs inputs;
  inputs.job = &start;
  inputs.guests = guests;
  inputs.workdir = workdir;
  inputs.cpus = static_cast<unsigned>(std::max(1L, ::sysconf(_SC_NPROCESSORS_ONLN)));
  inputs.hooks = hooks_are_here();
  auto argv = mpirun_command(inputs);
  if (!argv.ok()) return argv.failure();

  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return errno_failure("start job", "output pipe");
  pipe_.reset(ends[0]);
  const Fd writer(ends[1]);
  ::fcntl(pipe_.get(), F_SETFL, O_NONBLOCK);
  ::fcntl(pipe_.get(), F_SETPIPE_SZ, 1 << 18);
  const auto environment = job_environment(workdir, &start, inputs.hooks);
  auto pid = spawn({argv.value(), environment, workdir, cgroup_.directory(), writer.get()});
  if (!pid.ok()) {
    pipe_.reset();
    return pid.failure();
  }
  mpirun_ = pid.value();
  started_ = true;
  return Nothing{};
}

Done Job::start_daemon(const wire::StartDaemon& start, const std::string& workdir) {
  if (launched_.contains(start.launch())) return Nothing{};
  // As ssh does it: the words become one command line for the shell.
  std::string line;
  for (const std::string& word : start.argv()) line += (line.empty() ? "" : " ") + word;
  const auto environment = job_environment(workdir, nullptr, hooks_are_here());
  auto pid = spawn({{"/bin/sh", "-c", line}, environment, workdir, cgroup_.directory(), STDERR_FILENO});
  if (!pid.ok()) return pid.failure();
  launched_.insert(start.launch());
  started_ = true;
  return Nothing{};
}

void Job::wait_for(std::vector<pollfd>& polls) const {
  const bool read = reads_output() && output_.room() > 0;
  polls.push_back({read ? pipe_.get() : -1, POLLIN, 0});
}

void Job::handle(const std::vector<pollfd>& polls) {
  if (!reads_output()) return;
  if (std::none_of(polls.begin(), polls.end(), [&](const pollfd& p) { return p.fd == pipe_.get() && p.revents != 0; }))
    return;
  char bytes[65536];
  while (output_.room() > 0) {
    const ssize_t n = ::read(pipe_.get(), bytes, std::min(sizeof bytes, output_.room()));
    if (n < 0) return;
    if (n == 0) {
      pipe_.reset();
      return;
    }
    output_.append({bytes, static_cast<std::size_t>(n)});
  }
}

void Job::reaped(pid_t pid, int status, Millis now) {
  if (pid != mpirun_) return;
  mpirun_ = 0;
  exit_status_ = status;
  ended_at_ = now;
}

bool Job::output_complete(Millis now) const {
  return (!pipe_ || (now >= ended_at_ + kWaitForPipe && output_.room() > 0)) && output_.all_sent();
}

std::optional<wire::JobExited> Job::exit_due(Millis now) {
  if (!exit_status_ || now < exit_next_ || !output_complete(now)) return std::nullopt;
  exit_next_ = now + (exits_said_++ < 10 ? 2000 : 10'000);
  wire::JobExited exited;
  const int status = *exit_status_;
  exited.set_exit_code(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
  if (WIFSIGNALED(status)) exited.set_detail("mpirun was ended by signal " + std::to_string(WTERMSIG(status)));
  exited.set_output_offset(output_.produced());
  return exited;
}

Millis Job::deadline() const {
  Millis next = output_.deadline();
  if (exit_status_) next = std::min(next, pipe_ ? std::max(exit_next_, ended_at_ + kWaitForPipe) : exit_next_);
  // Output that does not go out keeps the exit waiting without a deadline of its own.
  if (exit_status_ && !output_.all_sent()) next = output_.deadline();
  return next;
}

}  // namespace stillpoint::agent
