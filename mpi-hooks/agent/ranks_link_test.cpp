// The agent's side of the link to the ranks, with made-up ranks at the other end.
#include <doctest/doctest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "mpi-hooks/agent/ranks.h"

using namespace stillpoint;
using namespace stillpoint::agent;
using hooks::RankMessage;
using hooks::RankPacket;
using hooks::RankState;

namespace {

struct Link {
  Link() {
    char name[] = "/tmp/stillpoint-ranks-XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    directory = name;
    REQUIRE(ranks.listen(directory + "/agent.sock").ok());
  }
  ~Link() {
    ::unlink((directory + "/agent.sock").c_str());
    ::rmdir(directory.c_str());
  }
  Fd connect() {
    Fd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, (directory + "/agent.sock").c_str());
    REQUIRE(::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
    turn();
    return fd;
  }
  void turn() {
    std::vector<pollfd> polls;
    ranks.wait_for(polls);
    ::poll(polls.data(), polls.size(), 0);
    ranks.handle(polls);
  }
  void say(const Fd& rank, RankMessage message, RankState state, int number, const char* call = "",
           std::uint64_t epoch = 0, bool spawned = false) {
    RankPacket packet{};
    packet.message = message;
    packet.state = state;
    packet.rank = number;
    packet.epoch = epoch;
    packet.spawned = spawned;
    std::strcpy(packet.call, call);
    std::strcpy(packet.communicator, call[0] != '\0' ? "rows" : "");
    packet.peers = 4;
    REQUIRE(::send(rank.get(), &packet, sizeof packet, 0) == sizeof packet);
    turn();
  }
  static RankMessage heard(const Fd& rank) {
    RankPacket packet{};
    REQUIRE(::recv(rank.get(), &packet, sizeof packet, MSG_DONTWAIT) == sizeof packet);
    return packet.message;
  }
  std::vector<Ranks::Failure> failures;
  std::size_t linked_then = 0;  // connections, as whoever is told of a failure sees them
  Ranks ranks{[this](const Ranks::Failure& failure) {
    failures.push_back(failure);
    linked_then = ranks.linked().size();
  }};
  std::string directory;
};

bool says(const std::string& text, const char* part) { return text.find(part) != text.npos; }

}  // namespace

TEST_CASE("a rank inside a call that must finish first is waited for, and named") {
  Link link;
  const Fd a = link.connect(), b = link.connect();
  link.say(a, RankMessage::ready, RankState::computing, 0);
  link.say(b, RankMessage::ready, RankState::computing, 1);
  link.ranks.close_gates(7);
  CHECK(Link::heard(a) == RankMessage::welcome);
  CHECK(Link::heard(a) == RankMessage::close);
  link.say(a, RankMessage::closed, RankState::computing, 0, "", 7);
  CHECK_FALSE(link.ranks.deferring(2));
  link.say(b, RankMessage::deferring, RankState::deferring, 1, "MPI_Comm_spawn", 7);
  CHECK(link.ranks.deferring(2));
  CHECK_FALSE(link.ranks.all_at_rest(2));
  CHECK(says(link.ranks.not_at_rest(2), "rank 1 is inside MPI_Comm_spawn on rows (4 processes) for 0.0 s"));
  CHECK_FALSE(says(link.ranks.not_at_rest(2), "rank 0"));
  link.say(b, RankMessage::closed, RankState::computing, 1, "", 7);
  CHECK(link.ranks.all_at_rest(2));
  CHECK_FALSE(link.ranks.deferring(2));
}

TEST_CASE("a rank that ends before it came to MPI_Finalize is a failure; one that came there is none") {
  Link link;
  Fd a = link.connect(), b = link.connect(), c = link.connect();
  link.say(a, RankMessage::ready, RankState::computing, 3);
  link.say(b, RankMessage::ready, RankState::computing, 4);
  link.say(b, RankMessage::finalizing, RankState::deferring, 4, "MPI_Finalize");
  b.reset();
  link.turn();
  CHECK(link.failures.empty());
  a.reset();
  link.turn();
  REQUIRE(link.failures.size() == 1);
  CHECK(link.failures[0].rank == 3);
  CHECK_FALSE(link.failures[0].killed);
  CHECK(link.failures[0].pid == ::getpid());
  CHECK(link.failures[0].words == "its process has ended without MPI_Finalize");
  c.reset();  // in MPI_Init
  link.turn();
  REQUIRE(link.failures.size() == 2);
  CHECK(link.failures[1].rank == stillpoint::hooks::kUnknownRank);
}

TEST_CASE("one turn brings an end, silence and news: whoever is told may look at the ranks") {
  Link link;
  Fd a = link.connect();
  const Fd b = link.connect(), c = link.connect();
  link.say(a, RankMessage::ready, RankState::computing, 0);
  link.say(b, RankMessage::ready, RankState::computing, 1);
  link.say(c, RankMessage::ready, RankState::computing, 2);
  a.reset();
  RankPacket packet{};
  packet.message = RankMessage::peer_killed;
  packet.rank = 2;
  REQUIRE(::send(c.get(), &packet, sizeof packet, 0) == sizeof packet);
  link.turn();
  REQUIRE(link.failures.size() == 2);
  CHECK(link.linked_then == 2);
  const auto reports = link.ranks.reports(0);
  REQUIRE(reports.size() == 3);
  CHECK(reports[0].state() == wire::RankReport::FAILED);
}

