// The coordinator ends between any two effects and a new one takes up what the catalog holds.
#include <doctest/doctest.h>

#include "coordinator/core/tests/world.h"

using namespace stillpoint;
using namespace stillpoint::coordinator;
using namespace stillpoint::coordinator::testing;

namespace {

// To the end, with each line once and nothing left over.
void ends_well(World& w, const JobId& id) {
  std::uint64_t steps = 0;
  for (auto& [name, host] : w.hosts)
    if (auto* gang = host.gang(id); gang != nullptr && gang->guests.contains(0)) steps = gang->guests.at(0).state.step;
  w.script.last_step = steps + 20;
  REQUIRE(w.until_state(id, JobState::completed));
  CHECK(w.job(id).exit_code == 0);
  CHECK(w.output[id] == w.expected_output(steps + 20));
  w.run_for(milliseconds(500));
  for (auto& [name, host] : w.hosts) CHECK(host.gangs.empty());
  CHECK(w.broken() == "");
}

std::size_t count(const World& w, EpochState state) {
  std::size_t n = 0;
  for (const auto& [number, epoch] : w.durable.epochs) n += epoch.state == state;
  return n;
}

}  // namespace

TEST_CASE("a coordinator that ends at any point of a start: the job starts all the same") {
  for (std::uint64_t at = 1;; ++at) {
    CAPTURE(at);
    World w(2, at);
    const auto before = w.effects_seen();
    w.crash_after_effects(at);
    w.ask([](RequestId r) { return SubmitJob{r, spec(), "", ""}; });
    w.run_for(milliseconds(500));
    const bool crashed = w.core().rejected() == 0 ? w.effects_seen() - before > at : true;
    if (w.durable.jobs.empty()) {
      w.submit(spec());  // the client asks again
    }
    const JobId id = w.durable.jobs.rbegin()->first;
    REQUIRE(w.until_state(id, JobState::running));
    ends_well(w, id);
    if (!crashed || at > 60) break;
  }
}

