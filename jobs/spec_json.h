// A manifest as the spec of the coordinator's API (docs/protocol.md). Pure; any thread.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>

#include "jobs/manifest.h"

namespace stillpoint::jobs {

// manifest must be free of problems. directory is the manifest's: what a relative image path is relative to.
nlohmann::json spec_json(const Manifest& manifest, const std::filesystem::path& directory);

}  // namespace stillpoint::jobs