TEST_CASE("a rank that ends itself says how") {
  Link link;
  const Fd a = link.connect();
  link.say(a, RankMessage::ready, RankState::computing, 1);
  link.say(a, RankMessage::own_end, RankState::in_call, 1, "MPI_Abort");
  link.say(a, RankMessage::own_end, RankState::in_call, 1, "MPI_Recv");
  link.say(a, RankMessage::own_end, RankState::computing, 1);
  REQUIRE(link.failures.size() == 3);
  for (const auto& failure : link.failures) {
    CHECK(failure.rank == 1);
    CHECK(failure.exit_code == 0);
    CHECK(failure.pid == 0);
  }
  CHECK(link.failures[0].words == "it called MPI_Abort");
  CHECK(link.failures[1].words == "it was ended by MPI itself in MPI_Recv");
  CHECK(link.failures[2].words == "it ended itself without MPI_Finalize");
}

TEST_CASE("what a rank is told of others is passed on, and whether they were killed") {
  Link link;
  const Fd a = link.connect();
  link.say(a, RankMessage::ready, RankState::computing, 0);
  link.say(a, RankMessage::peer_killed, RankState::computing, 0);
  link.say(a, RankMessage::peer_failed, RankState::in_call, 0, "MPI_Recv");
  REQUIRE(link.failures.size() == 2);
  CHECK(link.failures[0].killed);
  CHECK(link.failures[0].pid == 0);
  CHECK(link.failures[0].words == "its process was ended by a signal, as rank 0 was told outside MPI");
  CHECK_FALSE(link.failures[1].killed);
  CHECK(link.failures[1].words == "its process is gone, as rank 0 was told in MPI_Recv");
}

TEST_CASE("a spawned process that is not at rest is waited for, but does not stand for one of the job's ranks") {
  Link link;
  const Fd a = link.connect(), child = link.connect();
  link.say(a, RankMessage::ready, RankState::computing, 0);
  link.say(child, RankMessage::ready, RankState::computing, 0, "", 0, true);
  link.ranks.close_gates(7);
  link.say(child, RankMessage::closed, RankState::computing, 0, "", 7, true);
  CHECK_FALSE(link.ranks.all_at_rest(1));
  link.say(a, RankMessage::closed, RankState::computing, 0, "", 7);
  CHECK(link.ranks.all_at_rest(1));
  CHECK(link.ranks.deferring(2));  // the other of two ranks has not come yet
  const auto reports = link.ranks.reports(0);
  REQUIRE(reports.size() == 2);
  CHECK(reports[0].spawned() != reports[1].spawned());
}

TEST_CASE("a process in MPI_Init or MPI_Finalize is not at rest; one that ended in MPI_Finalize is") {
  Link link;
  const Fd a = link.connect();
  Fd b = link.connect();
  link.say(a, RankMessage::hello, RankState::starting, -1);
  link.say(b, RankMessage::ready, RankState::computing, 1);
  CHECK(link.ranks.deferring(2));
  CHECK(says(link.ranks.not_at_rest(2), "has not finished MPI_Init"));
  link.say(a, RankMessage::ready, RankState::computing, 0);
  link.ranks.close_gates(7);
  link.say(a, RankMessage::closed, RankState::computing, 0, "", 7);
  link.say(b, RankMessage::finalizing, RankState::deferring, 1, "MPI_Finalize", 7);
  link.say(b, RankMessage::deferring, RankState::deferring, 1, "MPI_Finalize", 7);
  CHECK(says(link.ranks.not_at_rest(2), "rank 1 is inside MPI_Finalize"));
  SUBCASE("through it") { link.say(b, RankMessage::finalized, RankState::finalized, 1); }
  SUBCASE("gone before it could say so") {
    b = Fd();
    link.turn();
  }
  CHECK(link.ranks.all_at_rest(2));
}

TEST_CASE("what a rank said before its gate was reopened does not count for the next closing") {
  Link link;
  const Fd a = link.connect();
  link.say(a, RankMessage::ready, RankState::computing, 0);
  link.ranks.close_gates(7);
  link.ranks.open_gates();
  link.ranks.close_gates(7);
  link.say(a, RankMessage::closed, RankState::computing, 0, "", 7);  // the answer to the first close
  CHECK_FALSE(link.ranks.all_at_rest(1));
  link.say(a, RankMessage::opened, RankState::computing, 0, "", 7);
  link.say(a, RankMessage::closed, RankState::computing, 0, "", 7);
  CHECK(link.ranks.all_at_rest(1));
}

TEST_CASE("a rank that owes an answer is reported as one that does not answer") {
  Link link;
  const Fd a = link.connect();
  link.say(a, RankMessage::ready, RankState::computing, 0);
  link.ranks.ask(RankMessage::query, 0);
  CHECK(link.ranks.reports(3).at(0).state() == wire::RankReport::UNKNOWN);
  link.say(a, RankMessage::figures, RankState::in_call, 0, "MPI_Recv");
  const auto report = link.ranks.reports(3).at(0);
  CHECK(report.state() == wire::RankReport::IN_CALL);
  CHECK(report.call() == "MPI_Recv");
  CHECK(report.communicator() == "rows");
  CHECK(report.peers() == 4);
  CHECK(report.guest() == 3);
}
