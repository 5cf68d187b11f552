// The loop: what the agent waits for, and what it says by itself.
#include <poll.h>
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
      ranks_(
          [this](std::uint32_t rank, std::string detail) {
            if (std::any_of(peer_reports_.begin(), peer_reports_.end(),
                            [&](const auto& r) { return r.failed.rank() == rank; }))
              return;
            PeerReport report;
            report.failed.set_rank(rank);
            report.failed.set_detail(std::move(detail));
            report.sends_left = kPeerReportSends;
            peer_reports_.push_back(std::move(report));
          },
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
    send_what_is_due(now);
  }
}

Millis Agent::next_deadline() const {
  Millis next = std::min({link_.deadline(), hold_.deadline(), hello_at_, job_.deadline(), launches_.deadline()});
  for (const Waiting& waiting : waiting_) {
    next = std::min(next, waiting.deadline);
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

void Agent::reap_children() {
  int status = 0;
  for (pid_t pid; (pid = ::waitpid(-1, &status, WNOHANG)) > 0;) job_.reaped(pid, status, monotonic_ms());
}

void Agent::link_opened() {
  hello_at_ = 0;
  asked_since_link_opened_ = false;
  hold_.link_opened();
  job_.output().send_again();
  job_.say_exit_again();
  launches_.send_again();
}

// Until the first request; and in a held guest that nobody speaks to, which may be a restored one.
void Agent::hello_if_due(Millis now) {
  const bool silent = hold_.held() && now - last_request_ >= kHelloEvery;
  if (!link_.connected() || (asked_since_link_opened_ && !silent)) {
    hello_at_ = hold_.held() ? std::max(now, last_request_) + kHelloEvery : kNever;
    return;
  }
  if (now < hello_at_) return;
  hello_at_ = now + kHelloEvery;
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
  send(std::move(message));
}

void Agent::send_what_is_due(Millis now) {
  hello_if_due(now);
  for (wire::LaunchRequest& launch : launches_.due(now)) {
    wire::FromGuest message;
    *message.mutable_launch() = std::move(launch);
    send(std::move(message));
  }
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
