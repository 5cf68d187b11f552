// The right to write to a store: an exclusive flock(2) on a file in it, for as long as the descriptor is open. It goes
// with the process that had it, however that ended; on a network file system with its machine's lease there.
#pragma once

#include <chrono>
#include <filesystem>

#include "common/fd.h"
#include "common/result.h"

namespace stillpoint::node {

// directory: must be there. transient if somebody else still has it after so long. Blocking; any thread.
Result<Fd> lock_store(const std::filesystem::path& directory, std::chrono::milliseconds patience);

}  // namespace stillpoint::node
