#include "coordinator/core/cut.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <set>
#include <tuple>

namespace stillpoint::coordinator {
namespace {

constexpr std::uint32_t kEstablished = 1;
constexpr std::uint32_t kTimeWait = 6;

// The kernel's names, by its numbers (net/tcp_states.h), as ss(8) and its readers know them.
constexpr const char* kStates[] = {"no state",  "ESTABLISHED", "SYN_SENT",    "SYN_RECV",   "FIN_WAIT1",
                                   "FIN_WAIT2", "TIME_WAIT",   "CLOSE",       "CLOSE_WAIT", "LAST_ACK",
                                   "LISTEN",    "CLOSING",     "NEW_SYN_RECV"};

// One end of a connection: local address and port, remote address and port.
using Ends = std::tuple<std::uint32_t, std::uint32_t, std::uint32_t, std::uint32_t>;

struct End {
  std::uint32_t guest;
  const wire::SocketFigures* figures;
};

Ends ends(const wire::SocketFigures& s) { return {s.local_ip(), s.local_port(), s.remote_ip(), s.remote_port()}; }

Ends reversed(const Ends& e) { return {std::get<2>(e), std::get<3>(e), std::get<0>(e), std::get<1>(e)}; }

std::string address(std::uint32_t ip, std::uint32_t port) {
  return fmt::format("{}.{}.{}.{}:{}", ip >> 24, (ip >> 16) & 255, (ip >> 8) & 255, ip & 255, port);
}

std::string state_name(std::uint32_t state) {
  return state < std::size(kStates) ? kStates[state] : fmt::format("TCP state {}", state);
}

// The sockets of a cut, and whose addresses they have.
struct Index {
  std::map<Ends, End> sockets;
  std::map<std::uint32_t, std::uint32_t> guests;  // by address, as far as their own sockets tell

