// Names that a client or a host chose, opened below a directory of ours: no symlink is followed, nothing outside is
// reached, whatever the name. Blocking; any thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "common/fd.h"
#include "common/result.h"

namespace stillpoint::coordinator {

// The directory that holds the last component of name, and that component.
struct Place {
  Fd directory;
  std::string leaf;
};
enum class Missing { error, make };  // directories in between, made 0700
Result<Place> place_below(const std::filesystem::path& root, std::string_view name, Missing missing);

// openat with O_NOFOLLOW | O_CLOEXEC; only a regular file is opened.
Result<Fd> open_below(const std::filesystem::path& root, std::string_view name, int flags, mode_t mode = 0600,
                      Missing missing = Missing::error);

Status write_at(int fd, std::string_view data, std::uint64_t offset, const std::string& object);
// Up to length bytes; fewer only at the end of the file.
Result<std::string> read_at(int fd, std::uint64_t offset, std::size_t length, const std::string& object);
Result<std::uint64_t> size_of(int fd, const std::string& object);

// An error of kind storage_full when bytes more would leave the file system of directory without the reserve that the
// catalog needs to go on: at least 64 MiB, or a twentieth of a small one.
Status room_for(const std::filesystem::path& directory, std::uint64_t bytes);

// A directory that only we enter, made where it is missing.
Status make_private_directory(const std::filesystem::path& directory);

}  // namespace stillpoint::coordinator
