// The guest agent: process 1 of a guest, outside the job's cgroup. Serves the node daemon's requests (GuestRequest in
// common/wire/guest.proto, specified in docs/protocol.md) with one thread and one poll loop.
//
// Only these block, each for a bounded time: freezing (settle_ms and the disk's last writes), CheckLinks (its
// deadline), file pieces. During them the guest is frozen or not yet running.
#pragma once

#include <deque>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "guest.pb.h"
#include "mpi-hooks/agent/acknowledgements.h"
#include "mpi-hooks/agent/filesystem_freeze.h"
#include "mpi-hooks/agent/hold.h"
#include "mpi-hooks/agent/host_link.h"
#include "mpi-hooks/agent/job.h"
#include "mpi-hooks/agent/launches.h"
#include "mpi-hooks/agent/lease.h"
#include "mpi-hooks/agent/ranks.h"
#include "mpi-hooks/agent/socket_owners.h"
#include "mpi-hooks/agent/sockets.h"

namespace stillpoint::agent {

struct AgentOptions {
  std::string port = "stillpoint.0";
  int link_fd = -1;  // a connected socket in place of the port, where the guest is no machine (tests/cluster)
  std::string cgroup = "/sys/fs/cgroup/job";
  std::string layer = "/run/stillpoint/layer";
  std::string rank_socket = hooks::kAgentSocket;
  std::string launch_socket;
  std::function<void()> power_off;  // ends the guest at once and writes nothing out
};

class Agent {
 public:
  explicit Agent(const AgentOptions& options);
  Done listen();
  // Runs until the machine ends. children is a signalfd of SIGCHLD.
  [[noreturn]] void run(int children);

 private:
  // A request whose answer waits for the ranks or for the job's processes.
  struct Waiting {
    wire::GuestRequest request;
    Millis deadline = 0;
    Millis defer_until = kNever;                // then ranks that defer are reported instead of waited for
    Millis look_at = kNever, settle_until = 0;  // for what is in flight; 0: not looked yet
  };

  // The loop (agent_loop.cpp).
  Millis next_deadline() const;
  void wait(int children);
  void reap_children();
  void hello_if_due(Millis now);
  void send_what_is_due(Millis now);
  void link_opened();
  void hold_deadline(Millis now);
  void lease_goes_on(Millis now);
  // frozen: for a checkpoint.
  void watch_lease(bool frozen, Millis now);
  void send(wire::FromGuest message);

  // Requests (agent.cpp).
  void take(const wire::GuestRequest& request);
  std::optional<wire::Failure> wrong_gang(const wire::GuestRequest& request) const;
  Outcome<wire::GuestReply> answer(const wire::GuestRequest& request);
  void reply(const wire::GuestRequest& request, Outcome<wire::GuestReply> outcome);
  void wait_for_answer(const wire::GuestRequest& request, Millis deadline, Millis defer_until = kNever);
  std::optional<Outcome<wire::GuestReply>> try_close(Waiting& waiting, Millis now);
  // Answers what has come true or has run out of time.
  void advance(Millis now);
  std::optional<Outcome<wire::GuestReply>> try_answer(Waiting& waiting, Millis now);

  Done configure(const wire::ConfigureGuest& configuration, const wire::GangRef& gang);
  Done start_job(const wire::StartJob& start);
  std::optional<wire::Failure> needs_disk(const std::string& step) const;
  void stop_ranks();

  // The standstill (agent_hold.cpp).
  Done examine_ranks(std::uint64_t epoch);
  std::string connections_of_the_cut() const;
  std::optional<wire::Failure> refused_as_broken() const;
  Done close_gates(const wire::GuestRequest& request);
  Outcome<wire::GuestReply> freeze(const wire::GuestRequest& request);
  Done thaw_all();
  Done release(const wire::GuestRequest& request, wire::GuestReply& reply);
  Outcome<wire::GuestReply> adopt(const wire::GuestRequest& request);
  Outcome<wire::GuestReply> check_links(const wire::CheckLinks& check);
  void let_go();
  // What keeps the job's processes here from being checkpointed; empty = nothing.
  std::string refusals() const;
  // A rank of the job has died, here or elsewhere: it is reported. Where it was killed nothing of the job goes on here.
  void rank_failed(const Ranks::Failure& failure);
  void break_off(const std::string& why);
  void stop_for_good();
  Done reopen(const wire::GuestRequest& request);
  // Bytes that each rank's sockets have not delivered.
  void add_in_flight(google::protobuf::RepeatedPtrField<wire::RankReport>& ranks,
                     const std::vector<wire::SocketFigures>& sockets) const;
  Outcome<wire::RoundFigures> round_figures() const;
  Outcome<wire::GuestCut> cut() const;
  void let_ranks_read(Millis deadline) const;
  void settle(Millis deadline) const;
  bool looks_again(Waiting& waiting, const wire::RoundFigures& figures, Millis now);
  void acknowledge_late_arrivals(Millis now);
  Millis late_look_at() const;  // when next

  HostLink link_;
  Ranks ranks_;
  Launches launches_;
  Job job_;
  FilesystemFreeze disk_;
  Hold hold_;
  Lease lease_;
  AgentOptions options_;

  std::string boot_id_;
  wire::GangRef gang_;  // empty until configured
  std::uint32_t guest_ = 0;
  std::string workdir_;
  std::vector<std::string> names_;           // of all guests, by index
  std::vector<std::uint32_t> others_;        // addresses of the other guests
  std::vector<std::uint32_t> other_guests_;  // their indices
  AddressSet gang_addresses_;
  Proc proc_;
  mutable SocketOwners socket_owners_;
  mutable Acknowledgements acknowledgements_{socket_owners_};

  std::deque<Waiting> waiting_;
  Millis hello_at_ = 0;
  bool asked_since_link_opened_ = false, said_hello_ = false;
  Millis last_request_ = 0;
  std::uint64_t examined_ = 0;                     // epoch
  OutsideSockets known_outside_, outside_at_cut_;  // of that epoch
  Millis late_look_at_ = 0, late_until_ = 0;       // for late arrivals, while held
  struct PeerReport {
    wire::RankFailed failed;
    Millis send_at = 0;
    unsigned sends_left = 0;
    pid_t pid = 0;  // as in Ranks::Failure
  };
  std::vector<PeerReport> peer_reports_;
  bool stopping_ = false;  // the job was told to end: ranks that are gone are no failure any more
  std::string broken_;  // in words, which rank has failed; empty: none. Never taken back: a rollback replaces the job
  std::vector<wire::RankWish> wishes_;  // to send
};

}  // namespace stillpoint::agent
