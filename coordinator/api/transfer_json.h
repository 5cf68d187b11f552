// A checkpoint that leaves the site or comes from another one, as the JSON that the exported file carries
// (docs/export-format.md). What comes from a file is somebody else's: read strictly. Pure; any thread.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "coordinator/core/records.h"

namespace stillpoint::coordinator {

nlohmann::json export_json(const JobRecord& job, const EpochRecord& epoch);
// name: of the job here; empty: as there. refused with all problems at once.
Result<ForeignCheckpoint> foreign_checkpoint(const nlohmann::json& document, const std::string& name);

}  // namespace stillpoint::coordinator
