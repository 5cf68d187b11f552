// How often a job is checkpointed by itself, and that nothing begins where it should not.
#include "coordinator/core/interval.h"

#include <doctest/doctest.h>

#include <cmath>

#include "coordinator/core/tests/world.h"

using namespace stillpoint;
using namespace stillpoint::coordinator;
using namespace stillpoint::coordinator::testing;

namespace {

// Comes back by itself.
JobSpec lasting() {
  auto job = spec();
  job.restart_on_failure = true;
  return job;
}

JobSpec automatic_job() {
  auto job = lasting();
  job.interval_auto = true;
  return job;
}

std::size_t count(const World& w, EpochState state) {
  std::size_t n = 0;
  for (const auto& [number, epoch] : w.durable.epochs) n += epoch.state == state ? 1 : 0;
  return n;
}

bool noted(const World& w, const std::string& what) {
  for (const auto& line : w.transcript)
    if (line.find(what) != std::string::npos) return true;
  return false;
}

}  // namespace

TEST_CASE("Daly's optimum: Young's for a small cost, shorter by the cost itself, and the MTBF where nothing helps") {
  // Cost 60 s, MTBF one day: sqrt(2·60·86400) = 3219.9; with both corrections, less the cost: 3180.2.
  CHECK(interval::optimum(60, 86'400) == doctest::Approx(3180.2).epsilon(0.0005));
  CHECK(interval::optimum(0.001, 1e8) == doctest::Approx(std::sqrt(2 * 0.001 * 1e8)).epsilon(0.001));
  CHECK(interval::optimum(0, 1'000) == 0);
  CHECK(interval::optimum(300, 100) == 100);
  // It is an optimum: what is lost per second, to first order cost/T + (T + cost)/2/MTBF, is no less beside it.
  const auto loss = [](double t) { return 60 / t + (t + 60) / 2 / 86'400; };
  const double best = interval::optimum(60, 86'400);
  CHECK(loss(best) < loss(best * 0.7));
  CHECK(loss(best) < loss(best * 1.4));
}

TEST_CASE("auto: the first checkpoint is taken to be measured, the following ones as seldom as cost and hosts say") {
  World w(2);
  const JobId id = w.running(automatic_job());
  auto view = *w.core().interval(id);
  CHECK(view.automatic);
  CHECK(view.epochs == 0);
  CHECK(view.seconds == interval::kFirstInterval);
  w.run_for(milliseconds(58'000));
  CHECK(count(w, EpochState::committed) == 0);
  REQUIRE(w.until([&] { return count(w, EpochState::committed) == 1; }, milliseconds(5'000)));
  view = *w.core().interval(id);
  CHECK(view.epochs == 1);
  CHECK(view.stall_ms == w.epoch(Epoch{1}).stall_ms);
  CHECK(view.commit_ms == w.epoch(Epoch{1}).commit_ms);
  CHECK(view.cost_ms == doctest::Approx(view.stall_ms + interval::kUploadShare * view.commit_ms));
  // Two hosts, each one failure in a year, but for a minute that they have been watched.
  CHECK(view.failures == 0);
  CHECK(view.mtbf_seconds == doctest::Approx(365 * interval::kDay / 2).epsilon(0.001));
  CHECK(view.seconds == doctest::Approx(interval::optimum(view.cost_ms / 1000, view.mtbf_seconds)));
  const auto planned = static_cast<std::int64_t>(view.seconds * 1000);
  w.run_for(milliseconds(planned - 5'000));
  CHECK(count(w, EpochState::committed) == 1);
  CHECK(w.until([&] { return count(w, EpochState::committed) == 2; }, milliseconds(10'000)));
  CHECK(w.broken() == "");
}

TEST_CASE("auto: hosts that fail make checkpoints more frequent, and a new coordinator knows it") {
  World w(3);
  const JobId id = w.running(automatic_job());
  w.committed(id);
  w.run_for(2 * w.settings.lease);
  const double before = w.core().interval(id)->seconds;
  const HostName lost = w.job(id).placement[1].host;
  w.kill(lost);
  REQUIRE(w.until_state(id, JobState::restarting));
  CHECK(w.durable.hosts.at(lost).failures == 1);
  w.revive(lost);
  REQUIRE(w.until_state(id, JobState::running));
  // The gang is elsewhere now. Were it there again:
  auto& placement = w.durable.jobs.at(id).placement;
  placement[1].host = lost;
  const Coordinator anew(w.settings, w.durable);
  const auto view = *anew.interval(id);
  CHECK(view.failures == 1);
  CHECK(view.watched_seconds >= 1);
  CHECK(view.seconds < before / 2);
}

TEST_CASE("after a restart there is a quiet time: no checkpoint by itself, and one on demand all the same") {
  World w(4);
  auto job = lasting();
  job.interval_seconds = 2;
  const JobId id = w.running(job);
  REQUIRE(w.until([&] { return count(w, EpochState::committed) == 1; }));
  w.kill(w.job(id).placement[1].host);
  REQUIRE(w.until([&] { return w.job(id).restarts == 1; }));
  const auto taken = w.durable.epochs.size();
  w.run_for(interval::kQuiet - milliseconds(500));
  CHECK(w.durable.epochs.size() == taken);
  CHECK(w.until([&] { return w.durable.epochs.size() > taken; }, milliseconds(2'000)));
  w.run_for(milliseconds(20'000));
  w.kill(w.job(id).placement[0].host);
  REQUIRE(w.until([&] { return w.job(id).restarts == 2; }));
  CHECK(w.answer(w.checkpoint(id)).has_value());
}

TEST_CASE("a coordinator that starts anew counts from the newest checkpoint, and gives the job a quiet time") {
  World w(2);
  auto job = lasting();
  job.interval_seconds = 60;
  const JobId id = w.running(job);
  w.committed(id);
  for (int i = 0; i < 3; ++i) {
    w.run_for(milliseconds(18'000));
    w.crash();
  }
  CHECK(count(w, EpochState::committed) == 1);
  CHECK(w.until([&] { return count(w, EpochState::committed) == 2; }, milliseconds(16'000)));
  w.crash();
  w.run_for(milliseconds(2'000));
  REQUIRE(w.job(id).state == JobState::running);
  wire::FromHost wish;
  wish.mutable_gang()->set_job(id.value);
  wish.mutable_gang()->set_incarnation(w.job(id).incarnation.value);
  wish.mutable_rank_wished()->mutable_wish()->set_kind(wire::RankWish::CHECKPOINT);
  const auto epochs = w.durable.epochs.size();
  w.say(w.job(id).placement[0].host, wish);
  w.run_for(milliseconds(1'000));
  CHECK(w.durable.epochs.size() == epochs);
  w.run_for(interval::kQuiet);
  w.say(w.job(id).placement[0].host, wish);
  w.run_for(milliseconds(1'000));
  CHECK(w.durable.epochs.size() == epochs + 1);
}

TEST_CASE("a failure is what this coordinator saw: not a host that was down before, nor what hosts ended without it") {
  World w(3);
  const JobId id = w.running(lasting());
  w.committed(id);
  w.run_for(3 * w.settings.lease);
  std::string spare;
  for (const auto& [name, host] : w.hosts)
    if (name != w.job(id).placement[0].host && name != w.job(id).placement[1].host) spare = name.value;
  w.kill(HostName{spare});
  w.run_for(2 * w.settings.lease);
  CHECK(w.durable.hosts.at(HostName{spare}).failures == 1);
  for (int i = 0; i < 3; ++i) {
    w.crash();
    w.run_for(3 * w.settings.lease);
  }
  CHECK(w.durable.hosts.at(HostName{spare}).failures == 1);
}

TEST_CASE("an attempt that failed by itself is made again sooner than the next one was due") {
  World w(2);
  auto job = lasting();
  job.interval_seconds = 400;
  const JobId id = w.running(job);
  bool full = true;
  w.script.failure = [&](const HostName&, const wire::ToHost& m) -> std::optional<Error> {
    if (!full || !m.has_capture()) return std::nullopt;
    return Error{ErrorKind::transient, "capture", "guest 0", "the host was busy"};
  };
  REQUIRE(w.until([&] { return count(w, EpochState::aborted) == 1; }, milliseconds(402'000)));
  full = false;
  w.run_for(milliseconds(40'000));
  CHECK(count(w, EpochState::committed) == 0);
  CHECK(w.until([&] { return count(w, EpochState::committed) == 1; }, milliseconds(15'000)));
}

TEST_CASE("a silent host is told of within a few heartbeats, long before it is given up") {
  World w(2);
  w.record = true;
  const JobId id = w.running(lasting());
  const HostName lost = w.job(id).placement[1].host;
  w.kill(lost);
  w.run_for(milliseconds(2'600));
  CHECK(noted(w, "host silent"));
  CHECK_FALSE(noted(w, "host lost"));
  CHECK(w.core().silent_hosts(id) == lost.value);
  for (const auto& host : w.core().hosts())
    CHECK(host.state == (host.host == lost ? HostView::State::silent : HostView::State::up));
  CHECK(w.job(id).state == JobState::running);
  CHECK(w.until([&] { return noted(w, "host lost"); }, milliseconds(10'000)));
  CHECK(w.job(id).state != JobState::running);
}
