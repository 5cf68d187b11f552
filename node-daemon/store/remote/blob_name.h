// Names of blobs and of the directories they are in. Pure functions; any thread.
#pragma once

#include <string>
#include <string_view>

#include "common/result.h"

namespace stillpoint::node {

// Refused unless it is plain names between slashes (is_host_directory), at most 512 bytes, not ending in ".tmp".
Status check_blob_name(std::string_view step, std::string_view name);
// The same of a directory; the one of everything is "".
Status check_blob_directory(std::string_view step, std::string_view directory);

}  // namespace stillpoint::node
