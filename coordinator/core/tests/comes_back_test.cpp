// What is nobody's fault, or a host's, does not use up the patience with a program; a host that cannot do what it is
// asked is not asked again and again.
#include <doctest/doctest.h>

#include "coordinator/core/automatic.h"
#include "coordinator/core/interval.h"
#include "coordinator/core/tests/lasting_job.h"

using namespace stillpoint;
using namespace stillpoint::coordinator;
using namespace stillpoint::coordinator::testing;

TEST_CASE("hosts that begin anew within their lease are nothing against the program") {
  World w(3);
  const JobId id = w.running(lasting());
  w.committed(id);
  for (std::uint64_t incarnation = 2; incarnation <= 5; ++incarnation) {
    const HostName host = place(w, id, 1);
    w.kill(host);
    w.revive(host);
    REQUIRE(runs_again(w, id, incarnation));
  }
  CHECK(w.job(id).setbacks == 0);
  ends_well(w, id);
}

TEST_CASE("a coordinator that is away for longer than the lease, again and again, is nothing against the program") {
  World w(3);
  const JobId id = w.running(lasting());
  w.committed(id);
  for (std::uint64_t incarnation = 2; incarnation <= 5; ++incarnation) {
    for (auto& [name, host] : w.hosts) host.lose_power();  // they let their guests go
    for (auto& [name, host] : w.hosts) host.power = true;
    w.crash();
    REQUIRE(runs_again(w, id, incarnation));
  }
  CHECK(w.job(id).setbacks == 0);
  ends_well(w, id);
}

TEST_CASE("a host that cannot restore is not asked again while others have room") {
  World w(3);
  const JobId id = w.running(lasting());
  w.committed(id);
  const HostName bad = place(w, id, 1);
  unsigned asked = 0;
  const auto is_bad = [&](const HostName& host, const wire::ToHost& m) {
    if (host != bad || !m.has_restore()) return false;
    asked += 1;
    return true;
  };
  SUBCASE("it says so") {
    w.script.failure = [&](const HostName& host, const wire::ToHost& m) -> std::optional<Error> {
      if (!is_bad(host, m)) return std::nullopt;
      return Error{ErrorKind::permanent, "restore", "guest 1", "no such base image"};
    };
  }
  SUBCASE("it never answers") { w.script.swallow = is_bad; }
  lose_rank(w, id);
  REQUIRE(runs_again(w, id, 3));
  CHECK(asked == 1);
  for (const auto& at : w.job(id).placement) CHECK(at.host != bad);
  ends_well(w, id);
}

TEST_CASE("a return from the beginning that fails is one more try of the policy, elsewhere") {
  World w(4);
  const JobId id = w.running(lasting());
  const HostName lost = place(w, id, 0);
  std::optional<HostName> bad;
  w.script.failure = [&](const HostName& host, const wire::ToHost& m) -> std::optional<Error> {
    if (!m.has_start_guests()) return std::nullopt;
    if (!bad) bad = host;
    if (host != *bad) return std::nullopt;
    return Error{ErrorKind::permanent, "start", "guest 0", "no such base image"};
  };
  w.kill(lost);
  REQUIRE(runs_again(w, id, 3));
  CHECK(w.job(id).automatic_restarts == 2);
  for (const auto& at : w.job(id).placement) CHECK(at.host != *bad);
  w.script.failure = nullptr;
  ends_well(w, id);
}

TEST_CASE("a first start that fails for good is the job's end") {
  World w(3);
  w.script.failure = [](const HostName&, const wire::ToHost& m) -> std::optional<Error> {
    if (!m.has_start_guests()) return std::nullopt;
    return Error{ErrorKind::permanent, "start", "guest 0", "no such base image"};
  };
  const JobId id = w.submit(lasting());
  REQUIRE(w.until_state(id, JobState::failed));
  CHECK(w.job(id).incarnation == Incarnation{1});
}

namespace {

JobSpec of(std::uint64_t gibibytes, std::uint32_t guests) {
  auto job = lasting(guests);
  job.memory_bytes = gibibytes << 30;
  return job;
}

}  // namespace

