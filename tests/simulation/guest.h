// A guest of a gang: its program and its agent, as an image holds them. The agent keeps the rules of the hold with the
// real mpi-hooks/agent/hold.*, and of the host's lease with lease.*; the rest of it is a model of agent.cpp and
// agent_hold.cpp without processes, sockets and files. The program counts steps, sends a message to another guest now
// and then, and in guest 0 prints numbered lines. One owner: the machine that it runs in, or an image.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "guest.pb.h"
#include "mpi-hooks/agent/hold.h"
#include "mpi-hooks/agent/lease.h"

namespace stillpoint::simulation {

inline constexpr std::uint64_t kLineBytes = 12;  // "line 000042\n"
std::string line(std::uint64_t number);          // from 1
std::string lines_upto(std::uint64_t last);

class Guest {
 public:
  // What the agent asks its machine at the moment of a request.
  struct Surroundings {
    agent::Millis clock = 0;          // monotonic, of the guest
    std::int64_t skew = 0;            // seconds that the host's clock is ahead of it
    std::vector<std::uint32_t> seen;  // guests that answer a ping
    bool deferring = false;           // a rank is inside a call that must finish first
  };

  // ---- the agent
  std::optional<wire::FromGuest> take(const wire::GuestRequest& request, const Surroundings& around);
  void link_opened();
  // What it says by itself now.
  std::vector<wire::FromGuest> due(agent::Millis clock);
  // Its hold may have run out. True: it let go.
  bool hold_deadline(const Surroundings& around);
  // The host's lease may have ended. True: the guest ends.
  bool lease_deadline(agent::Millis clock);
  bool kill_rank();  // false: there is none any more

  // ---- the program
  bool computes() const { return launched() && !gates_shut && !hold.frozen() && !lease.ended() && !exited && !stopped; }
  bool launched() const { return started && (guest != 0 || launches.empty()); }
  // One step. The guest that a message goes to, if one does.
  std::optional<std::uint32_t> step();
  void end(int exit_code);
  std::uint64_t output_end() const { return lines * kLineBytes; }
  wire::GuestCut cut() const;

  std::string job;
  std::uint64_t incarnation = 0;
  std::uint32_t guest = 0;
  std::uint32_t gang = 1;  // how many guests there are
  bool old_agent = false;  // from before there were abilities
  agent::Hold hold;
  agent::Lease lease;
  bool gates_shut = false;
  bool started = false;  // guest 0: mpirun; the others: their daemon
  bool stopped = false;  // told to end, or broken off
  bool exited = false;   // mpirun has ended (guest 0)
  int exit_code = 0;
  std::uint64_t steps = 0;
  std::uint64_t lines = 0;                           // printed (guest 0)
  std::vector<std::uint64_t> sent, acked, received;  // messages, by guest
  std::set<std::uint64_t> launches;                  // not answered yet (guest 0)

 private:
  wire::FromGuest says() const;
  wire::GuestReply answer(const wire::GuestRequest& request, const Surroundings& around);
  std::optional<wire::Failure> wrong_gang(const wire::GuestRequest& request) const;
  void configure(const wire::GuestRequest& request);
  void open();
  wire::RoundFigures round() const;
  void send_again();

  bool asked_since_link_ = false, said_hello_ = false;
  agent::Millis last_request_ = 0, hello_at_ = 0, output_at_ = 0, exit_at_ = 0;
  std::uint64_t output_acked_ = 0, output_next_ = 0;
  std::set<std::uint64_t> launches_said_;
  bool rank_lost_ = false;
  unsigned rank_lost_said_ = 0;
};

}  // namespace stillpoint::simulation
