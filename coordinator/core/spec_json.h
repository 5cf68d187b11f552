// A job's spec as JSON: how clients send it and how the catalog keeps it. Pure functions; any thread.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "coordinator/core/events.h"

namespace stillpoint::coordinator {

nlohmann::json spec_to_json(const JobSpec& spec);
// The same without a number for each guest where all have as many ranks: it is kept once for each host.
nlohmann::json spec_to_short_json(const JobSpec& spec);

// Structure only: unknown keys, missing required ones (name, guests, memoryBytes, diskBytes, ranksPerGuest, command)
// and wrong types are errors, all of them named at once.
Result<JobSpec> spec_from_json(const nlohmann::json& document);

// What is wrong with the values, each in words; empty = a job that makes sense. Whether hosts can run it is the core's
// to say.
std::vector<std::string> spec_problems(const JobSpec& spec);

}  // namespace stillpoint::coordinator
