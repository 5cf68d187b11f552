#include "mpi-hooks/agent/agent.h"

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "mpi-hooks/agent/files.h"
#include "mpi-hooks/agent/mpirun.h"
#include "mpi-hooks/agent/network.h"

namespace stillpoint::agent {
namespace {

constexpr std::size_t kMaxWaiting = 64;
constexpr Millis kRoundDeadline = 2000;
constexpr Millis kQueryDeadline = 500;

Outcome<wire::GuestReply> done(Done outcome) {
  if (!outcome.ok()) return outcome.failure();
  return wire::GuestReply();
}

}  // namespace

void Agent::take(const wire::GuestRequest& request) {
  if (request.has_host_lease()) {  // a heartbeat: nothing was asked
    const Millis now = monotonic_ms();
    if (!wrong_gang(request) && lease_.word(request.lease_ms(), now)) lease_goes_on(now);
    return;
  }
  asked_since_link_opened_ = true;
  last_request_ = monotonic_ms();
  if (auto wrong = wrong_gang(request)) {
    if (!request.has_output_ack()) reply(request, *wrong);
    return;
  }
  if (lease_.prolong(request.lease_ms(), last_request_)) lease_goes_on(last_request_);
  if (auto overtaken = hold_.overtaken(request.epoch(), request.step())) return reply(request, *overtaken);
  if (hold_.held() && request.epoch() == hold_.epoch()) hold_.extend(last_request_);

  switch (request.body_case()) {
    case wire::GuestRequest::kOutputAck: job_.output().acked(request.output_ack().offset(), last_request_); return;
    case wire::GuestRequest::kCloseGates: {
      auto begun = close_gates(request);
      if (!begun.ok()) return reply(request, begun.failure());
      const auto& close = request.close_gates();
      return wait_for_answer(request, last_request_ + close.deadline_ms(),
                             close.defer_ms() != 0 ? last_request_ + close.defer_ms() : kNever);
    }
    case wire::GuestRequest::kCountRound:
      if (auto refused = hold_.require(request.epoch(), last_request_)) return reply(request, *refused);
      ranks_.ask(hooks::RankMessage::count, request.epoch());
      return wait_for_answer(request, last_request_ + kRoundDeadline);
    case wire::GuestRequest::kQueryRanks:
      // Frozen ranks cannot answer; what they last said holds.
      if (!hold_.frozen()) ranks_.ask(hooks::RankMessage::query, request.epoch());
      return wait_for_answer(request, last_request_ + (hold_.frozen() ? 0 : kQueryDeadline));
    case wire::GuestRequest::kStopRanks:
      stop_ranks();
      return wait_for_answer(request, last_request_ + request.stop_ranks().grace_ms());
    case wire::GuestRequest::kConfigure:
    case wire::GuestRequest::kPutFile:
    case wire::GuestRequest::kReadFile:
    case wire::GuestRequest::kStartJob:
    case wire::GuestRequest::kStartDaemon:
    case wire::GuestRequest::kLaunchOutcome:
    case wire::GuestRequest::kExamineRanks:
    case wire::GuestRequest::kFreezeRanks:
    case wire::GuestRequest::kThawRanks:
    case wire::GuestRequest::kReopenGates:
    case wire::GuestRequest::kReleaseRanks:
    case wire::GuestRequest::kAdopt:
    case wire::GuestRequest::kCheckLinks:
    case wire::GuestRequest::kHostLease:
    case wire::GuestRequest::BODY_NOT_SET: return reply(request, answer(request));
  }
}

// Stale requests are rejected first, before anything of them is looked at.
std::optional<wire::Failure> Agent::wrong_gang(const wire::GuestRequest& request) const {
  const auto refused = [&](std::string cause) {
    return failure(wire::Failure::REFUSED, "take a request",
                   request.gang().job() + " incarnation " + std::to_string(request.gang().incarnation()),
                   std::move(cause));
  };
  if (request.has_configure() && gang_.job().empty()) return std::nullopt;
  if (gang_.job().empty()) return refused("this guest is not configured yet");
  if (request.gang().job() != gang_.job()) return refused("this guest belongs to " + gang_.job());
  if (request.gang().incarnation() < gang_.incarnation()) {
    // The adoption's answer may have been lost; the request names the incarnation before it.
    if (request.has_adopt() && request.adopt().new_incarnation() == gang_.incarnation()) return std::nullopt;
    return refused("this guest has incarnation " + std::to_string(gang_.incarnation()));
  }
  if (request.gang().incarnation() > gang_.incarnation() && !request.has_adopt())
    return refused("this guest has incarnation " + std::to_string(gang_.incarnation()) +
                   " and has not adopted the new one");
  return std::nullopt;
}

Outcome<wire::GuestReply> Agent::answer(const wire::GuestRequest& request) {
  switch (request.body_case()) {
    case wire::GuestRequest::kConfigure: return done(configure(request.configure(), request.gang()));
    case wire::GuestRequest::kPutFile: {
      if (auto refused = needs_disk("put file")) return *refused;
      return done(put_file(workdir_, request.put_file()));
    }
    case wire::GuestRequest::kReadFile: {
      auto piece = read_file_piece(workdir_, request.read_file());
      if (!piece.ok()) return piece.failure();
      wire::GuestReply reply;
      *reply.mutable_file() = std::move(piece.value());
      return reply;
    }
    case wire::GuestRequest::kStartJob: return done(start_job(request.start_job()));
    case wire::GuestRequest::kStartDaemon: {
      if (auto refused = needs_disk("start daemon")) return *refused;
      return done(job_.start_daemon(request.start_daemon(), workdir_));
    }
    case wire::GuestRequest::kLaunchOutcome: launches_.outcome(request.launch_outcome()); return wire::GuestReply();
    case wire::GuestRequest::kExamineRanks: return done(examine_ranks(request.epoch()));
    case wire::GuestRequest::kFreezeRanks: return freeze(request);
    case wire::GuestRequest::kThawRanks: {
      if (auto refused = hold_.require(request.epoch(), monotonic_ms())) return *refused;
      return done(thaw_all());
    }
    case wire::GuestRequest::kReopenGates: return done(reopen(request));
    case wire::GuestRequest::kReleaseRanks: {
      wire::GuestReply reply;
      auto released = release(request, reply);
      if (!released.ok()) return released.failure();
      return reply;
    }
    case wire::GuestRequest::kAdopt: return adopt(request);
    case wire::GuestRequest::kCheckLinks: return check_links(request.check_links());
    case wire::GuestRequest::kCloseGates:
    case wire::GuestRequest::kCountRound:
    case wire::GuestRequest::kQueryRanks:
    case wire::GuestRequest::kStopRanks:
    case wire::GuestRequest::kOutputAck:
    case wire::GuestRequest::kHostLease:
    case wire::GuestRequest::BODY_NOT_SET: break;
  }
  return failure(wire::Failure::REFUSED, "take a request", "request " + std::to_string(request.id()),
                 "this agent does not know it");
}

void Agent::reply(const wire::GuestRequest& request, Outcome<wire::GuestReply> outcome) {
  wire::FromGuest message;
  message.set_epoch(request.epoch());
  wire::GuestReply& reply = *message.mutable_reply();
  if (outcome.ok()) {
    reply = std::move(outcome.value());
  } else {
    *reply.mutable_failure() = outcome.failure();
  }
  reply.set_id(request.id());
  refuse_too_large(reply);
  send(std::move(message));
}

void Agent::wait_for_answer(const wire::GuestRequest& request, Millis deadline, Millis defer_until) {
  // Sent again because the answer takes its time: one answer will do.
  if (std::any_of(waiting_.begin(), waiting_.end(), [&](const Waiting& w) { return w.request.id() == request.id(); }))
    return;
  if (waiting_.size() >= kMaxWaiting)
    return reply(request, failure(wire::Failure::TRANSIENT, "take a request", "guest " + std::to_string(guest_),
                                  "too many requests wait for an answer"));
  waiting_.push_back({request, deadline, defer_until});
  advance(monotonic_ms());
}

void Agent::advance(Millis now) {
  for (std::size_t i = 0; i < waiting_.size();) {
    auto outcome = try_answer(waiting_[i], now);
    if (!outcome) {
      ++i;
      continue;
    }
    reply(waiting_[i].request, std::move(*outcome));
    waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(i));
  }
}

