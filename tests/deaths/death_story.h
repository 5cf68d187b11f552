// What the tests with killed and stopped processes have in common: a job of two guests that is checkpointed twice and
// restarted, and what must hold of it whatever died. Tests only: failures are doctest's.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>

#include "tests/deaths/death_site.h"

namespace stillpoint::test {

// False after a minute.
bool wait_until(const std::function<bool()>& condition);
// As the coordinator says it; an empty object when it does not.
nlohmann::json status(DeathSite& site, const std::string& job);

nlohmann::json spec_of(const std::string& name, unsigned guests = 2, std::uint64_t memory_mib = 64);
// All of the site's, by the coordinator's word; one that was started anew has heard of them. False after a minute.
bool await_hosts(DeathSite& site);
// Submitted and running when it returns; its id.
std::string start_job(DeathSite& site, const std::string& name, std::uint64_t memory_mib = 64);

// What clients were told. Memory is of version n at the n-th checkpoint of the story.
struct Told {
  std::vector<std::uint64_t> committed;  // epochs
  bool finished = false;                 // the story came to its end
};
// Two checkpoints and a restart; until the first question that is not answered well.
Told tell_story(DeathSite& site, const std::string& job);

// The job runs, its epochs are settled, each of its guests is there once, of the present incarnation, and not held.
void check_runs(DeathSite& site, const std::string& job);
// What was promised is committed, or was and went with its age; everything else is settled.
void check_promises(DeathSite& site, const std::string& job, const Told& told);
// That, and each checkpoint that is listed as committed restarts with the memory of its moment.
void check_checkpoints(DeathSite& site, const std::string& job, const Told& told);
// Ended and removed, of which nothing is left anywhere.
void remove_job(DeathSite& site, const std::string& job);

}  // namespace stillpoint::test
