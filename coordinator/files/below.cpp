#include "coordinator/files/below.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "common/names.h"

namespace stillpoint::coordinator {
namespace {

constexpr int kDirectory = O_RDONLY | O_DIRECTORY | O_CLOEXEC;

std::string describe(const std::filesystem::path& root, std::string_view name) { return (root / name).string(); }

Error open_error(const std::string& object, int code) {
  if (code == ENOENT) return Error{ErrorKind::not_found, "opening", object, "no such file"};
  if (code == ELOOP || code == ENOTDIR)
    return Error{ErrorKind::refused, "opening", object, "the path goes through something that is not a directory"};
  return errno_error("opening", object, code);
}

}  // namespace

Result<Place> place_below(const std::filesystem::path& root, std::string_view name, Missing missing) {
  const std::string object = describe(root, name);
  if (!safe_relative_name(name))
    return Error{ErrorKind::refused, "opening", std::string(name),
                 "expected a relative path without '..' or control characters"};
  Fd at(::open(root.c_str(), kDirectory));
  if (!at) return open_error(root.string(), errno);
  std::string_view rest = name;
  for (std::size_t slash = rest.find('/'); slash != rest.npos; slash = rest.find('/')) {
    const std::string part(rest.substr(0, slash));
    if (missing == Missing::make && ::mkdirat(at.get(), part.c_str(), 0700) != 0 && errno != EEXIST)
      return errno_error("creation", object, errno);
    Fd next(::openat(at.get(), part.c_str(), kDirectory | O_NOFOLLOW));
    if (!next) return open_error(object, errno);
    at = std::move(next);
    rest.remove_prefix(slash + 1);
  }
  return Place{std::move(at), std::string(rest)};
}

Result<Fd> open_below(const std::filesystem::path& root, std::string_view name, int flags, mode_t mode,
                      Missing missing) {
  auto place = place_below(root, name, missing);
  if (!place) return place.error();
  // O_NONBLOCK: a pipe that was put there must not hold us up before it is seen for what it is.
  Fd fd(::openat(place->directory.get(), place->leaf.c_str(), flags | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, mode));
  const std::string object = describe(root, name);
  if (!fd) return open_error(object, errno);
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return errno_error("stat", object, errno);
  if (!S_ISREG(info.st_mode)) return Error{ErrorKind::refused, "opening", object, "not a regular file"};
  return fd;
}

Status write_at(int fd, std::string_view data, std::uint64_t offset, const std::string& object) {
  while (!data.empty()) {
    const ssize_t n = ::pwrite(fd, data.data(), data.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_error("write", object, errno);
    data.remove_prefix(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
  return {};
}

Result<std::string> read_at(int fd, std::uint64_t offset, std::size_t length, const std::string& object) {
  std::string data(length, '\0');
  std::size_t got = 0;
  while (got < length) {
    const ssize_t n = ::pread(fd, data.data() + got, length - got, static_cast<off_t>(offset + got));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_error("read", object, errno);
    if (n == 0) break;
    got += static_cast<std::size_t>(n);
  }
  data.resize(got);
  return data;
}

Result<std::uint64_t> size_of(int fd, const std::string& object) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) return errno_error("stat", object, errno);
  return static_cast<std::uint64_t>(info.st_size);
}

Status room_for(const std::filesystem::path& directory, std::uint64_t bytes) {
  struct statvfs figures {};
  if (::statvfs(directory.c_str(), &figures) != 0) return errno_error("stat", directory.string(), errno);
  const std::uint64_t block = figures.f_frsize;
  const std::uint64_t reserve = std::min<std::uint64_t>(64u << 20, figures.f_blocks * block / 20);
  const std::uint64_t free = figures.f_bavail * block;
  if (free >= reserve && free - reserve >= bytes) return {};
  return Error{ErrorKind::storage_full, "write", directory.string(),
               "only " + std::to_string(free) + " bytes are free, " + std::to_string(reserve) +
                   " of them kept for the catalog; make room there"};
}

Status make_private_directory(const std::filesystem::path& directory) {
  if (::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST)
    return errno_error("creation", directory.string(), errno);
  struct stat info {};
  if (::lstat(directory.c_str(), &info) != 0) return errno_error("stat", directory.string(), errno);
  if (!S_ISDIR(info.st_mode))
    return Error{ErrorKind::permanent, "creation", directory.string(), "something else has that name"};
  if (::chmod(directory.c_str(), 0700) != 0) return errno_error("chmod", directory.string(), errno);
  return {};
}

}  // namespace stillpoint::coordinator
