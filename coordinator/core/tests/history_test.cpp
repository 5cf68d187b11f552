// Every change of state is a line of history, once, with the states as they are from then on. That none is left out is
// an invariant (invariants.cpp), checked in all histories of all tests; here is what the lines say.
#include <doctest/doctest.h>

#include "coordinator/core/tests/world.h"

using namespace stillpoint;
using namespace stillpoint::coordinator;
using namespace stillpoint::coordinator::testing;

namespace {

// The states that the job went through, each change once.
std::vector<JobState> states(const World& w, const JobId& id) {
  std::vector<JobState> found;
  for (const auto& line : w.history)
    if (line.job == id && line.job_state && (found.empty() || found.back() != *line.job_state))
      found.push_back(*line.job_state);
  return found;
}

std::vector<std::string> lines(const World& w, const std::string& host) {
  std::vector<std::string> found;
  for (const auto& line : w.history)
    if (line.host.value == host && line.job.empty())
      found.push_back(line.what + (line.detail.empty() ? "" : ": " + line.detail));
  return found;
}

}  // namespace

TEST_CASE("a job's life, state by state") {
  World w(3);
  const JobId id = w.running(spec());
  const Epoch epoch = w.committed(id);
  w.kill(w.job(id).placement[1].host);
  REQUIRE(w.until_state(id, JobState::failed));
  REQUIRE(w.answer(w.restart(id)).has_value());
  w.script.last_step = 1;
  REQUIRE(w.until_state(id, JobState::completed));
  using enum JobState;
  CHECK(states(w, id) == std::vector<JobState>{pending, starting, running, checkpointing, running, failed, restarting,
                                               running, completed});
  std::vector<EpochState> epochs;
  for (const auto& line : w.history)
    if (line.epoch == epoch && line.epoch_state && (epochs.empty() || epochs.back() != *line.epoch_state))
      epochs.push_back(*line.epoch_state);
  CHECK(epochs == std::vector<EpochState>{EpochState::attempted, EpochState::captured, EpochState::committed});
  CHECK(w.history.back().incarnation == Incarnation{2});
  CHECK(w.broken() == "");
}

TEST_CASE("hosts: connected, disconnected, lost, back, cordoned") {
  World w(2);
  w.run_for(milliseconds(500));
  CHECK(lines(w, "h1") == std::vector<std::string>{"host connected", "host joined: at 192.0.2.1"});
  w.history.clear();
  w.drop_session(HostName{"h1"});
  w.run_for(w.settings.lease + milliseconds(1'000));
  w.connect(HostName{"h1"});
  w.ask([](RequestId r) { return CordonHost{r, HostName{"h1"}, true}; });
  w.ask([](RequestId r) { return CordonHost{r, HostName{"h1"}, false}; });
  w.run_for(milliseconds(500));
  const auto found = lines(w, "h1");
  REQUIRE(found.size() == 6);
  CHECK(found[0] == "host disconnected");
  CHECK(found[1].starts_with("host silent: no word"));
  CHECK(found[2].starts_with("host lost: no word"));
  CHECK(found[3] == "host connected: it had been lost");
  CHECK(found[4] == "host cordoned");
  CHECK(found[5] == "host uncordoned");
}

TEST_CASE("hosts that connect cost one transaction together, not one each") {
  World w(8);
  w.record = true;
  for (auto& [name, host] : w.hosts) w.drop_session(name);
  for (auto& [name, host] : w.hosts) w.connect(name);
  w.run_for(milliseconds(200));
  std::size_t transactions = 0, rows = 0;
  for (const auto& line : w.transcript) transactions += line.find("persist") != std::string::npos;
  for (const auto& line : w.history) rows += line.what == "host connected" || line.what == "host disconnected";
  CHECK(rows >= 16);
  CHECK(transactions <= 3);
}

TEST_CASE("what a machine changes without a word gets its line in the same transaction") {
  bool found = false;
  for (std::uint64_t at = 1; at <= 30 && !found; ++at) {
    World w(2, at);
    w.run_for(milliseconds(500));
    w.crash_after_effects(at);  // one of these is while it starts
    w.ask([](RequestId r) { return SubmitJob{r, spec(), "", ""}; });
    w.run_for(milliseconds(300));
    const auto said = std::ranges::find_if(w.history, [](const auto& line) { return line.what == "job pending"; });
    if (said == w.history.end()) continue;
    found = true;
    CHECK(said->job_state == JobState::pending);
    CHECK(said->detail.find("the coordinator ended while the job was starting") != std::string::npos);
    CHECK(w.broken() == "");
  }
  CHECK(found);
}

TEST_CASE("an image that is found damaged, and a job that is removed, are told once") {
  World w(2);
  const JobId id = w.running(spec());
  const Epoch epoch = w.committed(id);
  REQUIRE(w.answer(w.ask([&](RequestId r) { return StopJob{r, id}; })).has_value());
  REQUIRE(w.answer(w.ask([&](RequestId r) { return RemoveJob{r, id}; })).has_value());
  std::size_t pruned = 0, removed = 0;
  for (const auto& line : w.history) {
    pruned += line.epoch == epoch && line.epoch_state == EpochState::pruned;
    removed += line.job == id && line.what == "removed";
  }
  CHECK(pruned == 1);
  CHECK(removed == 1);
}