std::optional<Outcome<wire::GuestReply>> Agent::try_answer(Waiting& waiting, Millis now) {
  const wire::GuestRequest& request = waiting.request;
  const bool late = now >= waiting.deadline;
  const bool about_hold = request.has_close_gates() || request.has_count_round();
  if (about_hold && (!hold_.held() || hold_.epoch() != request.epoch())) return *hold_.require(request.epoch(), now);

  wire::GuestReply reply;
  if (request.has_query_ranks()) {
    if (!late && !ranks_.all_answered()) return std::nullopt;
    for (wire::RankReport& report : ranks_.reports(guest_)) *reply.mutable_ranks()->add_ranks() = std::move(report);
    if (auto sockets = gang_sockets(gang_addresses_); sockets.ok())
      add_in_flight(*reply.mutable_ranks()->mutable_ranks(), sockets.value());
    return reply;
  }
  if (request.has_stop_ranks()) {
    if (job_.cgroup().populated() && !late) return std::nullopt;
    if (job_.cgroup().populated()) job_.cgroup().kill();
    return reply;
  }
  if (request.has_close_gates()) return try_close(waiting, now);
  if (!late && !ranks_.all_answered()) return std::nullopt;
  auto figures = round_figures();
  if (!figures.ok()) return figures.failure();
  *reply.mutable_round() = std::move(figures.value());
  return reply;
}

