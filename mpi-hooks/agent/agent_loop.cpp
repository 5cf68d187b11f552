// The loop: what the agent waits for, and what it says by itself.
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <utility>

#include "mpi-hooks/agent/agent.h"

namespace stillpoint::agent {
namespace {

constexpr Millis kHelloEvery = 1000;
constexpr std::size_t kMaxQueuedForOutput = 1u << 20;
constexpr unsigned kPeerReportSends = 5;
constexpr Millis kOwnEndFirst = 2000;
constexpr std::size_t kMaxWishes = 16;  // between two turns of the loop

std::string read_boot_id() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  std::getline(file, id);
  return id;
}

}  // namespace

Agent::Agent(const AgentOptions& options)
    : link_(options.link_fd >= 0 ? HostLink(Fd(options.link_fd)) : HostLink(options.port)),
      ranks_([this](const Ranks::Failure& failure) { rank_failed(failure); },
             [this](std::uint32_t rank, hooks::RankWish wish) {
               if (wishes_.size() >= kMaxWishes) return;
               wire::RankWish& one = wishes_.emplace_back();
               one.set_rank(rank);
               one.set_kind(wish == hooks::RankWish::checkpoint ? wire::RankWish::CHECKPOINT
                                                                : wire::RankWish::GOOD_MOMENT);
             }),
      job_(options.cgroup),
      disk_(options.layer),
      options_(options),
      boot_id_(read_boot_id()) {}

Done Agent::listen() {
  auto cgroup = job_.cgroup().create();
  if (!cgroup.ok()) return cgroup;
  auto ranks = ranks_.listen(options_.rank_socket);
  if (!ranks.ok()) return ranks;
  return launches_.listen(options_.launch_socket);
}

[[noreturn]] void Agent::run(int children) {
  for (;;) {
    wait(children);
    const Millis now = monotonic_ms();
    while (auto payload = link_.next_payload()) {
      wire::GuestRequest request;
      if (request.ParseFromString(*payload)) take(request);
    }
    advance(now);
    hold_deadline(now);
    watch_lease(hold_.frozen(), now);  // behind the words that have come
    acknowledge_late_arrivals(now);
    send_what_is_due(now);
  }
}

Millis Agent::next_deadline() const {
  Millis next = std::min({link_.deadline(), hold_.deadline(), lease_.deadline(hold_.frozen()), hello_at_,
                          job_.deadline(), launches_.deadline(), late_look_at()});
  for (const Waiting& waiting : waiting_) {
    next = std::min({next, waiting.deadline, waiting.look_at});
    // Once it has passed, what the ranks say wakes the loop.
    if (waiting.defer_until > monotonic_ms()) next = std::min(next, waiting.defer_until);
    // The emptying of the cgroup has no file descriptor here: looked at again until the deadline.
    if (waiting.request.has_stop_ranks()) next = std::min(next, monotonic_ms() + 50);
  }
  for (const PeerReport& report : peer_reports_)
    if (report.sends_left > 0) next = std::min(next, report.send_at);
  return next;
}

