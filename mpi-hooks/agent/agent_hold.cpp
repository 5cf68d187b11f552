// The standstill: close, freeze, thaw, release, and what a restored guest does before it goes on.
#include <sys/prctl.h>
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <utility>

#include "mpi-hooks/agent/agent.h"
#include "mpi-hooks/agent/checks/check.h"
#include "mpi-hooks/agent/network.h"
#include "mpi-hooks/agent/rtc.h"

namespace stillpoint::agent {
namespace {

constexpr const char* kPrepare = "prepare the checkpoint";
constexpr Millis kFreezeDeadline = 3000;
constexpr Millis kFirstRoundSettles = 20;                // less than another round takes
constexpr Millis kArrivalsLook = 3, kArrivalsEnd = 100;  // after an answer: all guests are frozen by then
constexpr Millis kUnreadWait = 10;                       // legal at the cut, and a rank that reads does it sooner
constexpr Millis kHoldOfControl = 30'000;                // of a freeze without CloseGates before it

}  // namespace

// The first time of an epoch, and after its release.
Done Agent::examine_ranks(std::uint64_t epoch) {
  if (auto broken = refused_as_broken()) return *broken;
  std::string why = refusals();
  if (why.empty() && examined_ == epoch) why = connections_of_the_cut();
  if (!why.empty()) return failure(wire::Failure::REFUSED, kPrepare, "guest " + std::to_string(guest_), why);
  if (std::exchange(examined_, epoch) == epoch) return Nothing{};
  known_outside_ = outside_sockets(gang_addresses_);
  outside_at_cut_.clear();
  // So that nothing has to be looked for behind shut gates: whose socket is which.
  socket_owners_.forget();
  acknowledgements_.forget();
  if (auto sockets = gang_sockets(gang_addresses_); sockets.ok())
    acknowledgements_.send_now(sockets.value(), job_.cgroup().processes());
  disk_.begin_sync();
  return Nothing{};
}

// Closed again by now, perhaps; in the images they are open.
std::string Agent::connections_of_the_cut() const {
  std::string text;
  for (const auto& [inode, words] : outside_at_cut_)
    if (!known_outside_.contains(inode)) text += (text.empty() ? "" : "; ") + words;
  return text.empty() ? text : "a connection out of the job was open at the cut: " + text + "; try again";
}

std::optional<wire::Failure> Agent::refused_as_broken() const {
  if (broken_.empty()) return std::nullopt;
  return failure(wire::Failure::REFUSED, kPrepare, "guest " + std::to_string(guest_),
                 broken_ + "; the job has to be restarted");
}

Done Agent::close_gates(const wire::GuestRequest& request) {
  const bool anew = hold_.epoch() != request.epoch();
  if (anew && hold_.frozen()) {
    auto thawed = thaw_all();
    if (!thawed.ok()) return thawed;
  }
  if (auto broken = refused_as_broken()) return *broken;
  if (anew && examined_ != request.epoch())  // by a coordinator that does not know that it can be asked before
    if (auto examined = examine_ranks(request.epoch()); !examined.ok()) return examined;
  if (auto refused = hold_.begin(request.epoch(), request.close_gates().hold_ms(), monotonic_ms())) return *refused;
  ranks_.close_gates(request.epoch());
  return Nothing{};
}

std::string Agent::refusals() const {
  std::map<pid_t, Ranks::Linked> linked;
  for (Ranks::Linked& rank : ranks_.linked()) linked.emplace(rank.pid, std::move(rank));
  const OutsideSockets outside = outside_sockets(gang_addresses_);
  std::string text;
  for (const pid_t pid : job_.cgroup().processes()) {
    const auto rank = linked.find(pid);
    Subject process{proc_, pid, rank != linked.end(), {}, {}, proc_.open_files(pid), outside};
    if (process.linked) process.transport = rank->second.transport;
    else process.mapped = proc_.mapped_files(pid);
    const Finding finding = examine(process);
    if (!finding) continue;
    const auto number = proc_.rank(pid);
    text += (text.empty() ? "" : "; ") +
            (process.linked ? rank->second.words
             : number       ? "rank " + std::to_string(*number)
                            : std::string("a process")) +
            " (" + proc_.name(pid) + ", pid " + std::to_string(pid) + "): " + *finding;
  }
  return text;
}

Done Agent::reopen(const wire::GuestRequest& request) {
  if (auto refused = hold_.require(request.epoch(), monotonic_ms())) return *refused;
  if (hold_.frozen()) {
    auto thawed = thaw_all();
    if (!thawed.ok()) return thawed;
  }
  ranks_.open_gates();
  return Nothing{};
}

void Agent::add_in_flight(google::protobuf::RepeatedPtrField<wire::RankReport>& ranks,
                          const std::vector<wire::SocketFigures>& sockets) const {
  const std::vector<pid_t> pids = job_.cgroup().processes();
  for (const wire::SocketFigures& socket : sockets) {
    const std::uint64_t bytes = in_flight(socket);
    if (bytes == 0 || socket.inode() == 0) continue;
    const pid_t owner = socket_owners_.owner(socket.inode(), pids).pid;
    for (wire::RankReport& rank : ranks)
      if (owner != 0 && static_cast<pid_t>(rank.pid()) == owner) rank.set_in_flight(rank.in_flight() + bytes);
  }
}

Outcome<wire::RoundFigures> Agent::round_figures() const {
  auto sockets = gang_sockets(gang_addresses_);
  if (!sockets.ok()) return sockets.failure();
  acknowledgements_.send_now(sockets.value(), job_.cgroup().processes());
  wire::RoundFigures figures;
  for (const wire::SocketFigures& socket : sockets.value()) {
    figures.set_bytes_acked(figures.bytes_acked() + socket.bytes_acked());
    figures.set_bytes_received(figures.bytes_received() + socket.bytes_received());
    figures.set_in_flight(figures.in_flight() + in_flight(socket));
  }
  figures.set_busy(ranks_.busy());
  figures.set_mpi_calls(ranks_.calls());
  for (wire::RankReport& report : ranks_.reports(guest_)) *figures.add_ranks() = std::move(report);
  add_in_flight(*figures.mutable_ranks(), sockets.value());
  return figures;
}

Outcome<wire::GuestCut> Agent::cut() const {
  auto sockets = gang_sockets(gang_addresses_);
  if (!sockets.ok()) return sockets.failure();
  wire::GuestCut cut;
  cut.set_guest(guest_);
  for (wire::SocketFigures& socket : sockets.value()) *cut.add_sockets() = std::move(socket);
  cut.set_output_offset(job_.output().produced());
  for (wire::RankReport& report : ranks_.reports(guest_)) *cut.add_ranks() = std::move(report);
  return cut;
}

// Of a first round: what is in flight when the gates are shut is nearly always there a few milliseconds later, and to
// ask again takes longer.
bool Agent::looks_again(Waiting& waiting, const wire::RoundFigures& figures, Millis now) {
  late_until_ = now + kArrivalsEnd;
  if (figures.in_flight() == 0 || now >= waiting.deadline) return false;
  if (waiting.settle_until == 0) waiting.settle_until = now + kFirstRoundSettles;
  waiting.look_at = now + kArrivalsLook;
  return now < waiting.settle_until;
}

// What another guest had still on its way when this one had answered already: it waits for the acknowledgement.
void Agent::acknowledge_late_arrivals(Millis now) {
  if (now < late_look_at()) return;
  if (auto sockets = gang_sockets(gang_addresses_); sockets.ok())
    acknowledgements_.send_now(sockets.value(), job_.cgroup().processes());
  late_look_at_ = monotonic_ms() + kArrivalsLook;
}

Millis Agent::late_look_at() const { return hold_.held() && late_look_at_ < late_until_ ? late_look_at_ : kNever; }

// A frozen rank reads nothing, and what is not read is acknowledged late.
void Agent::let_ranks_read(Millis deadline) const {
  for (;;) {
    auto sockets = gang_sockets(gang_addresses_);
    if (!sockets.ok()) return;
    acknowledgements_.send_now(sockets.value(), job_.cgroup().processes());
    const auto& all = sockets.value();
    if (std::none_of(all.begin(), all.end(), [](const auto& s) { return s.receive_queue() != 0; })) return;
    if (monotonic_ms() >= deadline) return;
    const timespec pause{0, 1'000'000};
    ::nanosleep(&pause, nullptr);
  }
}

// The ranks stand still; what their kernels still owe each other needs a few milliseconds. Not reached in time, the
// figures tell, and the coordinator decides.
void Agent::settle(Millis deadline) const {
  for (;;) {
    auto sockets = gang_sockets(gang_addresses_);
    if (!sockets.ok() || monotonic_ms() >= deadline) return;
    acknowledgements_.send_now(sockets.value(), job_.cgroup().processes());
    if (std::none_of(sockets.value().begin(), sockets.value().end(), [](const auto& s) { return in_flight(s) != 0; }))
      return;
    const timespec pause{0, 2'000'000};
    ::nanosleep(&pause, nullptr);
  }
}

Outcome<wire::GuestReply> Agent::freeze(const wire::GuestRequest& request) {
  const Millis now = monotonic_ms();
  if (hold_.epoch() != request.epoch()) {
    // The control without quiescing, or an epoch that was let go.
    if (auto refused = hold_.begin(request.epoch(), kHoldOfControl, now)) return *refused;
  }
  if (!hold_.frozen()) {
    job_.hold_output(true);
    let_ranks_read(now + kUnreadWait);
    auto frozen = job_.cgroup().set_frozen(true, now + kFreezeDeadline);
    if (frozen.ok()) frozen = disk_.freeze();
    if (!frozen.ok()) {
      (void)thaw_all().ok();
      return frozen.failure();
    }
    hold_.froze(rtc_skew());
  }
  // Also when asked again: what the other guests sent until they froze has arrived meanwhile.
  settle(monotonic_ms() + request.freeze_ranks().settle_ms());
  outside_at_cut_ = outside_sockets(gang_addresses_);
  hold_.extend(monotonic_ms());
  late_until_ = monotonic_ms() + kArrivalsEnd;
  auto figures = cut();
  if (!figures.ok()) return figures.failure();
  wire::GuestReply reply;
  *reply.mutable_cut() = std::move(figures.value());
  return reply;
}

Done Agent::thaw_all() {
  auto disk = disk_.thaw();
  auto ranks = lease_.ended() ? Done(Nothing{}) : job_.cgroup().set_frozen(false, monotonic_ms() + kFreezeDeadline);
  hold_.thawed();
  job_.hold_output(false);
  return disk.ok() ? ranks : disk;
}

Done Agent::release(const wire::GuestRequest& request, wire::GuestReply& reply) {
  const std::uint64_t clock = request.release_ranks().wall_clock_ns();
  const bool was_held = hold_.held();
  reply.mutable_release()->set_held(hold_.release(request.epoch()));
  if (!was_held || hold_.held()) return Nothing{};
  if (clock != 0) set_wall_clock(clock);
  auto thawed = thaw_all();
  ranks_.open_gates();
  return thawed;
}

void Agent::let_go() {
  std::fprintf(stderr, "stillpoint-agent: lets go of epoch %llu\n", static_cast<unsigned long long>(hold_.epoch()));
  watch_lease(false, monotonic_ms());  // which may have ended meanwhile: then nothing thaws
  hold_.lost();
  (void)thaw_all().ok();
  ranks_.open_gates();
}

void Agent::lease_goes_on(Millis now) {
  std::fprintf(stderr, "stillpoint-agent: the host's lease goes on, and so does the job\n");
  if (!hold_.frozen()) (void)job_.cgroup().set_frozen(false, now + kFreezeDeadline).ok();
}

void Agent::watch_lease(bool frozen, Millis now) {
  switch (lease_.due(frozen, now)) {
    case Lease::Due::nothing: return;
    case Lease::Due::stand_still:
      std::fprintf(stderr, "stillpoint-agent: the host's lease has ended: the job stands still\n");
      (void)job_.cgroup().set_frozen(true, now).ok();  // nobody has to wait until the last one does
      return;
    case Lease::Due::power_off:
      std::fprintf(stderr, "stillpoint-agent: no word of the host's lease any more: the guest ends\n");
      job_.cgroup().kill();
      return options_.power_off();
  }
}

void Agent::hold_deadline(Millis now) {
  if (now < hold_.deadline()) return;
  if (hold_.lets_go(hold_.frozen() ? rtc_skew() : std::nullopt, now)) let_go();
}

Outcome<wire::GuestReply> Agent::adopt(const wire::GuestRequest& request) {
  const std::uint64_t incarnation = request.adopt().new_incarnation();
  if (auto refused = hold_.require(request.epoch(), monotonic_ms())) return *refused;
  if (incarnation < gang_.incarnation())
    return failure(wire::Failure::REFUSED, "adopt", "incarnation " + std::to_string(incarnation),
                   "this guest has incarnation " + std::to_string(gang_.incarnation()));
  if (incarnation > gang_.incarnation()) {
    gang_.set_incarnation(incarnation);
    ranks_.set_incarnation(incarnation);
    // What the captured guest was told of its host is nothing to this one.
    lease_.forget();
    // It counts from here on, whatever becomes of the daemon before its first heartbeat: one that says how long the
    // lease lasts answers the hello, which tells it what this agent can do.
    lease_.word(request.lease_ms(), monotonic_ms());
    said_hello_ = false;
    hello_at_ = 0;
    // Whatever was on its way when the image was taken went to the old incarnation.
    job_.output().send_again();
    job_.say_exit_again();
    launches_.send_again();
  }
  return wire::GuestReply();
}

Outcome<wire::GuestReply> Agent::check_links(const wire::CheckLinks& check) {
  if (check.wall_clock_ns() != 0) set_wall_clock(check.wall_clock_ns());
  auto reached = ping(others_, monotonic_ms() + check.deadline_ms());
  if (!reached.ok()) return reached.failure();
  auto figures = cut();
  if (!figures.ok()) return figures.failure();
  wire::GuestReply reply;
  wire::LinkReport& links = *reply.mutable_links();
  for (std::size_t i = 0; i < others_.size(); ++i) {
    const bool answered =
        std::find(reached.value().begin(), reached.value().end(), others_[i]) != reached.value().end();
    (answered ? links.mutable_reached() : links.mutable_unreachable())->Add(other_guests_[i]);
  }
  *links.mutable_cut() = std::move(figures.value());
  if (hold_.held()) hold_.extend(monotonic_ms());
  return reply;
}

}  // namespace stillpoint::agent