TEST_CASE("nor while its next try is not due, with a checkpoint or without") {
  for (const bool checkpointed : {true, false}) {
    CAPTURE(checkpointed);
    World w(2);
    const JobId large = w.running(of(3, 2));
    if (checkpointed) w.committed(large);
    lose_rank(w, large);
    REQUIRE(runs_again(w, large, 2));
    lose_rank(w, large);
    REQUIRE(w.until([&] { return w.job(large).state != JobState::running; }));
    const JobId other = w.submit(of(3, 1));
    REQUIRE(runs_again(w, large, 3));
    CHECK(w.job(other).state == JobState::pending);
    CHECK(says(w.job(other).reason, "no room"));
    ends_well(w, large);
    REQUIRE(w.until_state(other, JobState::running));
  }
}

TEST_CASE("for a job whose images nobody has who is up no room is kept") {
  World w(3);
  auto job = of(3, 2);
  job.durability = "local";
  for (auto& [name, host] : w.hosts) {
    host.own_images = true;
    w.drop_session(name);
    w.connect(name);
  }
  const JobId large = w.running(job);
  w.committed(large);
  w.kill(place(w, large, 1));
  REQUIRE(w.until([&] { return says(w.job(large).reason, "it waits: "); }));
  const JobId other = w.submit(of(3, 1));
  REQUIRE(w.until_state(other, JobState::running));
  CHECK(w.job(large).state == JobState::restarting);
  CHECK(w.broken() == "");
}

