// What the core knows, as the JSON that clients see (docs: the API section of docs/protocol.md). On the core's thread.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "coordinator/core/coordinator.h"

namespace stillpoint::coordinator {

// The job with this id, or else the newest of this name; null when there is none.
const JobRecord* find_job(const CatalogState& state, const std::string& id_or_name);
// Nothing more will happen to it unless somebody restarts it.

// ranks: as the hosts just said; empty = as last known.
nlohmann::json status_json(const Coordinator& core, const JobRecord& job,
                           const std::vector<wire::RankReport>& ranks = {});
nlohmann::json jobs_json(const Coordinator& core);  // oldest first
nlohmann::json checkpoint_json(const EpochRecord& epoch);
nlohmann::json checkpoints_json(const Coordinator& core, const JobRecord& job);  // oldest first
nlohmann::json restart_json(const Restarted& restarted);
nlohmann::json verified_json(const Verified& verified);
nlohmann::json pruned_json(const Pruned& pruned);
nlohmann::json rebuilt_json(const Rebuilt& rebuilt);
nlohmann::json store_json(const Coordinator& core);
nlohmann::json hosts_json(const Coordinator& core);
nlohmann::json events_json(const std::vector<EventRecord>& events);
nlohmann::json error_json(const Error& error);

}  // namespace stillpoint::coordinator
