// The job's processes on this guest: mpirun with its output on guest 0, prted on the others. Never blocks. One owner.
#pragma once

#include <poll.h>
#include <sys/types.h>

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/fd.h"
#include "guest.pb.h"
#include "mpi-hooks/agent/cgroup.h"
#include "mpi-hooks/agent/clock.h"
#include "mpi-hooks/agent/outcome.h"
#include "mpi-hooks/agent/output_buffer.h"

namespace stillpoint::agent {

class Job {
 public:
  explicit Job(std::string cgroup) : cgroup_(std::move(cgroup)) {}

  Cgroup& cgroup() { return cgroup_; }
  const Cgroup& cgroup() const { return cgroup_; }
  OutputBuffer& output() { return output_; }
  const OutputBuffer& output() const { return output_; }
  bool started() const { return started_; }

  // mpirun. Asked again, it is done already.
  Done start(const wire::StartJob& start, const std::vector<std::string>& guests, const std::string& workdir);
  // A daemon that mpirun asked for; the same launch is started once.
  Done start_daemon(const wire::StartDaemon& start, const std::string& workdir);

  // Reading stops while the job is held, so that the output's offset belongs to the cut.
  void hold_output(bool hold) { output_held_ = hold; }
  // The job is broken and nobody wants its output any more, unless it ends all the same: mpirun says why.
  void silence() { silenced_ = true; }
  void wait_for(std::vector<pollfd>& polls) const;
  void handle(const std::vector<pollfd>& polls);
  // A child of the agent has ended; most are orphans of the job that nobody waits for.
  void reaped(pid_t pid, int status, Millis now);

  // mpirun has ended, everything it wrote is in output(), and it is time to say so (again).
  std::optional<wire::JobExited> exit_due(Millis now);
  void say_exit_again() { exit_next_ = 0; }
  bool ended() const { return exit_status_.has_value(); }
  Millis deadline() const;

 private:
  bool output_complete(Millis now) const;
  bool reads_output() const { return pipe_ && !output_held_ && (!silenced_ || ended()); }

  Cgroup cgroup_;
  OutputBuffer output_;
  Fd pipe_;
  bool started_ = false;
  bool output_held_ = false;
  bool silenced_ = false;
  pid_t mpirun_ = 0;
  std::set<std::uint64_t> launched_;
  std::optional<int> exit_status_;  // as waitpid gives it
  Millis ended_at_ = 0;
  Millis exit_next_ = 0;
  unsigned exits_said_ = 0;
};

}  // namespace stillpoint::agent
