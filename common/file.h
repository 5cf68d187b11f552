// Files that are there whole or not at all. Blocking: call from a worker, not from an I/O thread. Any thread.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "common/result.h"

namespace stillpoint {

// Writes a temporary beside path, fsyncs it, renames it onto path, fsyncs the directory. On failure the temporary is
// gone and path is what it was. mode is exact, whatever the umask.
Status publish_file(const std::filesystem::path& path, std::string_view content, unsigned mode = 0600);

// The whole file; a file over limit bytes is an error, not a truncation.
Result<std::string> read_file(const std::filesystem::path& path, std::size_t limit = 64u << 20);

// fsync of a directory, after a name in it was made, renamed or removed.
Status sync_directory(const std::filesystem::path& directory);

}  // namespace stillpoint
