// One GET to the coordinator's API socket: all that the laboratory itself asks of it. Blocking; any thread.
#pragma once

#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "common/result.h"

namespace stillpoint::lab {

// The JSON document at path. An error of kind transient while nothing answers there.
Result<nlohmann::json> api_get(const std::filesystem::path& socket, const std::string& path,
                               std::chrono::milliseconds deadline);

}  // namespace stillpoint::lab
