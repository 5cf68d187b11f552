#include "mpi-hooks/agent/ranks.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "mpi-hooks/agent/clock.h"
#include "mpi-hooks/agent/local_socket.h"

namespace stillpoint::agent {

using hooks::RankMessage;
using hooks::RankPacket;
using hooks::RankState;

namespace {

wire::RankReport::State wire_state(RankState state) {
  switch (state) {
    case RankState::starting: return wire::RankReport::STARTING;
    case RankState::computing: return wire::RankReport::COMPUTING;
    case RankState::in_call: return wire::RankReport::IN_CALL;
    case RankState::gated: return wire::RankReport::GATED;
    case RankState::finalized: return wire::RankReport::FINALIZED;
    case RankState::deferring: return wire::RankReport::DEFERRING;
  }
  return wire::RankReport::UNKNOWN;
}

template <std::size_t Size>
std::string text_of(const char (&field)[Size]) {
  return {field, ::strnlen(field, Size)};
}

std::string call_name(const RankPacket& packet) { return text_of(packet.call); }

std::uint64_t since_ms(const RankPacket& packet) {
  const std::int64_t since = clock_ns(CLOCK_MONOTONIC) - static_cast<std::int64_t>(packet.since_ns);
  return packet.since_ns == 0 ? 0 : static_cast<std::uint64_t>(std::max<std::int64_t>(0, since) / 1'000'000);
}

}  // namespace

Done Ranks::listen(const std::string& path) {
  auto listener = listen_local(path);
  if (!listener.ok()) return listener.failure();
  listener_ = std::move(listener.value());
  return Nothing{};
}

void Ranks::wait_for(std::vector<pollfd>& polls) const {
  polls.push_back({listener_.get(), POLLIN, 0});
  for (const auto& rank : connections_) polls.push_back({rank->fd.get(), POLLIN, 0});
}

void Ranks::handle(const std::vector<pollfd>& polls) {
  const auto reported = [&](int fd) {
    const auto at = std::find_if(polls.begin(), polls.end(), [fd](const pollfd& p) { return p.fd == fd; });
    return at != polls.end() && at->revents != 0;
  };
  // Told at the end: whoever hears it looks at the list, which must not be half moved then.
  std::erase_if(connections_, [&](const std::unique_ptr<Connection>& rank) {
    if (!reported(rank->fd.get()) || receive(*rank)) return false;
    if (!rank->finalizing && !rank->finalized) {
      failures_.push_back(failure_of(*rank));
      if (rank->last.rank >= 0 && rank->last.spawned == 0) lost_.push_back(static_cast<std::uint32_t>(rank->last.rank));
    } else if (rank->last.spawned == 0) ++finalized_and_gone_;
    return true;
  });
  if (reported(listener_.get())) accept_all();
  for (const Failure& failure : std::exchange(failures_, {})) peer_failed_(failure);
}

void Ranks::accept_all() {
  for (;;) {
    Fd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!fd) return;
    auto rank = std::make_unique<Connection>();
    ucred peer{};
    socklen_t length = sizeof peer;
    if (::getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0) rank->pid = peer.pid;
    rank->fd = std::move(fd);
    rank->last.state = RankState::starting;
    connections_.push_back(std::move(rank));
    send(*connections_.back(), RankMessage::welcome, 0);
    if (closing_epoch_ != 0) send(*connections_.back(), RankMessage::close, closing_epoch_);
  }
}

bool Ranks::receive(Connection& rank) {
  for (;;) {
    RankPacket packet;
    const ssize_t n = ::recv(rank.fd.get(), &packet, sizeof packet, MSG_DONTWAIT | MSG_TRUNC);
    if (n < 0) return errno == EAGAIN || errno == EINTR;
    if (n != sizeof packet || packet.version != hooks::kRankLinkVersion) return false;
    take(rank, packet);
  }
}

