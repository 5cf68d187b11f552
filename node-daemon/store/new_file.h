// Files that several hosts may be about to make at the same time: the first one counts. Blocking; any thread.
#pragma once

#include <filesystem>
#include <string_view>

#include "common/result.h"

namespace stillpoint::node {

// 0600; durable when it returns, and whole as soon as it has its name. Without error where there is one by that name
// already. A process that dies before leaves nothing behind, but on file systems without nameless files (NFS).
Status make_new_file(const std::filesystem::path& path, std::string_view text);

}  // namespace stillpoint::node
