#include "node-daemon/store/memory_pool.h"

#include <doctest/doctest.h>

#include <atomic>
#include <optional>
#include <thread>
#include <vector>

namespace stillpoint::node {
namespace {

const auto never = [] { return false; };

TEST_CASE("all members together have no more than the pool, and each its share when others want theirs") {
  const auto pool = std::make_shared<MemoryPool>(100);
  MemoryPool::Member one(pool);
  REQUIRE(one.take(80, {}, never));
  CHECK_FALSE(one.is_over());
  MemoryPool::Member two(pool);
  CHECK(one.is_over());  // half is the other's now
  CHECK(two.take(10, {}, never));
  std::jthread waiting([&](const std::stop_token& stop) { CHECK(two.take(40, stop, never)); });
  one.give(40);
  waiting.join();
  CHECK(pool->used() == 90);
}

TEST_CASE("who has nothing gets what is asked for, however much: nobody waits for ever") {
  const auto pool = std::make_shared<MemoryPool>(10);
  MemoryPool::Member one(pool), two(pool);
  CHECK(one.take(100, {}, never));
  CHECK(two.take(100, {}, never));
  std::stop_source stop;
  std::jthread waiting([&] { CHECK_FALSE(two.take(1, stop.get_token(), never)); });
  stop.request_stop();
  waiting.join();
  std::atomic<bool> failed = false;
  waiting = std::jthread([&] { CHECK_FALSE(two.take(1, {}, [&] { return failed.load(); })); });
  failed = true;
  pool->wake();
  waiting.join();
}

TEST_CASE("what a member had is there again when it ends") {
  const auto pool = std::make_shared<MemoryPool>(10);
  std::optional<MemoryPool::Member> one(std::in_place, pool);
  one->add(50);
  CHECK(one->is_over());
  MemoryPool::Member two(pool);
  REQUIRE(two.take(1, {}, never));
  std::jthread waiting([&](const std::stop_token& stop) { CHECK(two.take(9, stop, never)); });
  one.reset();
  waiting.join();
  CHECK(pool->used() == 10);
}

}  // namespace
}  // namespace stillpoint::node