void Ranks::take(Connection& rank, const RankPacket& packet) {
  if (packet.message == RankMessage::peer_failed || packet.message == RankMessage::peer_killed) {
    const bool killed = packet.message == RankMessage::peer_killed;
    const std::string call = call_name(packet);
    failures_.push_back({packet.value, killed,
                         std::string("its process ") + (killed ? "was ended by a signal" : "is gone") + ", as rank " +
                             std::to_string(packet.rank) + " was told " +
                             (call.empty() ? "outside MPI" : "in " + call)});
    return;
  }
  if (packet.message == RankMessage::own_end) {
    Failure end = failure_of(rank);
    end.pid = 0;
    end.exit_code = static_cast<int>(packet.value);
    const std::string call = call_name(packet), who = end.rank == hooks::kUnknownRank ? words(rank) + " " : "it ";
    end.words = who + (call == "MPI_Abort" ? "called MPI_Abort"
                       : call.empty()      ? "ended itself without MPI_Finalize"
                                           : "was ended by MPI itself in " + call);
    failures_.push_back(std::move(end));
    return;
  }
  if (packet.message == RankMessage::wish) {
    if (wished_ && packet.value <= static_cast<std::uint32_t>(hooks::RankWish::good_moment))
      wished_(static_cast<std::uint32_t>(std::max(0, packet.rank)), static_cast<hooks::RankWish>(packet.value));
    return;
  }
  rank.last = packet;
  switch (packet.message) {
    case RankMessage::hello:
      if (packet.rank >= 0) rank.ready = true;
      break;
    case RankMessage::ready:
      rank.ready = true;
      std::erase(lost_, static_cast<std::uint32_t>(packet.rank));  // it had lost its connection only
      rank.finalizing = rank.finalized = false;                    // it may have begun MPI sessions anew
      break;
    case RankMessage::closed: rank.closed = !rank.opening && packet.epoch == closing_epoch_; break;
    case RankMessage::figures: rank.owes = false; break;
    case RankMessage::finalizing: rank.finalizing = true; break;
    case RankMessage::finalized: rank.finalized = true; break;
    case RankMessage::opened: rank.opening = false; break;
    case RankMessage::deferring: rank.defers = !rank.opening && packet.epoch == closing_epoch_; break;
    case RankMessage::peer_failed:
    case RankMessage::peer_killed:
    case RankMessage::own_end:
    case RankMessage::wish:
    case RankMessage::welcome:
    case RankMessage::close:
    case RankMessage::count:
    case RankMessage::open:
    case RankMessage::query: break;
  }
}

void Ranks::send(Connection& rank, RankMessage message, std::uint64_t epoch) {
  RankPacket packet;
  packet.message = message;
  packet.epoch = epoch;
  packet.rank = rank.last.rank;
  packet.value = incarnation_;
  // A rank that does not read for so long that its socket is full owes answers already.
  (void)::send(rank.fd.get(), &packet, sizeof packet, MSG_DONTWAIT | MSG_NOSIGNAL);
}

void Ranks::close_gates(std::uint64_t epoch) {
  closing_epoch_ = epoch;
  for (auto& rank : connections_) {
    if (rank->closed && rank->last.epoch == epoch) continue;
    rank->closed = rank->defers = false;
    send(*rank, RankMessage::close, epoch);
  }
}

void Ranks::open_gates() {
  for (auto& rank : connections_) {
    rank->closed = false;
    rank->owes = false;
    if (closing_epoch_ == 0) continue;
    rank->opening = true;
    send(*rank, RankMessage::open, closing_epoch_);
  }
  closing_epoch_ = 0;
}

void Ranks::ask(RankMessage question, std::uint64_t epoch) {
  for (auto& rank : connections_) {
    if (!rank->ready || rank->finalized || rank->owes) continue;
    rank->owes = true;
    send(*rank, question, epoch);
  }
}

std::uint32_t Ranks::at_rest() const {
  return finalized_and_gone_ +
         static_cast<std::uint32_t>(std::count_if(connections_.begin(), connections_.end(), [](const auto& r) {
           return r->last.spawned == 0 && is_at_rest(*r);
         }));
}

bool Ranks::all_at_rest(std::uint32_t expected) const {
  return at_rest() >= expected &&
         std::all_of(connections_.begin(), connections_.end(), [](const auto& r) { return is_at_rest(*r); });
}

bool Ranks::deferring(std::uint32_t expected) const {
  std::uint32_t known = finalized_and_gone_;
  for (const auto& rank : connections_) {
    if (!rank->ready || (!is_at_rest(*rank) && rank->defers)) return true;
    if (rank->last.spawned == 0) ++known;
  }
  return known < expected;
}

bool Ranks::all_answered() const {
  return std::none_of(connections_.begin(), connections_.end(), [](const auto& r) { return r->owes; });
}