// All at rest: the first round. Somebody inside a call that must finish first: that is said early, for the coordinator
// to let everybody go on for a while.
std::optional<Outcome<wire::GuestReply>> Agent::try_close(Waiting& waiting, Millis now) {
  const std::uint32_t expected = waiting.request.close_gates().expected_ranks();
  const bool at_rest = ranks_.all_at_rest(expected);
  const bool defers = !at_rest && now >= waiting.defer_until && ranks_.deferring(expected);
  if (!at_rest && !defers) {
    waiting.look_at = kNever;
    if (now < waiting.deadline) return std::nullopt;
    return failure(wire::Failure::NOT_QUIET, "close the gates", "guest " + std::to_string(guest_),
                   ranks_.not_at_rest(expected));
  }
  if (now < waiting.look_at && waiting.settle_until != 0) return std::nullopt;
  auto figures = round_figures();
  if (!figures.ok()) return figures.failure();
  if (!defers && looks_again(waiting, figures.value(), now)) return std::nullopt;
  wire::GuestReply reply;
  *reply.mutable_round() = std::move(figures.value());
  if (defers) {
    reply.mutable_round()->set_deferring(true);
    reply.mutable_round()->set_cause(ranks_.not_at_rest(expected));
  }
  return reply;
}

Done Agent::configure(const wire::ConfigureGuest& configuration, const wire::GangRef& gang) {
  if (auto refused = needs_disk("configure")) return *refused;
  if (configuration.workdir().empty() || configuration.workdir()[0] != '/')
    return failure(wire::Failure::REFUSED, "configure", "work directory", "it must be an absolute path");
  if (configuration.wall_clock_ns() != 0 && gang_.job().empty()) set_wall_clock(configuration.wall_clock_ns());
  auto network = configure_network(configuration);
  if (!network.ok()) return network;
  std::error_code error;
  std::filesystem::create_directories(configuration.workdir(), error);
  if (error) return errno_failure("configure", configuration.workdir(), error.value());

  gang_ = gang;
  ranks_.set_incarnation(gang.incarnation());
  guest_ = configuration.guest();
  workdir_ = configuration.workdir();
  names_.clear();
  others_.clear();
  other_guests_.clear();
  gang_addresses_.clear();
  for (const wire::Neighbour& n : configuration.gang()) {
    const std::uint32_t address = *parse_ipv4(n.ip());
    names_.resize(std::max<std::size_t>(names_.size(), n.guest() + 1));
    names_[n.guest()] = n.name();
    gang_addresses_.insert(address);
    if (n.guest() == guest_) continue;
    others_.push_back(address);
    other_guests_.push_back(n.guest());
  }
  return Nothing{};
}

Done Agent::start_job(const wire::StartJob& start) {
  if (auto refused = needs_disk("start job")) return *refused;
  return job_.start(start, names_, workdir_);
}

// Whatever writes would hang in a frozen file system, and the agent with it.
std::optional<wire::Failure> Agent::needs_disk(const std::string& step) const {
  if (!disk_.frozen()) return std::nullopt;
  return failure(wire::Failure::TRANSIENT, step, "guest " + std::to_string(guest_),
                 "the guest is held and its file system is frozen");
}

// A held job is let go first: frozen processes do not see SIGTERM.
void Agent::stop_ranks() {
  stopping_ = true;  // from here on ranks end by a signal because they are to
  if (hold_.held()) let_go();
  job_.cgroup().signal(SIGTERM);
}

}  // namespace stillpoint::agent
