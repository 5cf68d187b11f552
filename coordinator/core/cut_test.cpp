#include "coordinator/core/cut.h"

#include <doctest/doctest.h>

using namespace stillpoint;
using namespace stillpoint::coordinator;

namespace {

wire::SocketFigures socket(std::uint32_t local, std::uint32_t remote, std::uint32_t lport, std::uint32_t rport,
                           std::uint64_t acked, std::uint64_t received) {
  wire::SocketFigures s;
  s.set_local_ip(0x0a630000 + 1 + local);
  s.set_remote_ip(0x0a630000 + 1 + remote);
  s.set_local_port(lport);
  s.set_remote_port(rport);
  s.set_state(1);
  s.set_bytes_acked(acked);
  s.set_bytes_received(received);
  return s;
}

// Guest 0 opened a connection to guest 1; 100 bytes went there and 40 came back.
std::vector<wire::GuestCut> quiet() {
  std::vector<wire::GuestCut> cuts(2);
  cuts[1].set_guest(1);
  *cuts[0].add_sockets() = socket(0, 1, 1000, 2000, 101, 40);
  *cuts[1].add_sockets() = socket(1, 0, 2000, 1000, 40, 100);
  return cuts;
}

}  // namespace

TEST_CASE("a quiet cut has no problems, whatever lies in the receive queues") {
  auto cuts = quiet();
  cuts[0].mutable_sockets(0)->set_receive_queue(7);
  CHECK(cut_problems(cuts, 2).empty());
}

TEST_CASE("what is on the wire is seen from either side") {
  for (int which = 0; which < 7; ++which) {
    auto cuts = quiet();
    auto& s = *cuts[which % 2].mutable_sockets(0);
    switch (which) {
      case 0: s.set_unacked(1); break;
      case 1: s.set_notsent(1); break;
      case 2: s.set_send_queue(1); break;
      case 3: s.set_bytes_received(99); break;
      case 4: s.set_bytes_acked(102); break;
      case 5: s.set_bytes_acked(41); break;  // both ends one ahead: two openers
      case 6: s.set_state(8); break;
    }
    CAPTURE(which);
    const auto problems = cut_problems(cuts, 2);
    REQUIRE(problems.size() >= 1);
    CHECK(problems[0].find("guest ") != std::string::npos);
    CHECK(problems[0].find("10.99.0.") != std::string::npos);
  }
}

TEST_CASE("each refusal names the socket") {
  auto cuts = quiet();
  cuts[0].mutable_sockets(0)->set_unacked(1);
  CHECK(cut_problems(cuts, 2) ==
        std::vector<std::string>{
            "guest 0 socket 10.99.0.1:1000 -> 10.99.0.2:2000 (guest 1) has 1 segments unacknowledged"});

  cuts = quiet();  // half open: guest 1 never got the last of the handshake
  cuts[1].mutable_sockets(0)->set_state(3);
  CHECK(cut_problems(cuts, 2) ==
        std::vector<std::string>{
            "guest 1 socket 10.99.0.2:2000 -> 10.99.0.1:1000 (guest 0) is in SYN_RECV, not established"});

  cuts = quiet();
  cuts[1].clear_sockets();
  CHECK(cut_problems(cuts, 2) ==
        std::vector<std::string>{"guest 0 socket 10.99.0.1:1000 -> 10.99.0.2:2000 has no other end in the gang"});

  cuts = quiet();
  cuts[1].mutable_sockets(0)->set_bytes_received(99);
  CHECK(cut_problems(cuts, 2) ==
        std::vector<std::string>{
            "guest 0 socket 10.99.0.1:1000 -> 10.99.0.2:2000 (guest 1): acknowledged 101 and received 40, but "
            "guest 1 at the other end received 99 and has acknowledged 40"});

  auto found = quiet();
  found[0].mutable_sockets(0)->set_bytes_acked(102);
  CHECK(cut_differences(quiet(), found) ==
        std::vector<std::string>{
            "guest 0 socket 10.99.0.1:1000 -> 10.99.0.2:2000 (guest 1) had 101 acknowledged and 40 received at "
            "the cut, now 102 and 40"});
}