TEST_CASE("a coordinator that ends at any point of a checkpoint: the job runs on, the epoch is committed or aborted") {
  std::size_t committed = 0, aborted = 0;
  for (std::uint64_t at = 1; at <= 70; ++at)
    for (const int upload : {0, 700}) {
      CAPTURE(at);
      CAPTURE(upload);
      World w(2, at);
      const JobId id = w.running(spec());
      w.script.upload = milliseconds(upload);
      w.crash_after_effects(at);
      w.checkpoint(id);
      w.run_for(milliseconds(5'000));
      CHECK(w.job(id).state == JobState::running);
      CHECK(w.job(id).incarnation == Incarnation{1});
      CHECK_FALSE(w.job(id).attempt.has_value());
      CHECK(count(w, EpochState::attempted) + count(w, EpochState::captured) == 0);
      committed += count(w, EpochState::committed);
      aborted += count(w, EpochState::aborted);
      const auto printed = w.output[id].size();
      w.run_for(milliseconds(1'000));
      CHECK(w.output[id].size() > printed);  // nobody is held
      if (count(w, EpochState::committed) == 0) CHECK(w.store.images.empty());
      const Epoch next = w.committed(id);
      CHECK(next >= Epoch{1});
      REQUIRE(w.answer(w.restart(id)).has_value());
      ends_well(w, id);
    }
  // Both ends were met.
  CHECK(committed > 10);
  CHECK(aborted > 10);
}

TEST_CASE("a coordinator that ends at any point of a restart: the restart is done again, never twice at once") {
  std::size_t again = 0;
  for (std::uint64_t at = 1; at <= 60; ++at) {
    CAPTURE(at);
    World w(3, at);
    const JobId id = w.running(spec());
    w.run_for(milliseconds(1'000));
    w.committed(id);
    w.run_for(milliseconds(1'000));
    w.crash_after_effects(at);
    w.restart(id);
    w.run_for(milliseconds(500));
    REQUIRE(w.until_state(id, JobState::running));
    again += w.job(id).incarnation > Incarnation{2};
    ends_well(w, id);
  }
  CHECK(again > 5);
}

TEST_CASE("a restart that a new coordinator takes up goes where the user said, and from nowhere else") {
  std::size_t again = 0;
  for (std::uint64_t at = 1; at <= 40; ++at)
    for (const bool named : {false, true}) {
      CAPTURE(at);
      CAPTURE(named);
      World w(3, at);
      const JobId id = w.running(spec());
      w.committed(id);
      const Epoch second = w.committed(id);
      w.store.damaged.insert(id.value + "/e" + std::to_string(second.value) + "/guest-1");
      w.crash_after_effects(at);
      w.restart(id, named ? std::optional(second) : std::nullopt, {HostName{"h3"}});
      w.run_for(milliseconds(500));
      if (w.job(id).incarnation == Incarnation{1}) continue;  // it ended before anything was written
      REQUIRE(w.until_state(id, named ? JobState::failed : JobState::running));
      again += w.job(id).incarnation > Incarnation{named ? 2u : 3u};
      CHECK_FALSE(w.job(id).restart.has_value());
      if (named) continue;
      for (const auto& place : w.job(id).placement) CHECK(place.host.value == "h3");
      CHECK(w.job(id).reason.find("is taken instead") != std::string::npos);
      ends_well(w, id);
    }
  CHECK(again > 5);
}

TEST_CASE("images and outputs of an aborted epoch go although the coordinator ended before they were deleted") {
  World w(2);
  const JobId id = w.running(spec());
  w.committed(id);
  w.script.upload = milliseconds(60'000);
  w.checkpoint(id);
  REQUIRE(w.until([&] { return w.core().phase(id) == "upload"; }));
  // Aborted, and then neither the hosts nor the coordinator are there to clean up.
  w.script.swallow = [](const HostName&, const wire::ToHost& m) { return m.has_release() || m.has_delete_images(); };
  CHECK(w.answer(w.ask([&](RequestId r) { return StopJob{r, id}; })).has_value());
  REQUIRE(count(w, EpochState::aborted) == 1);
  for (auto& [name, host] : w.hosts) host.gangs.clear();
  w.script.swallow = nullptr;
  w.crash();
  w.run_for(milliseconds(1'000));
  CHECK(w.store.images.size() == 2);  // of the committed one
  CHECK(w.outputs_kept().size() == 1);
}

TEST_CASE("a coordinator that ends at any point of the program's end: the job completes") {
  for (std::uint64_t at = 1; at <= 40; ++at) {
    CAPTURE(at);
    World w(2, at);
    const JobId id = w.running(spec());
    w.run_for(milliseconds(500));
    w.script.last_step = 10;
    w.crash_after_effects(at);
    REQUIRE(w.until_state(id, JobState::completed));
    CHECK(w.output[id] == w.expected_output(10));
    w.run_for(milliseconds(500));
    for (auto& [name, host] : w.hosts) CHECK(host.gangs.empty());
    CHECK(w.broken() == "");
  }
}

TEST_CASE("a coordinator that ends at any point of a stop: the job is stopped, or asked again") {
  for (std::uint64_t at = 1; at <= 30; ++at) {
    CAPTURE(at);
    World w(2, at);
    const JobId id = w.running(spec());
    w.crash_after_effects(at);
    w.ask([&](RequestId r) { return StopJob{r, id}; });
    w.run_for(milliseconds(20'000));
    CHECK((w.job(id).state == JobState::stopped || w.job(id).state == JobState::running));
    if (w.job(id).state == JobState::running)
      CHECK(w.answer(w.ask([&](RequestId r) { return StopJob{r, id}; })).has_value());
    w.run_for(milliseconds(500));
    for (auto& [name, host] : w.hosts) CHECK(host.gangs.empty());
    CHECK(w.broken() == "");
  }
}

TEST_CASE("a coordinator that ends at any point of a removal leaves no image behind") {
  for (std::uint64_t at = 1; at <= 12; ++at) {
    CAPTURE(at);
    World w(2, at);
    const JobId id = w.running(spec());
    w.committed(id);
    CHECK(w.answer(w.ask([&](RequestId r) { return StopJob{r, id}; })).has_value());
    w.crash_after_effects(at);
    w.ask([&](RequestId r) { return RemoveJob{r, id}; });
    w.run_for(milliseconds(1'000));
    if (w.durable.jobs.contains(id)) CHECK(w.answer(w.ask([&](RequestId r) { return RemoveJob{r, id}; })).has_value());
    CHECK(w.durable.jobs.empty());
    CHECK(w.store.images.empty());
  }
}

TEST_CASE("a host that does not come back after the coordinator's restart is lost after a lease") {
  World w(2);
  const JobId id = w.running(spec());
  w.committed(id);
  w.kill(w.job(id).placement[1].host);
  w.crash();
  CHECK(w.job(id).state == JobState::running);
  REQUIRE(w.until_state(id, JobState::failed));
  CHECK(w.broken() == "");
}

TEST_CASE("a coordinator that stood still pings once more as soon as the pong is there") {
  World w(1);
  w.run_for(milliseconds(5'000));
  for (auto& [name, host] : w.hosts) host.tick(w.now += milliseconds(6'000));
  w.record = true;
  w.transcript.clear();
  w.run_for(milliseconds(300));  // by the second a host knows that its answer to the first arrived
  CHECK(std::ranges::count_if(w.transcript, [](const auto& line) { return line.ends_with("to h1: Ping"); }) == 2);
}
