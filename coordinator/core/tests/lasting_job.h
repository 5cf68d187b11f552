// Jobs that come back by themselves, and what befalls them. For the tests of the policy.
#pragma once

#include <doctest/doctest.h>

#include "coordinator/core/tests/world.h"

namespace stillpoint::coordinator::testing {

inline bool says(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

inline JobSpec lasting(std::uint32_t guests = 2) {
  JobSpec job = spec(guests);
  job.restart_on_failure = true;
  return job;
}

inline HostName place(World& w, const JobId& id, std::size_t guest) { return w.job(id).placement[guest].host; }

inline bool runs_again(World& w, const JobId& id, std::uint64_t incarnation) {
  return w.until([&] { return w.job(id).state == JobState::running && w.job(id).incarnation.value == incarnation; });
}

inline void ends_well(World& w, const JobId& id) {
  std::uint64_t steps = 0;
  for (auto& [name, host] : w.hosts)
    if (auto* gang = host.gang(id); gang != nullptr && gang->guests.contains(0)) steps = gang->guests.at(0).state.step;
  w.script.last_step = steps + 20;
  REQUIRE(w.until_state(id, JobState::completed));
  CHECK(w.output[id] == w.expected_output(steps + 20));
  CHECK(w.broken() == "");
}

inline void lose_rank(World& w, const JobId& id) {
  wire::FromHost bad;
  bad.mutable_gang()->set_job(id.value);
  bad.mutable_gang()->set_incarnation(w.job(id).incarnation.value);
  bad.mutable_rank_lost()->mutable_rank()->set_rank(1);
  bad.mutable_rank_lost()->mutable_rank()->set_detail("signal 9");
  w.say(place(w, id, 0), bad);
}

}  // namespace stillpoint::coordinator::testing