bool Ranks::busy() const {
  return std::any_of(connections_.begin(), connections_.end(), [](const auto& r) {
    return !r->finalized && (r->owes || (r->ready && (!r->closed || r->last.busy != 0)));
  });
}

std::uint64_t Ranks::calls() const {
  std::uint64_t sum = 0;
  for (const auto& rank : connections_) sum += rank->last.calls;
  return sum;
}

std::string Ranks::words(const Connection& rank) const {
  if (rank.last.rank < 0) {  // its helper has not come to telling it, though the program may be far beyond MPI_Init
    const auto number = proc_.rank(rank.pid);
    return (number ? "rank " : "process ") + std::to_string(number ? static_cast<pid_t>(*number) : rank.pid);
  }
  return (rank.last.spawned != 0 ? "spawned rank " : "rank ") + std::to_string(rank.last.rank);
}

Ranks::Failure Ranks::failure_of(const Connection& rank) const {
  const bool known = rank.last.rank >= 0 && rank.last.spawned == 0;
  return {known ? static_cast<std::uint32_t>(rank.last.rank) : hooks::kUnknownRank,
          false,
          (known ? "its process" : words(rank)) + " has ended without MPI_Finalize",
          {},
          rank.pid};
}

std::string Ranks::restless_words(const Connection& rank) const {
  const char state = proc_.state(rank.pid);
  std::string text = words(rank);
  if (state == 'T' || state == 't')
    return text + " is stopped by a signal: continue its process, " + std::to_string(rank.pid);
  const std::string call = call_name(rank.last);
  if (rank.defers) text += " is inside " + call;
  else if (!rank.ready) return text + " has not finished MPI_Init";
  else return text + " has not answered" + (call.empty() ? "" : ", last seen in " + call);
  if (const std::string communicator = text_of(rank.last.communicator); !communicator.empty())
    text += " on " + communicator + " (" + std::to_string(rank.last.peers) + " processes)";
  const std::uint64_t tenths = since_ms(rank.last) / 100;
  return text + " for " + std::to_string(tenths / 10) + "." + std::to_string(tenths % 10) + " s";
}

std::string Ranks::not_at_rest(std::uint32_t expected) const {
  std::string text;
  std::uint32_t known = finalized_and_gone_;
  for (const auto& rank : connections_) {
    if ((rank->ready || rank->finalized) && rank->last.spawned == 0) ++known;
    if (is_at_rest(*rank)) continue;
    text += (text.empty() ? "" : ", ") + restless_words(*rank);
  }
  if (known < expected) {
    if (!text.empty()) text += ", ";
    text += std::to_string(known) + " of " + std::to_string(expected) + " ranks have finished MPI_Init";
  }
  return text;
}

std::vector<Ranks::Linked> Ranks::linked() const {
  std::vector<Linked> all;
  for (const auto& rank : connections_) all.push_back({rank->pid, words(*rank), text_of(rank->last.transport)});
  return all;
}

std::vector<wire::RankReport> Ranks::reports(std::uint32_t guest) const {
  std::vector<wire::RankReport> reports;
  for (const auto& rank : connections_) {
    if (rank->last.rank < 0) continue;
    wire::RankReport report;
    report.set_rank(static_cast<std::uint32_t>(rank->last.rank));
    report.set_guest(guest);
    report.set_state(rank->finalized ? wire::RankReport::FINALIZED : wire_state(rank->last.state));
    report.set_call(call_name(rank->last));
    report.set_since_ms(since_ms(rank->last));
    report.set_communicator(text_of(rank->last.communicator));
    report.set_peers(rank->last.peers);
    report.set_spawned(rank->last.spawned != 0);
    if (rank->owes) {
      const char state = proc_.state(rank->pid);
      report.set_state(state == 'T' || state == 't' ? wire::RankReport::STOPPED : wire::RankReport::UNKNOWN);
    }
    report.set_calls(rank->last.calls);
    report.set_pid(static_cast<std::uint32_t>(rank->pid));
    reports.push_back(std::move(report));
  }
  for (const std::uint32_t rank : lost_) {
    wire::RankReport report;
    report.set_rank(rank);
    report.set_guest(guest);
    report.set_state(wire::RankReport::FAILED);
    reports.push_back(std::move(report));
  }
  std::sort(reports.begin(), reports.end(), [](const auto& a, const auto& b) { return a.rank() < b.rank(); });
  return reports;
}

}  // namespace stillpoint::agent