  std::string describe(std::uint32_t guest, const wire::SocketFigures& s) const {
    const auto other = guests.find(s.remote_ip());
    return fmt::format("guest {} socket {} -> {}{}", guest, address(s.local_ip(), s.local_port()),
                       address(s.remote_ip(), s.remote_port()),
                       other == guests.end() ? "" : fmt::format(" (guest {})", other->second));
  }
  std::string describe(const End& end) const { return describe(end.guest, *end.figures); }
};

Index index_sockets(const std::vector<wire::GuestCut>& cuts, std::vector<std::string>& problems) {
  Index index;
  for (const auto& cut : cuts)
    for (const auto& s : cut.sockets()) index.guests.emplace(s.local_ip(), cut.guest());
  for (const auto& cut : cuts)
    for (const auto& s : cut.sockets()) {
      if (s.state() == kTimeWait) continue;
      if (!index.sockets.emplace(ends(s), End{cut.guest(), &s}).second)
        problems.push_back(index.describe(cut.guest(), s) + " is reported twice");
    }
  return index;
}

void check_alone(const std::string& who, const wire::SocketFigures& s, std::vector<std::string>& problems) {
  if (s.state() != kEstablished)
    problems.push_back(fmt::format("{} is in {}, not established", who, state_name(s.state())));
  if (s.unacked() != 0) problems.push_back(fmt::format("{} has {} segments unacknowledged", who, s.unacked()));
  if (s.notsent() != 0) problems.push_back(fmt::format("{} has {} bytes not sent", who, s.notsent()));
  if (s.send_queue() != 0) problems.push_back(fmt::format("{} has {} bytes in its send queue", who, s.send_queue()));
}

void check_pair(const std::string& who, const End& a, const End& b, std::vector<std::string>& problems) {
  const auto ahead = [](const End& from, const End& to) {
    return static_cast<std::int64_t>(from.figures->bytes_acked() - to.figures->bytes_received());
  };
  const std::int64_t ab = ahead(a, b);
  const std::int64_t ba = ahead(b, a);
  if ((ab == 1 && ba == 0) || (ab == 0 && ba == 1)) return;
  problems.push_back(fmt::format(
      "{}: acknowledged {} and received {}, but guest {} at the other end received {} and has acknowledged {}", who,
      a.figures->bytes_acked(), a.figures->bytes_received(), b.guest, b.figures->bytes_received(),
      b.figures->bytes_acked()));
}

}  // namespace

bool at_rest(const std::map<std::uint32_t, wire::RoundFigures>& round) {
  return std::ranges::none_of(round,
                              [](const auto& entry) { return entry.second.busy() || entry.second.in_flight() != 0; });
}

bool rounds_equal(const std::map<std::uint32_t, wire::RoundFigures>& previous,
                  const std::map<std::uint32_t, wire::RoundFigures>& current) {
  if (previous.size() != current.size() || !at_rest(previous) || !at_rest(current)) return false;
  for (const auto& [guest, now] : current) {
    const auto before = previous.find(guest);
    if (before == previous.end()) return false;
    if (now.bytes_acked() != before->second.bytes_acked() || now.bytes_received() != before->second.bytes_received() ||
        now.mpi_calls() != before->second.mpi_calls())
      return false;
  }
  return true;
}

bool must_finish_first(const std::map<std::uint32_t, wire::RoundFigures>& rounds) {
  for (const auto& [guest, figures] : rounds)
    for (const auto& rank : figures.ranks())
      if (rank.state() == wire::RankReport::DEFERRING || rank.state() == wire::RankReport::STARTING ||
          rank.state() == wire::RankReport::UNKNOWN || rank.state() == wire::RankReport::STOPPED)
        return true;
  return false;
}

std::vector<std::string> cut_problems(const std::vector<wire::GuestCut>& cuts, std::uint32_t guests) {
  std::vector<std::string> problems;
  std::set<std::uint32_t> seen;
  for (const auto& cut : cuts)
    if (cut.guest() >= guests || !seen.insert(cut.guest()).second)
      problems.push_back(fmt::format("guest {} is reported twice or is none of this gang", cut.guest()));
  for (std::uint32_t guest = 0; guest < guests; ++guest)
    if (!seen.contains(guest)) problems.push_back(fmt::format("guest {} is missing", guest));

  const Index index = index_sockets(cuts, problems);
  for (const auto& [key, end] : index.sockets) {
    const std::string who = index.describe(end);
    check_alone(who, *end.figures, problems);
    const auto peer = index.sockets.find(reversed(key));
    if (peer == index.sockets.end()) problems.push_back(who + " has no other end in the gang");
    else if (key < peer->first) check_pair(who, end, peer->second, problems);
  }
  return problems;
}

std::vector<std::string> cut_differences(const std::vector<wire::GuestCut>& recorded,
                                         const std::vector<wire::GuestCut>& found) {
  std::vector<std::string> problems;
  const Index before = index_sockets(recorded, problems);
  const Index after = index_sockets(found, problems);
  for (const auto& [key, end] : before.sockets) {
    const std::string who = before.describe(end);
    const auto now = after.sockets.find(key);
    if (now == after.sockets.end()) {
      problems.push_back(who + " of the checkpoint is gone");
      continue;
    }
    const auto& was = *end.figures;
    const auto& is = *now->second.figures;
    if (now->second.guest != end.guest)
      problems.push_back(fmt::format("{} is now in guest {}", who, now->second.guest));
    if (was.bytes_acked() != is.bytes_acked() || was.bytes_received() != is.bytes_received())
      problems.push_back(fmt::format("{} had {} acknowledged and {} received at the cut, now {} and {}", who,
                                     was.bytes_acked(), was.bytes_received(), is.bytes_acked(), is.bytes_received()));
    if (was.state() != is.state())
      problems.push_back(fmt::format("{} was in {}, now in {}", who, state_name(was.state()), state_name(is.state())));
  }
  for (const auto& [key, end] : after.sockets)
    if (!before.sockets.contains(key)) problems.push_back(after.describe(end) + " is not in the checkpoint");
  return problems;
}

std::string summary(const std::vector<std::string>& problems, std::size_t most) {
  std::string text;
  for (std::size_t i = 0; i < problems.size() && i < most; ++i) text += (i == 0 ? "" : "; ") + problems[i];
  if (problems.size() > most) text += fmt::format(" and {} more", problems.size() - most);
  return text;
}

}  // namespace stillpoint::coordinator
