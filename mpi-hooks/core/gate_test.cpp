#include "mpi-hooks/core/gate.h"

#include <doctest/doctest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>
#include <vector>

#include "common/fd.h"

using namespace stillpoint::hooks;

namespace {

constexpr Call kLocal{"PMPI_Isend", CallKind::gate};
constexpr Call kWaiting{"PMPI_Recv", CallKind::blocking};
constexpr Call kDeferred{"PMPI_Comm_spawn", CallKind::defer};

// A gate with the bell that tells the closer about parked threads.
struct TestGate {
  explicit TestGate(bool careful = false) { gate.prepare(bell.get(), careful); }
  // Sleeps until the survey satisfies the condition; each change of it rings.
  template <typename Condition>
  bool wait_until(Condition condition) {
    while (!condition(gate.survey())) {
      pollfd fd{bell.get(), POLLIN, 0};
      if (poll(&fd, 1, 10'000) != 1) return false;
      std::uint64_t rung;
      [[maybe_unused]] const auto n = read(bell.get(), &rung, sizeof rung);
    }
    return true;
  }
  stillpoint::Fd bell{eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  Gate gate;
};

// A record as a thread of the program has it: joined at the first call, parted at the end.
struct Member {
  explicit Member(Gate& g) : gate(g) { gate.join(thread); }
  ~Member() { gate.part(thread); }
  Gate& gate;
  Thread thread;
};

// Threads change plain data inside calls, the closer changes it behind the shut gate: any call that slips through is
// a torn pair here and a data race to ThreadSanitizer.
void contend(bool careful) {
  constexpr int kThreads = 4, kCycles = 400;
  TestGate test(careful);
  struct {
    std::uint64_t left = 0, right = 0;
  } slots[kThreads];
  std::atomic<bool> stop{false};
  std::atomic<int> torn{0};
  std::vector<std::thread> threads;
  for (auto& slot : slots)
    threads.emplace_back([&] {
      Member member(test.gate);
      while (!stop.load(std::memory_order_relaxed)) {
        test.gate.enter(member.thread, kLocal);
        if (slot.left != slot.right) torn++;
        slot.left++;
        slot.right++;
        test.gate.leave(member.thread);
      }
    });
  int cycles = 0;
  for (; cycles < kCycles; cycles++) {
    test.gate.shut();
    if (!test.wait_until([](const Survey& s) { return !s.inside(); })) break;
    for (auto& slot : slots) {
      slot.left += 7;
      std::this_thread::yield();
      slot.right += 7;
    }
    test.gate.open();
  }
  stop = true;
  for (auto& thread : threads) thread.join();
  CHECK(cycles == kCycles);
  CHECK(torn == 0);
}

}  // namespace

TEST_CASE("no call starts behind a shut gate, the closer paying with membarrier") { contend(false); }

TEST_CASE("no call starts behind a shut gate where membarrier is refused") { contend(true); }

TEST_CASE("a thread parks at a shut gate and goes on when it opens") {
  TestGate test;
  test.gate.shut();
  std::thread thread([&] {
    Member member(test.gate);
    test.gate.enter(member.thread, kWaiting);
    test.gate.leave(member.thread);
  });
  REQUIRE(test.wait_until([](const Survey& s) { return s.parked == 1; }));
  const Survey survey = test.gate.survey();
  CHECK(!survey.inside());
  CHECK(survey.shown == &kWaiting);
  CHECK(survey.calls == 1);
  test.gate.open();
  thread.join();
  CHECK(test.gate.survey().threads == 0);
  CHECK(test.gate.survey().calls == 1);  // what an ended thread counted stays
}

TEST_CASE("the survey names the most telling call, and a call inside is left alone") {
  TestGate test;
  Member waiting(test.gate), local(test.gate), deferred(test.gate), outside(test.gate);
  test.gate.enter(waiting.thread, kWaiting);
  test.gate.shut();
  CHECK(test.gate.survey().shown == &kWaiting);
  CHECK(test.gate.survey().in_blocking == 1);
  test.gate.announce(local.thread, kLocal);
  CHECK(test.gate.survey().shown == &kLocal);
  test.gate.announce(deferred.thread, kDeferred);
  CHECK(test.gate.survey().shown == &kDeferred);
  CHECK(test.gate.survey().threads == 4);
  // Coming out of a call behind a shut gate rings: the helper may now take over.
  pollfd fd{test.bell.get(), POLLIN, 0};
  CHECK(poll(&fd, 1, 0) == 0);
  test.gate.leave(waiting.thread);
  CHECK(poll(&fd, 1, 0) == 1);
  test.gate.leave(local.thread);
  test.gate.leave(deferred.thread);
}

TEST_CASE("after a peer's death an opened gate lets nobody through") {
  TestGate test;
  Member member(test.gate);
  test.gate.shut();
  test.gate.lock_for_good();
  test.gate.open();
  CHECK(!test.gate.is_shut());
  std::thread thread([&] {
    Member late(test.gate);
    test.gate.enter(late.thread, kLocal);
    test.gate.leave(late.thread);
  });
  REQUIRE(test.wait_until([](const Survey& s) { return s.parked == 1; }));
  test.gate.forget_after_fork(member.thread);  // the only way on: what a forked child does
  test.gate.shut();
  test.gate.open();  // wakes it
  thread.join();
}

TEST_CASE("a forked child has no gate, whatever the parent's does") {
  TestGate test;
  Member member(test.gate), other(test.gate);
  test.gate.shut();
  const pid_t child = fork();
  if (child == 0) {
    test.gate.forget_after_fork(member.thread);
    test.gate.enter(member.thread, kWaiting);  // would hang
    const bool alone = test.gate.survey().threads == 1;
    test.gate.leave(member.thread);
    _exit(alone ? 0 : 1);
  }
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  CHECK(test.gate.is_shut());
}
