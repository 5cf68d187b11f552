#include "tests/simulation/guest.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

namespace stillpoint::simulation {
namespace {

constexpr std::uint32_t kNetwork = (10u << 24) | (99u << 16);
constexpr agent::Millis kAgain = 1'000;  // what was not acknowledged is said again
constexpr std::uint64_t kStepsOfLine = 3;
constexpr unsigned kRankLostTimes = 5;

std::uint32_t address_of(std::uint32_t guest) { return kNetwork + 1 + guest; }

wire::Failure refused(std::string cause) {
  return agent::failure(wire::Failure::REFUSED, "take a request", "guest", std::move(cause));
}

}  // namespace

std::string line(std::uint64_t number) { return fmt::format("line {:06}\n", number); }

std::string lines_upto(std::uint64_t last) {
  std::string text;
  for (std::uint64_t i = 1; i <= last; ++i) text += line(i);
  return text;
}

// ---- the agent's requests

wire::FromGuest Guest::says() const {
  wire::FromGuest message;
  message.mutable_gang()->set_job(job);
  message.mutable_gang()->set_incarnation(incarnation);
  message.set_epoch(hold.epoch());
  return message;
}

std::optional<wire::Failure> Guest::wrong_gang(const wire::GuestRequest& request) const {
  if (request.has_configure() && job.empty()) return std::nullopt;
  if (job.empty()) return refused("this guest is not configured yet");
  const auto asked = request.gang().incarnation();
  if (asked < incarnation) {
    if (request.has_adopt() && request.adopt().new_incarnation() == incarnation) return std::nullopt;
    return refused(fmt::format("this guest has incarnation {}", incarnation));
  }
  if (asked > incarnation && !request.has_adopt()) return refused("it has not adopted the new incarnation");
  return std::nullopt;
}

std::optional<wire::FromGuest> Guest::take(const wire::GuestRequest& request, const Surroundings& around) {
  const auto wrong = wrong_gang(request);
  if (request.has_host_lease()) {
    if (!wrong && !old_agent) lease.word(request.lease_ms(), around.clock);
    return std::nullopt;
  }
  if (!wrong && !old_agent) lease.prolong(request.lease_ms(), around.clock);
  asked_since_link_ = true;
  last_request_ = around.clock;
  if (request.has_output_ack()) {
    if (!wrong) output_acked_ = std::min(output_end(), std::max(output_acked_, request.output_ack().offset()));
    return std::nullopt;
  }
  auto refused = wrong;
  if (!refused && !old_agent) refused = hold.overtaken(request.epoch(), request.step());
  if (!refused && hold.held() && request.epoch() == hold.epoch()) hold.extend(around.clock);
  wire::GuestReply reply;
  if (refused) *reply.mutable_failure() = *refused;
  else reply = answer(request, around);
  reply.set_id(request.id());
  auto message = says();
  message.set_epoch(request.epoch());
  *message.mutable_reply() = std::move(reply);
  return message;
}

wire::GuestReply Guest::answer(const wire::GuestRequest& request, const Surroundings& around) {
  using R = wire::GuestRequest;
  wire::GuestReply reply;
  const auto fails = [&](const std::optional<wire::Failure>& failure) {
    if (failure) *reply.mutable_failure() = *failure;
    return failure.has_value();
  };
  const auto epoch = request.epoch();
  switch (request.body_case()) {
    case R::kConfigure: configure(request); break;
    case R::kStartJob:
      if (!std::exchange(started, true))
        for (std::uint32_t other = 1; other < gang; ++other) launches.insert(other);
      break;
    case R::kStartDaemon: started = true; break;
    case R::kLaunchOutcome:
      if (request.launch_outcome().has_failure()) end(1);
      launches.erase(request.launch_outcome().launch());
      break;
    case R::kExamineRanks:
      if (rank_lost_) fails(refused("rank 0 has failed; the job has to be restarted"));
      break;
    case R::kCloseGates:
      if (rank_lost_) {
        fails(refused("rank 0 has failed; the job has to be restarted"));
        break;
      }
      if (!launched()) {
        fails(agent::failure(wire::Failure::NOT_QUIET, "close the gates", "guest", "not all ranks are there"));
        break;
      }
      if (fails(hold.begin(epoch, request.close_gates().hold_ms(), around.clock))) break;
      gates_shut = true;
      *reply.mutable_round() = round();
      if (around.deferring) {
        reply.mutable_round()->set_deferring(true);
        reply.mutable_round()->set_cause("rank 0 is inside MPI_Comm_spawn");
      }
      break;
    case R::kCountRound:
      if (!fails(hold.require(epoch, around.clock))) *reply.mutable_round() = round();
      break;
    case R::kReopenGates:
      if (fails(hold.require(epoch, around.clock))) break;
      hold.thawed();
      gates_shut = false;
      break;
    case R::kFreezeRanks:
      if (hold.epoch() != epoch && fails(hold.begin(epoch, 30'000, around.clock))) break;
      if (!hold.frozen()) hold.froze(around.skew);
      hold.extend(around.clock);
      *reply.mutable_cut() = cut();
      break;
    case R::kThawRanks:
      if (!fails(hold.require(epoch, around.clock))) hold.thawed();
      break;
    case R::kReleaseRanks: {
      const bool was_held = hold.held();
      reply.mutable_release()->set_held(hold.release(epoch));
      if (was_held && !hold.held()) open();
      break;
    }
    case R::kAdopt:
      if (fails(hold.require(epoch, around.clock))) break;
      if (request.adopt().new_incarnation() > incarnation) {
        incarnation = request.adopt().new_incarnation();
        lease.forget();
        if (!old_agent) lease.word(request.lease_ms(), around.clock);
        said_hello_ = false;
        hello_at_ = 0;
        send_again();
      }
      break;
    case R::kCheckLinks:
      for (const auto other : around.seen) reply.mutable_links()->add_reached(other);
      *reply.mutable_links()->mutable_cut() = cut();
      if (hold.held()) hold.extend(around.clock);
      break;
    case R::kQueryRanks: {
      auto& rank = *reply.mutable_ranks()->add_ranks();
      rank.set_rank(guest);
      rank.set_guest(guest);
      rank.set_state(hold.held() ? wire::RankReport::GATED : wire::RankReport::COMPUTING);
      break;
    }
    case R::kStopRanks:
      if (hold.held()) {
        hold.lost();
        open();
      }
      end(143);
      break;
    case R::kReadFile: {
      const auto whole = fmt::format("{} after {} lines", request.read_file().path(), lines);
      reply.mutable_file()->set_data(whole.substr(std::min<std::size_t>(whole.size(), request.read_file().offset())));
      reply.mutable_file()->set_end(true);
      break;
    }
    case R::kPutFile:
    case R::kOutputAck:
    case R::kHostLease:
    case R::BODY_NOT_SET: break;
  }
  return reply;
}

void Guest::configure(const wire::GuestRequest& request) {
  job = request.gang().job();
  incarnation = request.gang().incarnation();
  guest = request.configure().guest();
  gang = static_cast<std::uint32_t>(request.configure().gang_size());
  for (auto* counters : {&sent, &acked, &received}) counters->assign(gang, 0);
}

void Guest::open() {
  hold.thawed();
  gates_shut = false;
}

wire::RoundFigures Guest::round() const {
  wire::RoundFigures figures;
  for (std::uint32_t other = 0; other < gang; ++other) {
    figures.set_bytes_acked(figures.bytes_acked() + acked[other]);
    figures.set_bytes_received(figures.bytes_received() + received[other]);
    figures.set_in_flight(figures.in_flight() + sent[other] - acked[other]);
  }
  figures.set_mpi_calls(steps);
  return figures;
}

wire::GuestCut Guest::cut() const {
  wire::GuestCut cut;
  cut.set_guest(guest);
  for (std::uint32_t other = 0; other < gang; ++other) {
    if (other == guest) continue;
    auto& s = *cut.add_sockets();
    const bool opener = guest < other;
    s.set_local_ip(address_of(guest));
    s.set_remote_ip(address_of(other));
    s.set_local_port(opener ? 1000 + other : 2000);
    s.set_remote_port(opener ? 2000 : 1000 + guest);
    s.set_state(1);
    s.set_bytes_acked(acked[other] + (opener ? 1 : 0));
    s.set_bytes_received(received[other]);
    s.set_unacked(static_cast<std::uint32_t>(sent[other] - acked[other]));
  }
  if (guest == 0) cut.set_output_offset(output_end());
  return cut;
}

// ---- what it says by itself

void Guest::send_again() {
  output_next_ = output_acked_;
  exit_at_ = 0;
  launches_said_.clear();
}

void Guest::link_opened() {
  asked_since_link_ = said_hello_ = false;
  hello_at_ = 0;
  hold.link_opened();
  rank_lost_said_ = std::min(rank_lost_said_, kRankLostTimes - 1);
  send_again();
}

std::vector<wire::FromGuest> Guest::due(agent::Millis clock) {
  std::vector<wire::FromGuest> out;
  const bool silent = (hold.held() && clock - last_request_ >= kAgain) || clock >= lease.asks_at();
  if ((!asked_since_link_ || !said_hello_ || silent) && clock >= hello_at_) {
    said_hello_ = true;
    hello_at_ = clock + kAgain;
    auto& hello = *out.emplace_back(says()).mutable_hello();
    hello.set_phase(hold.held()   ? wire::GuestHello::HELD
                    : job.empty() ? wire::GuestHello::BLANK
                                  : wire::GuestHello::RUNNING);
    hello.set_epoch(hold.epoch());
    hello.set_boot_id("boot");
    if (!old_agent)
      for (const char* ability : {"steps", "lease"}) hello.add_abilities(ability);
  }
  for (const auto launch : launches) {
    if (!launches_said_.insert(launch).second) continue;
    auto& asks = *out.emplace_back(says()).mutable_launch();
    asks.set_launch(launch);
    asks.set_target(fmt::format("guest-{}", launch));
  }
  if (rank_lost_ && rank_lost_said_ < kRankLostTimes && clock >= exit_at_) {
    ++rank_lost_said_;
    auto& failed = *out.emplace_back(says()).mutable_rank_failed();
    failed.set_rank(guest);
    failed.set_detail("killed by signal 9");
  }
  if (guest != 0 || hold.frozen()) return out;
  if (clock >= output_at_ + kAgain) output_next_ = output_acked_;
  if (output_next_ < output_end()) {
    auto& output = *out.emplace_back(says()).mutable_output();
    output.set_offset(output_next_);
    std::string text;
    for (auto at = output_next_ / kLineBytes; at < lines; ++at) text += line(at + 1);
    output.set_data(text.substr(output_next_ % kLineBytes));
    output_next_ = output_end();
    output_at_ = clock;
  }
  if (exited && !rank_lost_ && clock >= exit_at_) {
    exit_at_ = clock + kAgain;
    auto& ended = *out.emplace_back(says()).mutable_exited();
    ended.set_exit_code(exit_code);
    ended.set_output_offset(output_end());
  }
  return out;
}

bool Guest::hold_deadline(const Surroundings& around) {
  if (!hold.held() || around.clock < hold.deadline() || !hold.lets_go(around.skew, around.clock)) return false;
  (void)lease.due(false, around.clock);
  hold.lost();
  open();
  return true;
}

bool Guest::lease_deadline(agent::Millis clock) {
  return lease.due(hold.frozen(), clock) == agent::Lease::Due::power_off;
}

bool Guest::kill_rank() {
  if (!launched() || exited || rank_lost_) return false;
  rank_lost_ = stopped = true;
  if (!hold.held()) return true;
  hold.lost();
  open();
  return true;
}

// ---- the program

std::optional<std::uint32_t> Guest::step() {
  ++steps;
  if (guest == 0 && steps % kStepsOfLine == 0) ++lines;
  if (gang < 2) return std::nullopt;
  const auto other = static_cast<std::uint32_t>((guest + 1 + steps % (gang - 1)) % gang);
  ++sent[other];
  return other;
}

void Guest::end(int code) {
  stopped = true;
  if (guest == 0 && !std::exchange(exited, true)) exit_code = code;
}

}  // namespace stillpoint::simulation
