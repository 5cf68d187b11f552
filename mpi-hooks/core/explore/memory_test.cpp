// The exploring machine itself: that it shows what C++ allows, and nothing else. The short programs are those by which
// memory models are usually told apart.
#include <doctest/doctest.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <new>

#include "mpi-hooks/core/explore/explore.h"

using namespace stillpoint::hooks::explore;

namespace {

constexpr auto relaxed = std::memory_order_relaxed;
constexpr auto acquire = std::memory_order_acquire;
constexpr auto release = std::memory_order_release;
constexpr auto total = std::memory_order_seq_cst;

struct Shared {
  std::atomic<int> x{0}, y{0};
  int data = 0;
  Ghost mine, theirs;
};
// Not on the heap: a history that fails leaves what it has.
Shared* fresh() {
  static Shared shared;
  return new (&shared) Shared;
}

bool seen = false;  // in some history of the test

Outcome all(void (*scenario)(), unsigned preemptions = 3, unsigned oddities = 3) {
  seen = false;
  Outcome outcome = explore_all(scenario, preemptions, oddities, {});
  INFO(outcome.failure);
  CHECK((outcome.all || !outcome.failure.empty()));
  return outcome;
}

// Each stores its own and loads the other's: that both see nothing is what store buffers do.
template <std::memory_order kStore, std::memory_order kLoad>
void store_buffering() {
  Shared* const shared = fresh();
  Ghost *const mine = &shared->mine, *const theirs = &shared->theirs;
  const unsigned other = begin("other", [&s = *shared, &theirs] {
    s.y.store(1, kStore);
    theirs->set(s.x.load(kLoad));
  });
  shared->x.store(1, kStore);
  mine->set(shared->y.load(kLoad));
  wait_for(other);
  if (mine->get() == 0 && theirs->get() == 0) seen = true;
}

// The same with one side paying for both, as the gate has it.
template <bool kBarrier, bool kSignalFence>
void store_buffering_with_membarrier() {
  Shared* const shared = fresh();
  Ghost *const mine = &shared->mine, *const theirs = &shared->theirs;
  const unsigned other = begin("other", [&s = *shared, &theirs] {
    s.y.store(1, relaxed);
    if (kSignalFence) std::atomic_signal_fence(total);
    theirs->set(s.x.load(relaxed));
  });
  shared->x.store(1, relaxed);
  if (kBarrier) syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
  mine->set(shared->y.load(relaxed));
  wait_for(other);
  if (mine->get() == 0 && theirs->get() == 0) seen = true;
}

template <std::memory_order kStore, std::memory_order kLoad>
void message_passing() {
  Shared* const shared = fresh();
  const unsigned other = begin("other", [&s = *shared] {
    s.data = 1;
    s.x.store(1, kStore);
  });
  if (shared->x.load(kLoad) == 1) {
    seen = true;
    require(shared->data == 1, "the flag came before the data");
  }
  wait_for(other);
}

// What a read-modify-write leaves still passes on what the release before it did.
void passed_on_by_read_modify_write() {
  Shared* const shared = fresh();
  const unsigned first = begin("first", [&s = *shared] {
    s.data = 1;
    s.x.store(1, release);
  });
  const unsigned second = begin("second", [&s = *shared] { s.x.fetch_or(2, relaxed); });
  if (shared->x.load(acquire) == 3 && shared->data == 1) seen = true;
  wait_for(first);
  wait_for(second);
}

void never_back() {
  Shared* const shared = fresh();
  const unsigned other = begin("other", [&s = *shared] {
    s.x.store(1, relaxed);
    s.x.store(2, relaxed);
  });
  const int first = shared->x.load(relaxed), second = shared->x.load(relaxed);
  require(second >= first, "a variable went back");
  if (first == 1 && second == 2) seen = true;
  wait_for(other);
}

void locked() {
  Shared* const shared = fresh();
  static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  const auto body = [&s = *shared] {
    pthread_mutex_lock(&mutex);
    s.data++;
    pthread_mutex_unlock(&mutex);
  };
  const unsigned other = begin("other", body);
  body();
  wait_for(other);
  if (shared->data == 2) seen = true;
}

template <bool kWake>
void sleeping() {
  Shared* const shared = fresh();
  const unsigned other = begin("sleeper", [&s = *shared] {
    while (s.x.load(acquire) == 0) syscall(SYS_futex, &s.x, FUTEX_WAIT_PRIVATE, 0, nullptr, nullptr, 0);
  });
  shared->x.store(1, release);
  if (kWake) syscall(SYS_futex, &shared->x, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
  wait_for(other);
}

void racing() {
  Shared* const shared = fresh();
  const unsigned other = begin("other", [&s = *shared] { s.data = 1; });
  shared->data = 2;
  wait_for(other);
}

}  // namespace

TEST_CASE("store buffers are there, and only total order or a barrier for all empties them") {
  all(&store_buffering<relaxed, relaxed>);
  CHECK(seen);
  all(&store_buffering<release, acquire>);
  CHECK(seen);
  all(&store_buffering<total, total>);
  CHECK_FALSE(seen);
  all(&store_buffering_with_membarrier<false, true>);
  CHECK(seen);
  all(&store_buffering_with_membarrier<true, true>);
  CHECK_FALSE(seen);
}

TEST_CASE("without a signal fence the compiler may move a store past the barrier") {
  all(&store_buffering_with_membarrier<true, false>);
  CHECK(seen);
}

TEST_CASE("data behind a flag needs release and acquire") {
  CHECK(all(&message_passing<release, acquire>).failure.empty());
  CHECK(seen);
  CHECK(all(&message_passing<relaxed, acquire>).failure.find("data race") != std::string::npos);
  CHECK(all(&message_passing<release, relaxed>).failure.find("data race") != std::string::npos);
  CHECK(all(&passed_on_by_read_modify_write).failure.empty());
  CHECK(seen);
}

TEST_CASE("a variable never goes back for a thread that has seen it change") {
  CHECK(all(&never_back).failure.empty());
  CHECK(seen);
}

TEST_CASE("locks exclude, plain accesses without one race") {
  CHECK(all(&locked).failure.empty());
  CHECK(seen);
  const Outcome outcome = all(&racing);
  CHECK(outcome.failure.find("data race") != std::string::npos);
  CHECK(outcome.failure.find("memory_test.cpp") != std::string::npos);  // says where
}

TEST_CASE("a wake-up that does not come is found") {
  CHECK(all(&sleeping<true>).failure.empty());
  CHECK(all(&sleeping<false>).failure.find("nobody can go on") != std::string::npos);
}

TEST_CASE("a seed gives the same history again") {
  const Outcome first = explore_seeds(&racing, 7, {.histories = 1});
  const Outcome second = explore_seeds(&racing, 7, {.histories = 1});
  CHECK(first.failure.find("seed 7") == 0);
  CHECK(first.steps == second.steps);
}
