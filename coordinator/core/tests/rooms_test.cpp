// Where gangs go: to hosts that have less to do, and, as long as there are others, not to those that failed of late.
#include "coordinator/core/rooms.h"

#include <doctest/doctest.h>

#include "coordinator/core/tests/world.h"

using namespace stillpoint;
using namespace stillpoint::coordinator;
using namespace stillpoint::coordinator::testing;

namespace {

constexpr milliseconds kTenMinutes{600'000};

JobSpec named(const std::string& name, std::vector<HostName> hosts = {}) {
  JobSpec job = spec(1);
  job.name = name;
  job.hosts = std::move(hosts);
  return job;
}

HostName place_of(World& w, const JobId& id) { return w.job(id).placement.at(0).host; }

// One guest that may go anywhere. Of two hosts that are alike the first is taken.
JobId next(World& w, const std::string& name) { return w.running(named(name)); }

// A guest ends by itself: its host has failed.
void lose_guest(World& w, const JobId& id) {
  wire::FromHost lost;
  lost.mutable_gang()->set_job(id.value);
  lost.mutable_gang()->set_incarnation(w.job(id).incarnation.value);
  lost.mutable_guest_lost()->set_reason("crashed");
  w.say(place_of(w, id), lost);
}

void end(World& w, const JobId& id) {
  REQUIRE(w.answer(w.ask([&](RequestId request) { return StopJob{request, id}; })).has_value());
  w.run_for(milliseconds(2'000));
}

// Past the coordinator's first two leases, in which it cannot tell that a host failed: h1 has, and runs nothing.
Time fail_first(World& w) {
  w.run_for(milliseconds(30'000));
  const JobId id = w.running(named("crashing", {{"h1"}}));
  lose_guest(w, id);
  const Time failed = w.now;
  REQUIRE(w.until_state(id, JobState::failed));
  w.run_for(milliseconds(2'000));
  return failed;
}

}  // namespace

TEST_CASE("of two hosts with the same memory the one is taken whose processors have nothing to do") {
  World w(2);
  const JobId busy = w.running(named("busy", {{"h1"}}));
  auto& first = w.host("h1");
  first.memory += w.job(busy).spec.memory_bytes;  // so that as much is free on both
  w.drop_session(first.name);
  w.connect(first.name);
  CHECK(place_of(w, next(w, "heat")).value == "h2");
}

TEST_CASE("the other host has more memory, and more to do: the idle one is taken") {
  World w(2);
  auto& second = w.host("h2");
  second.memory *= 4;
  w.drop_session(second.name);
  w.connect(second.name);
  SUBCASE("both idle: the one with more memory") { CHECK(place_of(w, next(w, "heat")).value == "h2"); }
  SUBCASE("busy") {
    w.running(named("busy", {{"h2"}}));
    CHECK(place_of(w, next(w, "heat")).value == "h1");
  }
}

TEST_CASE("processors are counted by what other jobs were promised of them, and keep nobody from a host") {
  World w(2);
  JobSpec two = named("two", {{"h1"}});
  two.vcpus = 2;
  w.running(two);
  JobSpec three = named("three", {{"h2"}});
  three.vcpus = 3;  // of two that there are
  w.running(three);
  CHECK(place_of(w, next(w, "heat")).value == "h1");
  JobSpec many = named("many");
  many.vcpus = 64;
  w.running(many);
  CHECK(w.broken() == "");
}

TEST_CASE("what a job that is over was promised counts no longer") {
  World w(2);
  end(w, w.running(named("busy", {{"h1"}})));
  CHECK(place_of(w, next(w, "heat")).value == "h1");
}

TEST_CASE("a host that failed is not taken while another one has room, and is trusted again after ten minutes") {
  World w(2);
  const Time failed = fail_first(w);
  for (const char* name : {"at-once", "later"}) {
    const JobId id = next(w, name);
    CHECK(place_of(w, id).value == "h2");
    end(w, id);
  }
  const auto left = std::chrono::duration_cast<milliseconds>(failed + kTenMinutes - w.now);
  w.run_for(left - milliseconds(1'000));
  const JobId before = w.submit(named("before"));
  CHECK(place_of(w, before).value == "h2");
  REQUIRE(w.until_state(before, JobState::running));
  end(w, before);
  REQUIRE(w.now >= failed + kTenMinutes);
  CHECK(place_of(w, next(w, "after")).value == "h1");
  CHECK(w.broken() == "");
}

TEST_CASE("a host that failed is taken where no other one has room") {
  World w(2);
  auto& second = w.host("h2");
  second.memory = 600ull << 20;  // room for one guest
  w.drop_session(second.name);
  w.connect(second.name);
  fail_first(w);
  CHECK(place_of(w, next(w, "first")).value == "h2");
  CHECK(place_of(w, next(w, "second")).value == "h1");
  CHECK(w.broken() == "");
}
