#include "mpi-hooks/core/helper.h"

#include <doctest/doctest.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <optional>
#include <string>
#include <thread>

#include "common/fd.h"

using namespace stillpoint;
using namespace stillpoint::hooks;

namespace {

constexpr Call kLocal{"PMPI_Isend", CallKind::gate};
constexpr Call kWaiting{"PMPI_Recv", CallKind::blocking};
constexpr Call kInit{"PMPI_Init", CallKind::defer};
constexpr Call kFinalize{"PMPI_Finalize", CallKind::defer};

std::atomic<std::uint64_t> turns{0};
std::atomic<bool> someone_inside{false};  // set by a test around "MPI calls" at a level below MULTIPLE
std::atomic<int> trespasses{0};
void progress() noexcept {
  turns++;
  if (someone_inside) trespasses++;
}

// The agent's end of one rank's link.
class FakeAgent {
 public:
  FakeAgent() {
    char name[] = "/tmp/stillpoint-helper-XXXXXX";
    directory_ = mkdtemp(name);
    path_ = directory_ + "/agent.sock";
    listen();
  }
  ~FakeAgent() {
    unlink(path_.c_str());
    rmdir(directory_.c_str());
  }
  const char* path() const { return path_.c_str(); }
  void listen() {
    listener_ = Fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, path_.c_str());
    REQUIRE(bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    REQUIRE(::listen(listener_.get(), 4) == 0);
  }
  void accept() {
    pollfd fd{listener_.get(), POLLIN, 0};
    REQUIRE(poll(&fd, 1, 10'000) == 1);
    link_ = Fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  }
  void die() {
    link_ = Fd();
    listener_ = Fd();
    unlink(path_.c_str());
  }
  void hang_up() { link_ = Fd(); }
  void send(RankMessage message, std::uint64_t epoch, std::uint32_t version = kRankLinkVersion,
            std::uint32_t incarnation = 0) {
    RankPacket packet{};
    packet.version = version;
    packet.message = message;
    packet.epoch = epoch;
    packet.value = incarnation;
    REQUIRE(::send(link_.get(), &packet, sizeof packet, MSG_NOSIGNAL) == sizeof packet);
  }
  // The next packet, which must be of this kind.
  RankPacket expect(RankMessage message) {
    pollfd fd{link_.get(), POLLIN, 0};
    REQUIRE(poll(&fd, 1, 10'000) == 1);
    RankPacket packet{};
    REQUIRE(recv(link_.get(), &packet, sizeof packet, 0) == sizeof packet);
    CHECK(packet.version == kRankLinkVersion);
    CHECK(static_cast<int>(packet.message) == static_cast<int>(message));
    return packet;
  }
  bool silent(int ms) {
    pollfd fd{link_.get(), POLLIN, 0};
    return poll(&fd, 1, ms) == 0;
  }
  // The helper has hung up.
  bool abandoned() {
    pollfd fd{link_.get(), POLLIN, 0};
    char byte;
    return poll(&fd, 1, 10'000) == 1 && recv(link_.get(), &byte, 1, 0) <= 0;
  }

 private:
  std::string directory_, path_;
  Fd listener_, link_;
};

struct Rank {
  ~Rank() {
    gate.part(thread);
    helper.stop();
  }
  // As far as a program that has called MPI_Init, with the agent knowing it.
  void start(FakeAgent& agent, bool multiple = false) {
    gate.join(thread);
    REQUIRE(helper.start(agent.path()));
    agent.accept();
    agent.expect(RankMessage::hello);
    helper.initialized({.rank = 2, .size = 8, .multiple = multiple, .progress = &progress});
    agent.expect(RankMessage::ready);
  }
  Gate gate;
  Communicators communicators;
  PartitionedSends partitioned;
  Helper helper{gate, communicators, partitioned};
  Thread thread;
};

}  // namespace

TEST_CASE("without an agent the helper does not start") {
  Rank rank;
  CHECK(!rank.helper.start("/nonexistent/agent.sock"));
  CHECK(!rank.helper.started());
}

TEST_CASE("hello before MPI_Init, ready with rank and size after it") {
  FakeAgent agent;
  Rank rank;
  REQUIRE(rank.helper.start(agent.path()));
  agent.accept();
  const RankPacket hello = agent.expect(RankMessage::hello);
  CHECK(hello.rank == -1);
  CHECK(hello.state == RankState::starting);
  rank.helper.initialized({.rank = 2, .size = 8, .progress = &progress});
  const RankPacket ready = agent.expect(RankMessage::ready);
  CHECK(ready.rank == 2);
  CHECK(ready.value == 8);
  CHECK(ready.state == RankState::computing);
}

TEST_CASE("close, count, open: a computing rank is closed at once and pumped") {
  FakeAgent agent;
  Rank rank;
  rank.start(agent);
  agent.send(RankMessage::close, 7);
  const RankPacket closed = agent.expect(RankMessage::closed);
  CHECK(closed.epoch == 7);
  CHECK(closed.state == RankState::computing);
  const auto before = turns.load();
  agent.send(RankMessage::count, 7);
  CHECK(agent.expect(RankMessage::figures).busy == 0);
  CHECK(turns.load() > before);
  agent.send(RankMessage::open, 7);
  CHECK(agent.expect(RankMessage::opened).epoch == 7);
  CHECK(!rank.gate.is_shut());
  const auto after = turns.load();
  agent.send(RankMessage::count, 8);
  agent.expect(RankMessage::figures);
  CHECK(turns.load() == after);  // with the gate open, MPI is the program's
}

TEST_CASE("a rank inside a blocking call is at rest and not pumped; inside a short one it is busy") {
  FakeAgent agent;
  Rank rank;
  rank.start(agent);
  rank.gate.enter(rank.thread, kWaiting);
  someone_inside = true;
  agent.send(RankMessage::close, 1);
  const RankPacket closed = agent.expect(RankMessage::closed);
  CHECK(closed.state == RankState::in_call);
  CHECK(std::string(closed.call) == "MPI_Recv");
  CHECK(closed.busy == 0);
  agent.send(RankMessage::count, 1);
  CHECK(agent.expect(RankMessage::figures).calls == 1);
  CHECK(trespasses == 0);
  someone_inside = false;
  rank.gate.leave(rank.thread);
  rank.gate.announce(rank.thread, kLocal);
  agent.send(RankMessage::count, 1);
  CHECK(agent.expect(RankMessage::figures).busy == 1);
  rank.gate.leave(rank.thread);
  const auto before = turns.load();
  agent.send(RankMessage::count, 1);
  CHECK(agent.expect(RankMessage::figures).busy == 0);
  CHECK(turns.load() > before);
}

TEST_CASE("MPI is not touched while a partitioned send has parts that are not ready") {
  FakeAgent agent;
  Rank rank;
  rank.start(agent);
  const int request = 0;
  REQUIRE(rank.partitioned.made(&request, 2));
  rank.partitioned.started(&request);
  rank.partitioned.ready(&request, 1);
  const auto before = turns.load();
  agent.send(RankMessage::close, 1);
  agent.expect(RankMessage::closed);
  agent.send(RankMessage::count, 1);
  CHECK(agent.expect(RankMessage::figures).busy == 0);
  CHECK(turns.load() == before);
  agent.send(RankMessage::open, 1);
  agent.expect(RankMessage::opened);
  rank.partitioned.ready(&request, 1);
  agent.send(RankMessage::close, 2);
  agent.expect(RankMessage::closed);
  agent.send(RankMessage::count, 2);
  agent.expect(RankMessage::figures);
  CHECK(turns.load() > before);
}

TEST_CASE("beside the calls of MPI_THREAD_MULTIPLE, not beside one that may start a partitioned send") {
  FakeAgent agent;
  Rank rank;
  rank.start(agent, true);
  const int request = 0;
  REQUIRE(rank.partitioned.made(&request, 2));
  rank.gate.announce(rank.thread, kLocal);
  const auto before = turns.load();
  agent.send(RankMessage::close, 1);
  agent.expect(RankMessage::closed);
  agent.send(RankMessage::count, 1);
  CHECK(agent.expect(RankMessage::figures).busy == 1);
  CHECK(turns.load() == before);
  rank.gate.leave(rank.thread);
  agent.send(RankMessage::count, 1);
  agent.expect(RankMessage::figures);
  CHECK(turns.load() > before);
}

TEST_CASE("figures say on which communicator with how many peers, and since when") {
  FakeAgent agent;
  Rank rank;
  rank.start(agent);
  int rows = 0;
  rank.communicators.remember(&rows, 4, "rows");
  rank.gate.enter(rank.thread, kWaiting, &rows);
  agent.send(RankMessage::query, 0);
  const RankPacket first = agent.expect(RankMessage::figures);
  CHECK(std::string(first.call) == "MPI_Recv");
  CHECK(std::string(first.communicator) == "rows");
  CHECK(first.peers == 4);
  agent.send(RankMessage::query, 0);
  CHECK(agent.expect(RankMessage::figures).since_ns == first.since_ns);  // the same call
  rank.gate.leave(rank.thread);
  rank.gate.enter(rank.thread, kWaiting);
  agent.send(RankMessage::query, 0);
  const RankPacket next = agent.expect(RankMessage::figures);
  CHECK(next.since_ns > first.since_ns);  // the next one of the same name
  CHECK(std::string(next.communicator).empty());
  rank.gate.leave(rank.thread);
}

TEST_CASE("a program with MPI_THREAD_MULTIPLE is pumped beside its own calls") {
  FakeAgent agent;
  Rank rank;
  rank.start(agent, true);
  rank.gate.enter(rank.thread, kWaiting);
  agent.send(RankMessage::close, 1);
  agent.expect(RankMessage::closed);
  const auto before = turns.load();
  agent.send(RankMessage::count, 1);
  agent.expect(RankMessage::figures);
  CHECK(turns.load() > before);
  rank.gate.leave(rank.thread);
}

TEST_CASE("close during MPI_Init is answered with deferring, and with closed when it is over") {
  FakeAgent agent;
  Rank rank;
  rank.gate.join(rank.thread);
  REQUIRE(rank.helper.start(agent.path()));
  agent.accept();
  agent.expect(RankMessage::hello);
  rank.gate.announce(rank.thread, kInit);
  agent.send(RankMessage::close, 3);
  CHECK(agent.expect(RankMessage::deferring).state == RankState::deferring);
  agent.send(RankMessage::count, 3);
  CHECK(agent.expect(RankMessage::figures).busy == 1);
  rank.helper.initialized({.rank = 0, .size = 1, .progress = &progress});
  agent.expect(RankMessage::ready);
  rank.gate.leave(rank.thread);
  CHECK(agent.expect(RankMessage::closed).epoch == 3);
}

TEST_CASE("after MPI_Finalize was entered the helper keeps out of MPI and still answers") {
  FakeAgent agent;
  Rank rank;
  rank.start(agent);
  agent.send(RankMessage::close, 1);
  agent.expect(RankMessage::closed);
  rank.gate.announce(rank.thread, kFinalize);
  rank.helper.finalizing();  // while it pumps
  const auto after = turns.load();
  agent.expect(RankMessage::finalizing);
  agent.send(RankMessage::count, 1);
  const RankPacket during = agent.expect(RankMessage::figures);
  CHECK(during.state == RankState::deferring);
  CHECK(during.busy == 1);
  rank.helper.finalized();
  agent.expect(RankMessage::finalized);
  rank.gate.leave(rank.thread);
  agent.send(RankMessage::count, 1);
  const RankPacket figures = agent.expect(RankMessage::figures);
  CHECK(figures.state == RankState::finalized);
  CHECK(figures.busy == 0);
  CHECK(turns.load() == after);
}

TEST_CASE("a program that begins a session after its last one ended is a rank again") {
  FakeAgent agent;
  Rank rank;
  rank.start(agent);
  rank.helper.finalizing();
  agent.expect(RankMessage::finalizing);
  rank.helper.finalized();
  agent.expect(RankMessage::finalized);
  rank.helper.initialized({.rank = 3, .size = 8, .progress = &progress});
  const RankPacket ready = agent.expect(RankMessage::ready);
  CHECK(ready.state == RankState::computing);
  agent.send(RankMessage::close, 2);
  agent.expect(RankMessage::closed);
  const auto before = turns.load();
  agent.send(RankMessage::count, 2);
  agent.expect(RankMessage::figures);
  CHECK(turns.load() > before);
}

TEST_CASE("the agent's end opens a shut gate; a new agent is found and greeted") {
  FakeAgent agent;
  Rank rank;
  rank.start(agent);
  agent.send(RankMessage::close, 1);
  agent.expect(RankMessage::closed);
  std::thread parked([&] {
    Thread thread;
    rank.gate.join(thread);
    rank.gate.enter(thread, kLocal);  // returns because the agent dies
    rank.gate.leave(thread);
    rank.gate.part(thread);
  });
  agent.die();
  parked.join();
  agent.listen();
  agent.accept();
  CHECK(agent.expect(RankMessage::hello).rank == 2);
  CHECK(agent.expect(RankMessage::ready).value == 8);
}

TEST_CASE("a dead peer is reported once, and the rank is never at rest again") {
  FakeAgent agent;
  Rank rank;
  rank.start(agent);
  rank.helper.peer_failed(5);
  rank.helper.peer_failed(6);
  CHECK(agent.expect(RankMessage::peer_failed).value == 5);
  agent.send(RankMessage::close, 1);
  CHECK(agent.expect(RankMessage::closed).busy == 1);
}

TEST_CASE("a peer that was killed is news of its own, and nothing comes to rest after it either") {
  FakeAgent agent;
  Rank rank;
  rank.start(agent);
  rank.helper.peer_killed(5);
  CHECK(agent.expect(RankMessage::peer_killed).value == 5);
  rank.helper.peer_failed(5);  // the call that waited for it
  CHECK(agent.expect(RankMessage::peer_failed).value == 5);
  agent.send(RankMessage::close, 1);
  CHECK(agent.expect(RankMessage::closed).busy == 1);
}

TEST_CASE("a rank that ends itself says so, with its exit code, before it does") {
  FakeAgent agent;
  Rank rank;
  rank.start(agent);
  rank.helper.own_end(7);
  const RankPacket told = agent.expect(RankMessage::own_end);
  CHECK(told.value == 7);
  CHECK(told.rank == 2);
}

TEST_CASE("a critical section puts a close off until it is over") {
  FakeAgent agent;
  Rank rank;
  rank.start(agent);
  rank.helper.forbid(rank.thread, kLocal, 60'000'000'000);
  agent.send(RankMessage::close, 1);
  const RankPacket deferring = agent.expect(RankMessage::deferring);
  CHECK(deferring.state == RankState::deferring);
  CHECK(std::string(deferring.call) == "stillpoint_forbid");
  CHECK(rank.helper.wanted());
  CHECK(!rank.gate.is_shut());
  agent.send(RankMessage::open, 1);  // the agent takes it back, and comes again
  agent.expect(RankMessage::opened);
  CHECK(rank.helper.wanted());
  agent.send(RankMessage::close, 1);
  agent.expect(RankMessage::deferring);
  rank.helper.allow();
  CHECK(agent.expect(RankMessage::closed).epoch == 1);
  CHECK(!rank.helper.wanted());
  CHECK(rank.helper.epoch() == 1);
}

TEST_CASE("a critical section ends at its deadline, and one that begins during a checkpoint waits for it") {
  FakeAgent agent;
  Rank rank;
  rank.start(agent);
  rank.helper.forbid(rank.thread, kLocal, 30'000'000);
  agent.send(RankMessage::close, 1);
  agent.expect(RankMessage::deferring);
  agent.expect(RankMessage::closed);
  std::atomic<bool> entered{false};
  std::thread late([&] {
    Thread thread;
    rank.gate.join(thread);
    rank.helper.forbid(thread, kLocal, 60'000'000'000);
    entered = true;
    rank.gate.part(thread);
  });
  CHECK(agent.silent(20));
  CHECK(!entered);
  agent.send(RankMessage::open, 1);
  late.join();
  CHECK(entered);
}

TEST_CASE("callbacks come before and after, and in a restored process at its restart") {
  FakeAgent agent;
  Rank rank;
  rank.start(agent);
  static std::atomic<int> before{0}, after{0}, restarted{0};
  before = after = restarted = 0;
  CHECK(rank.helper.add_callbacks(
      {[](void*) { before++; }, [](void*) { after++; }, [](void*) { restarted++; }, nullptr}));
  CHECK(rank.helper.add_callbacks({nullptr, nullptr, nullptr, nullptr}));
  agent.send(RankMessage::welcome, 0, kRankLinkVersion, 1);
  agent.send(RankMessage::close, 1);
  agent.expect(RankMessage::closed);
  CHECK(before == 1);
  agent.send(RankMessage::open, 1, kRankLinkVersion, 1);
  agent.expect(RankMessage::opened);
  agent.send(RankMessage::close, 2);  // answered when the callbacks are through
  agent.expect(RankMessage::closed);
  CHECK(after == 1);
  agent.send(RankMessage::open, 2, kRankLinkVersion, 3);  // restored twice from it, say
  agent.expect(RankMessage::opened);
  agent.send(RankMessage::query, 0);
  agent.expect(RankMessage::figures);
  CHECK(before == 2);
  CHECK(after == 1);
  CHECK(restarted == 1);
  CHECK(rank.helper.restarts() == 1);
  const Helper::Callbacks none{nullptr, nullptr, nullptr, nullptr};
  for (std::uint32_t i = 2; i < Helper::kMostCallbacks; i++) CHECK(rank.helper.add_callbacks(none));
  CHECK_FALSE(rank.helper.add_callbacks(none));
}

TEST_CASE("a wish is passed on once") {
  FakeAgent agent;
  Rank rank;
  rank.start(agent);
  rank.helper.wish(RankWish::good_moment);
  const RankPacket wish = agent.expect(RankMessage::wish);
  CHECK(wish.value == static_cast<std::uint32_t>(RankWish::good_moment));
  CHECK(wish.rank == 2);
  CHECK(agent.silent(20));
}

TEST_CASE("an agent of another build is not obeyed") {
  FakeAgent agent;
  Rank rank;
  rank.start(agent);
  agent.send(RankMessage::close, 1, kRankLinkVersion + 1);
  CHECK(agent.abandoned());
  CHECK(!rank.gate.is_shut());
}

TEST_CASE("an idle helper says nothing, and takes no signal") {
  FakeAgent agent;
  Rank rank;
  rank.start(agent);
  CHECK(agent.silent(50));
  static std::atomic<pthread_t> handler_thread{};
  struct sigaction action {
  }, before{};
  action.sa_handler = [](int) { handler_thread = pthread_self(); };
  sigaction(SIGUSR1, &action, &before);
  kill(getpid(), SIGUSR1);
  CHECK(pthread_equal(handler_thread, pthread_self()));
  sigaction(SIGUSR1, &before, nullptr);
}
