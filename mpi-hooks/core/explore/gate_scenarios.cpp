// The gate by itself: threads of a program in their MPI calls, and a closer.
//
// MPI is here what the gate is for: data that a thread changes inside its calls without any lock, and that the closer
// changes behind the shut gate. A call that slips through is a data race to the machine, and a Ghost says so as well.
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <memory>

#include "mpi-hooks/core/explore/explore.h"
#include "mpi-hooks/core/explore/scenarios.h"
#include "mpi-hooks/core/gate.h"

namespace stillpoint::hooks::explore {
namespace {

constexpr Call kLocal{"PMPI_Isend", CallKind::gate};
constexpr Call kWaiting{"PMPI_Recv", CallKind::blocking};
constexpr Call kInit{"PMPI_Init", CallKind::defer};

constexpr int kMostMembers = 3;

struct Rank {
  explicit Rank(bool careful = false) { gate.prepare(bell, careful); }

  void call(int member, const Call& what) {
    gate.enter(threads[member], what);
    inside_call(member);
    gate.leave(threads[member]);
  }
  void inside_call(int member) {
    require(closed.get() == 0, "a call began behind the shut gate");
    inside.add(1);
    data[member]++;
    pause();
    data[member]++;
    inside.add(-1);
  }
  void join(int member) { gate.join(threads[member]); }
  // Its record's place is used for other things after this: to look at it still would be a race.
  void part(int member) {
    gate.part(threads[member]);
    new (&threads[member]) Thread;
  }
  template <typename Condition>
  void wait_for_survey(Condition condition) {
    while (!condition(gate.survey())) {
      pollfd fd{bell, POLLIN, 0};
      poll(&fd, 1, -1);
      std::uint64_t rung;
      [[maybe_unused]] const auto size = read(bell, &rung, sizeof rung);
    }
  }
  // One checkpoint, as the helper thread takes it.
  void close_and_open() {
    gate.shut();
    wait_for_survey([](const Survey& survey) { return !survey.inside(); });
    require(inside.get() == 0, "the survey showed nobody inside, and somebody was");
    closed.set(1);
    for (int& each : data) each += 7;
    pause();
    for (int& each : data) each -= 7;
    require(inside.get() == 0, "somebody got in behind the shut gate");
    closed.set(0);
    gate.open();
  }

  const int bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  Gate gate;
  Thread threads[kMostMembers];
  int data[kMostMembers] = {};
  Ghost inside, closed;
};

// Members join one after the other before anything else, so that the histories are about the calls.
void calls_against_closing(Rank& rank, int members, int calls, const Call& what, int times) {
  unsigned numbers[kMostMembers] = {};
  for (int member = 0; member < members; member++) rank.join(member);
  for (int member = 0; member < members; member++)
    numbers[member] = begin(member == 0 ? "first" : "second", [&rank, member, calls, &what] {
      for (int i = 0; i < calls; i++) rank.call(member, what);
    });
  for (int i = 0; i < times; i++) rank.close_and_open();
  for (int member = 0; member < members; member++) wait_for(numbers[member]);
  for (int member = 0; member < members; member++) rank.part(member);
  const Survey survey = rank.gate.survey();
  require(survey.threads == 0, "a thread that has parted is still there");
  require(survey.calls == static_cast<std::uint64_t>(members * calls), "calls were not counted");
}

void one_call_one_closing() {
  auto rank = std::make_unique<Rank>();
  calls_against_closing(*rank, 1, 1, kLocal, 1);
}

void calls_and_closings() {
  auto rank = std::make_unique<Rank>();
  calls_against_closing(*rank, 1, 2, kLocal, 2);
}

void two_threads() {
  auto rank = std::make_unique<Rank>();
  calls_against_closing(*rank, 2, 2, kWaiting, 2);
}

void careful_calls_and_closings() {
  auto rank = std::make_unique<Rank>(true);
  calls_against_closing(*rank, 1, 2, kLocal, 2);
}

void careful_two_threads() {
  auto rank = std::make_unique<Rank>(true);
  calls_against_closing(*rank, 2, 2, kWaiting, 2);
}

// Threads that come to their first call while the gate shuts, and end while it is shut.
void joining_and_parting() {
  auto rank = std::make_unique<Rank>();
  const auto body = [&r = *rank](int member) {
    r.join(member);
    r.call(member, kLocal);
    r.part(member);
  };
  const unsigned first = begin("first", [&] { body(0); });
  const unsigned second = begin("second", [&] { body(1); });
  rank->close_and_open();
  rank->close_and_open();
  wait_for(first);
  wait_for(second);
  require(rank->gate.survey().calls == 2, "what ended threads counted is lost");
}

// A thread that parks shows as parked, and its call is what people are told.
void parked_is_seen() {
  auto rank = std::make_unique<Rank>();
  rank->join(0);
  rank->gate.shut();
  const unsigned thread = begin("first", [&r = *rank] { r.call(0, kWaiting); });
  rank->wait_for_survey([](const Survey& survey) { return survey.parked == 1 && !survey.inside(); });
  require(rank->gate.survey().shown == &kWaiting, "the parked call is not shown");
  rank->gate.open();
  wait_for(thread);
  require(rank->gate.survey(1).parked == 0, "it has gone on and still shows as parked");
  rank->part(0);
}

// One inside MPI at the shutting, which waits for what the closer sees it in: it comes out and the closer must hear it.
void coming_out_rings() {
  auto rank = std::make_unique<Rank>();
  rank->join(0);
  auto went_in = std::make_unique<Ghost>();
  const unsigned thread = begin("first", [&r = *rank, &went_in] {
    r.gate.announce(r.threads[0], kInit);
    went_in->set(1);
    r.inside_call(0);
    r.gate.leave(r.threads[0]);
  });
  wait_until("the call to begin", [&went_in] { return went_in->get() == 1; });
  rank->close_and_open();
  wait_for(thread);
  rank->part(0);
}

// After a peer's death: what is closed once stays closed, however often the gate is opened.
void locked_for_good() {
  auto rank = std::make_shared<Rank>();
  rank->join(0);
  begin_for_ever("first", [rank] {
    for (int i = 0; i < 3; i++) rank->call(0, kLocal);
  });
  rank->gate.lock_for_good();
  rank->close_and_open();
  rank->closed.set(1);
  rank->gate.shut();
  rank->gate.open();
}

constexpr Scenario kScenarios[] = {
    {"one call against one closing", &one_call_one_closing, 2, 2},
    {"calls against closings", &calls_and_closings, 2, 1},
    {"two threads' calls against closings", &two_threads, 1, 1},
    {"calls against closings, without membarrier", &careful_calls_and_closings, 2, 1},
    {"two threads' calls against closings, without membarrier", &careful_two_threads, 1, 1},
    {"threads join and part while the gate shuts", &joining_and_parting, 1, 1},
    {"a parked thread is seen, and goes on", &parked_is_seen, 2, 2},
    {"a thread that comes out of a call rings", &coming_out_rings, 3, 2},
    {"a gate that is locked for good", &locked_for_good, 2, 1},
};

}  // namespace

std::span<const Scenario> gate_scenarios() { return kScenarios; }

}  // namespace stillpoint::hooks::explore