void Agent::wait(int children) {
  const Millis before = monotonic_ms();
  std::vector<pollfd> polls{link_.wait_for(before), {children, POLLIN, 0}};
  ranks_.wait_for(polls);
  launches_.wait_for(polls);
  job_.wait_for(polls);
  const Millis timeout = std::clamp<Millis>(next_deadline() - before, 0, 60'000);
  ::poll(polls.data(), polls.size(), static_cast<int>(timeout));
  const Millis now = monotonic_ms();
  if (link_.handle(polls[0].revents, now)) link_opened();
  if (polls[1].revents != 0) {
    signalfd_siginfo ignored[16];
    (void)!::read(children, ignored, sizeof ignored);
    reap_children();
  }
  ranks_.handle(polls);
  launches_.handle(polls);
  job_.handle(polls);
}

// One that was killed is news at once, and so is one that says with which exit code it ends itself. One that is gone
// without a word may have taken the job with it: then the job's own end is the better news, and goes first.
void Agent::rank_failed(const Ranks::Failure& failure) {
  if (stopping_ || (failure.exit_code && !broken_.empty())) return;  // a consequence of what is known already
  const Millis now = monotonic_ms();
  auto report = std::find_if(peer_reports_.begin(), peer_reports_.end(),
                             [&](const PeerReport& r) { return r.failed.rank() == failure.rank; });
  const bool first = report == peer_reports_.end();
  if (first) report = peer_reports_.insert(report, PeerReport{{}, now + kOwnEndFirst, kPeerReportSends, failure.pid});
  // Dead, or, as its gate opens when it loses its agent, under way again: what was held of it is not there any more.
  if (failure.pid != 0 && hold_.held()) let_go();
  if (failure.exit_code) {
    report->failed.set_exit_code(*failure.exit_code);
    report->send_at = now;
    report->pid = 0;
  }
  if (first || failure.killed || failure.exit_code) {
    report->failed.set_rank(failure.rank);
    report->failed.set_detail(failure.words);
  }
  if (!failure.killed) return;
  report->pid = 0;
  report->send_at = std::min(report->send_at, now);
  if (broken_.empty())
    break_off((failure.rank == hooks::kUnknownRank ? "a rank" : "rank " + std::to_string(failure.rank)) +
              " has failed: " + failure.words);
}

void Agent::break_off(const std::string& why) {
  broken_ = why;
  std::fprintf(stderr, "stillpoint-agent: %s\n", why.c_str());
  // First, so that nothing runs when a hold is let go. mpirun and prted go on: they may still have a word to say.
  stop_for_good();
  job_.silence();
  if (hold_.held()) let_go();
}

// A rank that computes outside MPI meets no gate, and one in a call may come out of it; what either would still write
// must not stand beside what its successor writes after a restart.
void Agent::stop_for_good() {
  std::set<pid_t> stopped;
  const auto stop = [&](pid_t pid) { return pid > 1 && stopped.insert(pid).second && ::kill(pid, SIGSTOP) == 0; };
  for (const Ranks::Linked& rank : ranks_.linked()) stop(rank.pid);
  // What ranks have started; again, for what was being started meanwhile.
  for (bool more = true; more;) {
    more = false;
    for (const pid_t pid : job_.cgroup().processes())
      if (proc_.rank(pid)) more = stop(pid) || more;
  }
}

void Agent::reap_children() {
  int status = 0;
  for (pid_t pid; (pid = ::waitpid(-1, &status, WNOHANG)) > 0;) job_.reaped(pid, status, monotonic_ms());
}

void Agent::link_opened() {
  hello_at_ = 0;
  asked_since_link_opened_ = said_hello_ = false;
  hold_.link_opened();
  job_.output().send_again();
  job_.say_exit_again();
  launches_.send_again();
  // The daemon that opens it may be another one, and the coordinator, too.
  for (PeerReport& report : peer_reports_) report.sends_left = std::max(report.sends_left, 1u);
}

// Once, and until the first request; in a held guest that nobody speaks to, which may be a restored one; and while a
// word of the lease is late.
void Agent::hello_if_due(Millis now) {
  const bool silent = (hold_.held() && now - last_request_ >= kHelloEvery) || now >= lease_.asks_at();
  if (!link_.connected() || (asked_since_link_opened_ && said_hello_ && !silent)) {
    hello_at_ = hold_.held() ? std::max(now, last_request_) + kHelloEvery : kNever;
    if (link_.connected()) hello_at_ = std::min(hello_at_, lease_.asks_at());
    return;
  }
  if (now < hello_at_) return;
  hello_at_ = now + kHelloEvery;
  said_hello_ = true;
  wire::FromGuest message;
  wire::GuestHello& hello = *message.mutable_hello();
  hello.set_phase(hold_.held()          ? wire::GuestHello::HELD
                  : job_.started()      ? wire::GuestHello::RUNNING
                  : gang_.job().empty() ? wire::GuestHello::BLANK
                                        : wire::GuestHello::READY);
  *hello.mutable_gang() = gang_;
  hello.set_guest(guest_);
  hello.set_epoch(hold_.epoch());
  hello.set_boot_id(boot_id_);
  hello.set_agent_version(STILLPOINT_VERSION);
  for (const char* ability : {"steps", "lease"}) hello.add_abilities(ability);
  send(std::move(message));
}

void Agent::send_what_is_due(Millis now) {
  hello_if_due(now);
  for (wire::LaunchRequest& launch : launches_.due(now)) {
    wire::FromGuest message;
    *message.mutable_launch() = std::move(launch);
    send(std::move(message));
  }
  // A process that only lost its connection has found the agent again by now.
  std::erase_if(peer_reports_, [&](const PeerReport& report) {
    const char state = report.pid == 0 || now < report.send_at ? '\0' : proc_.state(report.pid);
    return state != '\0' && state != 'Z' && state != 'X';
  });
  for (PeerReport& report : peer_reports_) {
    if (report.sends_left == 0 || now < report.send_at) continue;
    --report.sends_left;
    report.send_at = now + 2000;
    wire::FromGuest message;
    *message.mutable_rank_failed() = report.failed;
    send(std::move(message));
  }
  for (const wire::RankWish& wish : std::exchange(wishes_, {})) {
    wire::FromGuest message;
    *message.mutable_rank_wish() = wish;
    send(std::move(message));
  }
  if (!link_.connected()) return;
  while (link_.queued() < kMaxQueuedForOutput) {
    auto output = job_.output().next(now);
    if (!output) break;
    wire::FromGuest message;
    *message.mutable_output() = std::move(*output);
    send(std::move(message));
  }
  if (auto exited = job_.exit_due(now)) {
    wire::FromGuest message;
    *message.mutable_exited() = std::move(*exited);
    send(std::move(message));
  }
}

void Agent::send(wire::FromGuest message) {
  *message.mutable_gang() = gang_;
  if (message.epoch() == 0) message.set_epoch(hold_.epoch());
  link_.send(message.SerializeAsString());
}

}  // namespace stillpoint::agent
