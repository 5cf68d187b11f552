// Copies of the catalog, while the coordinator works or after it: whole, checked, in one file. Blocking: on a worker,
// not on the thread that owns the catalog, which neither waits for a backup nor knows of it. Any thread.
#pragma once

#include <cstdint>
#include <filesystem>

#include "common/result.h"

namespace stillpoint::coordinator {

// Writes the catalog as it is at this moment to a new file (0600): beside it first, checked as a start of the
// coordinator checks it, synced, then under its name. Bytes of the file. Refused when there is something of that name
// or the path is not absolute; storage_full when there is no room. After an error nothing is left.
Result<std::uint64_t> back_up_catalog(const std::filesystem::path& catalog, const std::filesystem::path& to);

// Gives from the name to, which nobody has; durable when it returns.
Status publish_new(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace stillpoint::coordinator
