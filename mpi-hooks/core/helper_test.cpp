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
  void send(RankMessage message, std::uint64_t epoch, std::uint32_t version = kRankLinkVersion) {
    RankPacket packet{};
    packet.version = version;
    packet.message = message;
    packet.epoch = epoch;
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
    helper.initialized(2, 8, multiple, &progress);
    agent.expect(RankMessage::ready);
  }
  Gate gate;
  Helper helper{gate};
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
  rank.helper.initialized(2, 8, false, &progress);
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
  rank.helper.initialized(0, 1, false, &progress);
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
  rank.helper.finalizing();  // while it pumps
  const auto after = turns.load();
  agent.expect(RankMessage::finalized);
  agent.send(RankMessage::count, 1);
  const RankPacket figures = agent.expect(RankMessage::figures);
  CHECK(figures.state == RankState::finalized);
  CHECK(figures.busy == 0);
  CHECK(turns.load() == after);
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
