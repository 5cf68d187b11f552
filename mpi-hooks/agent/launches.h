// Launch requests of the local mpirun: stillpoint-launch connects, says target and command, and waits for the word
// that it was started there. Guest 0's side. Never blocks. One owner.
#pragma once

#include <poll.h>

#include <map>
#include <string>
#include <vector>

#include "common/fd.h"
#include "guest.pb.h"
#include "mpi-hooks/agent/clock.h"
#include "mpi-hooks/agent/outcome.h"

namespace stillpoint::agent {

class Launches {
 public:
  static constexpr Millis kSendAgainAfter = 2000;
  static constexpr std::size_t kMaxWaiting = 4096;

  Done listen(const std::string& path);
  void wait_for(std::vector<pollfd>& polls) const;
  void handle(const std::vector<pollfd>& polls);

  // Requests to send now: new ones, and those that nobody has answered for a while.
  std::vector<wire::LaunchRequest> due(Millis now);
  Millis deadline() const;
  void send_again();
  // The answer; unknown ids are old ones.
  void outcome(const wire::LaunchOutcome& outcome);

 private:
  struct Waiting {
    Fd fd;
    wire::LaunchRequest request;  // empty target: not read yet
    Millis send_at = 0;
  };
  static bool receive(Waiting& waiting);

  Fd listener_;
  std::map<std::uint64_t, Waiting> waiting_;
  std::uint64_t next_ = 1;
};

}  // namespace stillpoint::agent