TEST_CASE("no opener at all is a byte on the wire") {
  auto cuts = quiet();
  cuts[0].mutable_sockets(0)->set_bytes_acked(100);
  CHECK(cut_problems(cuts, 2).size() == 1);
}

TEST_CASE("an end without its other end, a guest that is missing or told twice") {
  auto cuts = quiet();
  cuts[1].clear_sockets();
  CHECK(cut_problems(cuts, 2).size() == 1);
  cuts.pop_back();
  CHECK(summary(cut_problems(cuts, 2)).find("guest 1 is missing") != std::string::npos);
  cuts = quiet();
  cuts.push_back(cuts[0]);
  CHECK_FALSE(cut_problems(cuts, 2).empty());
}

TEST_CASE("a socket in TIME_WAIT carries nothing") {
  auto cuts = quiet();
  *cuts[0].add_sockets() = socket(0, 1, 1001, 2001, 5, 9);
  cuts[0].mutable_sockets(1)->set_state(6);
  CHECK(cut_problems(cuts, 2).empty());
}

TEST_CASE("a connection of a guest with itself has both ends in one report") {
  std::vector<wire::GuestCut> cuts(1);
  *cuts[0].add_sockets() = socket(0, 0, 1, 2, 11, 5);
  *cuts[0].add_sockets() = socket(0, 0, 2, 1, 5, 10);
  CHECK(cut_problems(cuts, 1).empty());
}

TEST_CASE("after a restore the same figures are the same links, and no others") {
  CHECK(cut_differences(quiet(), quiet()).empty());
  auto other = quiet();
  other[1].mutable_sockets(0)->set_bytes_received(108);
  CHECK(cut_differences(quiet(), other).size() == 1);
  other = quiet();
  other[0].mutable_sockets(0)->set_local_port(1001);
  CHECK(cut_differences(quiet(), other).size() == 2);
}

TEST_CASE("a summary names the first and counts the rest") {
  CHECK(summary({"a", "b", "c"}, 2) == "a; b and 1 more");
  CHECK(summary({}) == "");
}

TEST_CASE("rounds are equal when nobody is busy, nothing is in flight and no figure has changed") {
  std::map<std::uint32_t, wire::RoundFigures> before, now;
  CHECK(rounds_equal(before, now));
  before[0].set_bytes_acked(7);
  CHECK_FALSE(rounds_equal(before, now));
  now = before;
  CHECK(rounds_equal(before, now));
  SUBCASE("busy") { now[0].set_busy(true); }
  SUBCASE("in flight") { now[0].set_in_flight(1); }
  SUBCASE("acknowledged") { now[0].set_bytes_acked(8); }
  SUBCASE("received") { now[0].set_bytes_received(1); }
  SUBCASE("calls") { now[0].set_mpi_calls(1); }
  CHECK_FALSE(rounds_equal(before, now));
}

TEST_CASE("at rest is a round in which nobody is busy and nothing is in flight") {
  std::map<std::uint32_t, wire::RoundFigures> round;
  round[0].set_bytes_acked(7);
  CHECK(at_rest(round));
  SUBCASE("in flight") { round[1].set_in_flight(1); }
  SUBCASE("busy") { round[1].set_busy(true); }
  CHECK_FALSE(at_rest(round));
}

TEST_CASE("a rank in a call that must be over, or one that does not answer, keeps the freeze away") {
  std::map<std::uint32_t, wire::RoundFigures> rounds;
  wire::RankReport& rank = *rounds[0].add_ranks();
  for (auto state :
       {wire::RankReport::COMPUTING, wire::RankReport::IN_CALL, wire::RankReport::GATED, wire::RankReport::FINALIZED}) {
    rank.set_state(state);
    CHECK_FALSE(must_finish_first(rounds));
  }
  for (auto state : {wire::RankReport::UNKNOWN, wire::RankReport::STARTING, wire::RankReport::DEFERRING}) {
    rank.set_state(state);
    CHECK(must_finish_first(rounds));
  }
}