TEST_CASE("new jobs do not take the room of one that comes back") {
  World w(3);
  const JobId large = w.running(of(3, 2));
  w.committed(large);
  const JobId beside = w.running(of(3, 1));
  w.kill(place(w, large, 1));
  REQUIRE(w.until([&] { return says(w.job(large).reason, "it waits: "); }));
  const JobId small = w.submit(of(1, 1));
  w.run_for(milliseconds(5'000));
  CHECK(w.job(small).state == JobState::pending);
  CHECK(says(w.job(small).reason, "job " + large.value + " is next"));
  CHECK(w.answer(w.ask([&](RequestId r) { return StopJob{r, beside}; })).has_value());
  REQUIRE(runs_again(w, large, 2));
  REQUIRE(w.until_state(small, JobState::running));
  ends_well(w, large);
}

TEST_CASE("a restart by hand that the coordinator does not survive goes on as if nobody had asked") {
  World w(3);
  const JobId id = w.running(lasting());
  const Epoch epoch = w.committed(id);
  w.script.swallow = [](const HostName&, const wire::ToHost& m) { return m.has_restore(); };
  bool by_itself = true;
  SUBCASE("from the newest checkpoint") { (void)w.restart(id); }
  SUBCASE("from the one that was named") {
    (void)w.restart(id, epoch);
    by_itself = false;
  }
  REQUIRE(w.until([&] { return w.core().phase(id) == "restore"; }));
  w.script.swallow = nullptr;
  bool failed = false;
  w.script.failure = [&](const HostName&, const wire::ToHost& m) -> std::optional<Error> {
    if (!m.has_restore() || std::exchange(failed, true)) return std::nullopt;
    return Error{ErrorKind::transient, "restore", "guest 0", "bad luck"};
  };
  w.crash();
  if (!by_itself) {
    REQUIRE(w.until_state(id, JobState::failed));
    return;
  }
  REQUIRE(w.until_state(id, JobState::running));
  CHECK(failed);
  CHECK(w.job(id).automatic_restarts == 1);
  ends_well(w, id);
}

TEST_CASE("why it waited is not told of a job that runs again, whoever takes its restart up") {
  World w(2);
  for (auto& [name, host] : w.hosts) host.memory = 600ull << 20;
  for (const char* name : {"h1", "h2"}) {
    w.drop_session(HostName{name});
    w.connect(HostName{name});
  }
  const JobId id = w.running(lasting());
  w.committed(id);
  const HostName lost = place(w, id, 1);
  w.kill(lost);
  REQUIRE(w.until([&] { return says(w.job(id).reason, "it waits: "); }));
  w.crash();
  REQUIRE(w.until([&] { return says(w.job(id).reason, "it waits: "); }));
  const auto first = w.job(id).reason.find("it waits: ");
  CHECK(w.job(id).reason.find("it waits: ", first + 1) == std::string::npos);
  w.revive(lost);
  REQUIRE(w.until_state(id, JobState::running));
  CHECK_FALSE(says(w.job(id).reason, "it waits"));
  ends_well(w, id);
}

TEST_CASE("a rank that is lost before the launch is known to be done is not forgotten") {
  World w(3);
  w.script.swallow = [](const HostName&, const wire::ToHost& m) { return m.has_launch_job(); };
  const JobId id = w.submit(lasting());
  REQUIRE(w.until([&] { return w.core().phase(id) == "launch"; }));
  lose_rank(w, id);
  w.run_for(milliseconds(5'000));
  CHECK(w.job(id).state == JobState::starting);
  w.script.swallow = nullptr;
  const HostName first = place(w, id, 0);
  w.drop_session(first);
  w.connect(first);
  REQUIRE(runs_again(w, id, 2));
  CHECK(w.job(id).automatic_restarts == 1);
  ends_well(w, id);
}

TEST_CASE("a checkpoint on demand within the quiet time does not end it") {
  World w(3);
  auto job = lasting();
  job.interval_seconds = 2;
  const JobId id = w.running(job);
  w.committed(id);
  lose_rank(w, id);
  REQUIRE(runs_again(w, id, 2));
  const Epoch asked = w.committed(id);
  const auto taken = w.durable.epochs.size();
  w.run_for(interval::kQuiet - milliseconds(3'000));
  CHECK(w.durable.epochs.size() == taken);
  CHECK(w.until([&] { return w.durable.epochs.size() > taken; }, milliseconds(5'000)));
  CHECK(w.epoch(asked).state == EpochState::committed);
}

TEST_CASE("a coordinator that begins with a shorter lease waits out the one that a host which is cut off goes by") {
  Settings settings;
  settings.lease = milliseconds(60'000);
  World w(3, 0, settings);
  const JobId id = w.running(lasting());
  w.committed(id);
  const HostName cut = w.job(id).placement[0].host;
  w.hosts.at(cut).partitioned = true;
  const Time heard = w.now;
  w.settings.lease = milliseconds(10'000);
  SUBCASE("which did not hear of it") { w.crash(); }
  SUBCASE("which heard of it, and its guests perhaps did not") {
    w.hosts.at(cut).partitioned = false;
    w.crash();
    w.run_for(milliseconds(5'000));
    w.hosts.at(cut).partitioned = true;
  }
  REQUIRE(w.until_state(id, JobState::restarting));
  REQUIRE(w.until_state(id, JobState::running));
  CHECK(w.now - heard >= milliseconds(60'000));
  CHECK(w.broken() == "");
}

TEST_CASE("once all in it surely go by it, a shorter lease is all that is waited out") {
  Settings settings;
  settings.lease = milliseconds(60'000);
  World w(3, 0, settings);
  const JobId id = w.running(lasting());
  w.committed(id);
  w.settings.lease = milliseconds(10'000);
  w.crash();
  w.run_for(milliseconds(70'000));
  for (const auto& [name, host] : w.durable.hosts) CHECK(host.lease == milliseconds(10'000));
  const Time died = w.now;
  w.kill(w.job(id).placement[0].host);
  REQUIRE(w.until_state(id, JobState::restarting));
  REQUIRE(w.until_state(id, JobState::running));
  CHECK(w.now - died < milliseconds(40'000));
  w.settings.lease = milliseconds(90'000);  // a longer one is told at once, and kept before it is
  w.crash();
  w.run_for(milliseconds(1'000));
  for (const auto& [name, host] : w.durable.hosts)
    if (w.hosts.at(name).power) CHECK(host.lease == milliseconds(90'000));
  CHECK(w.broken() == "");
}
