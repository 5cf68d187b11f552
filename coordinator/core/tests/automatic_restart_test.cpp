// The policy restart: on-failure. A job that lost something comes back without a hand, and not for ever.
#include <doctest/doctest.h>

#include <algorithm>

#include "coordinator/core/automatic.h"
#include "coordinator/core/tests/lasting_job.h"

using namespace stillpoint;
using namespace stillpoint::coordinator;
using namespace stillpoint::coordinator::testing;

TEST_CASE("a host dies: the job comes back from its checkpoint on the hosts that are left, each line once") {
  World w(3);
  const JobId id = w.running(lasting());
  w.run_for(milliseconds(1'000));
  w.committed(id);
  w.run_for(milliseconds(1'000));
  const HostName lost = place(w, id, 1);
  w.kill(lost);
  REQUIRE(w.until_state(id, JobState::restarting));
  CHECK(says(w.job(id).reason, "host " + lost.value + " was lost; restart 1 of 5 from checkpoint 1"));
  REQUIRE(runs_again(w, id, 2));
  for (const auto& at : w.job(id).placement) CHECK(at.host != lost);
  CHECK(w.job(id).restarts == 1);
  CHECK(w.job(id).automatic_restarts == 1);
  ends_well(w, id);
}

TEST_CASE("without a checkpoint it begins anew") {
  World w(3);
  const JobId id = w.running(lasting());
  w.run_for(milliseconds(3'000));
  w.kill(place(w, id, 0));
  REQUIRE(w.until_state(id, JobState::pending));
  CHECK(says(w.job(id).reason, "from the beginning"));
  REQUIRE(runs_again(w, id, 2));
  ends_well(w, id);
}

TEST_CASE("when the manifest says never, it is failed and says how to go on") {
  World w(3);
  const JobId id = w.running(spec());
  w.committed(id);
  w.kill(place(w, id, 0));
  REQUIRE(w.until_state(id, JobState::failed));
  CHECK(says(w.job(id).reason, "was lost; bring it back from checkpoint 1 with `stillpoint restart j1`"));
}

TEST_CASE("as often as maxRestarts says, until somebody restarts it by hand") {
  World w(3);
  JobSpec job = lasting();
  job.max_restarts = 2;
  const JobId id = w.running(job);
  w.committed(id);
  for (std::uint64_t incarnation = 2; incarnation <= 3; ++incarnation) {
    const HostName lost = place(w, id, 1);
    w.kill(lost);
    REQUIRE(runs_again(w, id, incarnation));
    w.revive(lost);
    w.run_for(milliseconds(2'000));
  }
  const HostName lost = place(w, id, 1);
  w.kill(lost);
  REQUIRE(w.until_state(id, JobState::failed));
  CHECK(says(w.job(id).reason, "restarted 2 times by itself, as often as its manifest allows (restart.maxRestarts)"));
  w.revive(lost);
  w.run_for(milliseconds(2'000));
  REQUIRE(w.answer(w.restart(id)).has_value());
  w.kill(place(w, id, 1));
  REQUIRE(runs_again(w, id, 5));
  ends_well(w, id);
}

TEST_CASE("a job that fails at the same point again and again is left alone; a new checkpoint counts as progress") {
  World w(3);
  const JobId id = w.running(lasting());
  w.committed(id);
  for (std::uint64_t incarnation = 2; incarnation <= 3; ++incarnation) {
    lose_rank(w, id);
    REQUIRE(runs_again(w, id, incarnation));
  }
  SUBCASE("the same point") {
    lose_rank(w, id);
    REQUIRE(w.until_state(id, JobState::failed));
    CHECK(says(w.job(id).reason, "failed 3 times after checkpoint 1 with no host lost"));
  }
  SUBCASE("progress") {
    w.committed(id);
    lose_rank(w, id);
    REQUIRE(runs_again(w, id, 4));
    ends_well(w, id);
  }
  SUBCASE("a host that is lost is not the job's failure") {
    w.kill(place(w, id, 1));
    REQUIRE(runs_again(w, id, 4));
    ends_well(w, id);
  }
}

TEST_CASE("the program's own failure is its end; one killed by a signal comes back") {
  World w(2);
  const JobId id = w.running(lasting());
  w.committed(id);
  lose_rank(w, id);
  w.script.last_step = 1;
  SUBCASE("an exit code of its own") {
    w.script.exit_code = 3;
    REQUIRE(w.until_state(id, JobState::failed));
    CHECK(w.job(id).exit_code == 3);
    CHECK(w.job(id).automatic_restarts == 0);
  }
  SUBCASE("a signal") {
    w.script.exit_code = 137;
    w.script.failure = [&](const HostName&, const wire::ToHost& m) -> std::optional<Error> {
      if (m.has_restore()) w.script.exit_code = w.script.last_step = 0;  // the restored one goes on
      return std::nullopt;
    };
    REQUIRE(runs_again(w, id, 2));
    CHECK_FALSE(w.job(id).exit_code.has_value());
    ends_well(w, id);
  }
}

TEST_CASE("a host that is lost as the program ends: its exit code is no proof, the job comes back") {
  World w(3);
  const JobId id = w.running(lasting());
  w.run_for(milliseconds(500));
  w.committed(id);
  const HostName lost = place(w, id, 1);
  w.kill(lost);
  w.script.last_step = 1;  // guest 0 still says 0
  REQUIRE(w.until([&] { return w.job(id).automatic_restarts == 1; }));
  w.script.last_step = 0;
  REQUIRE(runs_again(w, id, 2));
  ends_well(w, id);
}

TEST_CASE("it waits for room as long as it takes, and says so") {
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
  REQUIRE(w.until([&] { return says(w.job(id).reason, "it waits: ") && says(w.job(id).reason, "no room"); }));
  w.run_for(milliseconds(600'000));
  CHECK(w.job(id).state == JobState::restarting);
  w.revive(lost);
  REQUIRE(runs_again(w, id, 2));
  CHECK_FALSE(says(w.job(id).reason, "it waits"));
  ends_well(w, id);
}

TEST_CASE("a restart that fails is tried again, each time after a longer wait") {
  World w(3);
  const JobId id = w.running(lasting());
  w.committed(id);
  std::vector<Time> tries;
  w.script.failure = [&](const HostName&, const wire::ToHost& m) -> std::optional<Error> {
    if (!m.has_restore()) return std::nullopt;
    if (tries.empty() || w.now - tries.back() > milliseconds(100)) tries.push_back(w.now);
    if (tries.size() > 3) return std::nullopt;
    return Error{ErrorKind::transient, "restore", "guest 0", "bad luck"};
  };
  w.kill(place(w, id, 1));
  REQUIRE(runs_again(w, id, 5));
  REQUIRE(tries.size() == 4);
  CHECK(tries[1] - tries[0] >= automatic::kFirstWait);
  CHECK(tries[3] - tries[2] >= 4 * automatic::kFirstWait);
  w.script.failure = nullptr;
  ends_well(w, id);
}

TEST_CASE("a host whose guest crashed is avoided while another one has room") {
  World w(3);
  const JobId id = w.running(lasting());
  w.committed(id);
  const HostName suspect = place(w, id, 1);
  wire::FromHost bad;
  bad.mutable_gang()->set_job(id.value);
  bad.mutable_gang()->set_incarnation(1);
  bad.mutable_guest_lost()->set_reason("crashed");
  w.say(suspect, bad);
  REQUIRE(runs_again(w, id, 2));
  for (const auto& at : w.job(id).placement) CHECK(at.host != suspect);
  ends_well(w, id);
}

TEST_CASE("whoever asks for a restart while one is under way by itself gets that one, or other terms") {
  World w(4);
  const JobId id = w.running(lasting());
  const Epoch first = w.committed(id);
  w.run_for(milliseconds(1'000));
  const Epoch second = w.committed(id);
  w.kill(place(w, id, 1));
  REQUIRE(w.until_state(id, JobState::restarting));
  SUBCASE("the same") {
    const auto result = w.answer(w.restart(id));
    REQUIRE(result.has_value());
    CHECK(std::get<Restarted>(result.value()).epoch == second);
    CHECK(w.job(id).restarts == 1);
  }
  SUBCASE("another checkpoint") {
    const auto result = w.answer(w.restart(id, first));
    REQUIRE(result.has_value());
    CHECK(std::get<Restarted>(result.value()).epoch == first);
    CHECK(w.job(id).automatic_restarts == 0);
  }
  ends_well(w, id);
}

TEST_CASE("it can be stopped while it waits") {
  World w(2);
  const JobId id = w.running(lasting());
  w.committed(id);
  w.kill(place(w, id, 0));
  w.kill(place(w, id, 1));
  REQUIRE(w.until_state(id, JobState::restarting));
  CHECK(w.answer(w.ask([&](RequestId r) { return StopJob{r, id}; })).has_value());
  CHECK(w.job(id).state == JobState::stopped);
  CHECK(w.broken() == "");
}

TEST_CASE("a coordinator that ends meanwhile goes on with it") {
  World w(3);
  const JobId id = w.running(lasting());
  w.committed(id);
  const HostName lost = place(w, id, 1);
  w.kill(lost);
  REQUIRE(w.until_state(id, JobState::restarting));
  w.crash();
  REQUIRE(w.job(id).restart.has_value());
  CHECK(w.job(id).restart->automatic);
  CHECK(w.job(id).restart->suspect == lost);
  REQUIRE(w.until([&] { return w.job(id).state == JobState::running; }));
  CHECK(w.job(id).automatic_restarts == 1);
  ends_well(w, id);
}

TEST_CASE("a restart by hand that loses a host goes on by itself; one on terms of its own fails") {
  World w(3);
  const JobId id = w.running(lasting());
  const Epoch epoch = w.committed(id);
  w.script.swallow = [](const HostName& host, const wire::ToHost& m) { return host.value == "h2" && m.has_restore(); };
  SUBCASE("whoever asked waits on") {
    const auto request = w.restart(id);
    w.run_for(milliseconds(500));
    w.kill(HostName{"h2"});
    const auto result = w.answer(request);
    REQUIRE(result.has_value());
    CHECK(std::get<Restarted>(result.value()).epoch == epoch);
    CHECK(w.job(id).automatic_restarts == 1);
    for (const auto& at : w.job(id).placement) CHECK(at.host.value != "h2");
  }
  SUBCASE("the checkpoint was named") {
    const auto request = w.restart(id, epoch);
    w.run_for(milliseconds(500));
    w.kill(HostName{"h2"});
    CHECK(w.answer(request).has_error());
    CHECK(w.job(id).state == JobState::failed);
    REQUIRE(w.answer(w.restart(id)).has_value());
  }
  w.script.swallow = nullptr;
  ends_well(w, id);
}

TEST_CASE("a checkpoint in between is progress: the next try begins at once again") {
  World w(3);
  const JobId id = w.running(lasting());
  w.committed(id);
  for (int loss = 0; loss < 3; ++loss) {
    const HostName lost = w.job(id).placement[1].host;
    w.kill(lost);
    REQUIRE(w.until_state(id, JobState::restarting));
    CHECK_FALSE(says(w.job(id).reason, " in "));
    REQUIRE(w.until_state(id, JobState::running));
    w.revive(lost);
    w.run_for(milliseconds(2'000));
    w.committed(id);
  }
  const HostName lost = w.job(id).placement[1].host;
  w.kill(lost);
  REQUIRE(w.until_state(id, JobState::restarting));
  REQUIRE(w.until_state(id, JobState::running));
  w.revive(lost);
  w.run_for(milliseconds(2'000));
  w.kill(w.job(id).placement[1].host);
  REQUIRE(w.until_state(id, JobState::restarting));
  CHECK(says(w.job(id).reason, " in 2 s "));
}
