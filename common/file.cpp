#include "common/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "common/fd.h"

namespace stillpoint {
namespace {

Status write_all(int fd, std::string_view content, const std::string& object) {
  while (!content.empty()) {
    const ssize_t n = ::write(fd, content.data(), content.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_error("write", object, errno);
    content.remove_prefix(static_cast<std::size_t>(n));
  }
  return {};
}

}  // namespace

Status sync_directory(const std::filesystem::path& directory) {
  Fd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return errno_error("open", directory.string(), errno);
  if (::fsync(fd.get()) != 0) return errno_error("fsync", directory.string(), errno);
  return {};
}

Status publish_file(const std::filesystem::path& path, std::string_view content, unsigned mode) {
  std::string temporary = path.string() + ".XXXXXX";
  Fd fd(::mkostemp(temporary.data(), O_CLOEXEC));
  if (!fd) return errno_error("create", temporary, errno);
  auto fail = [&temporary](Error error) -> Status {
    ::unlink(temporary.c_str());
    return error;
  };
  if (::fchmod(fd.get(), mode) != 0) return fail(errno_error("chmod", temporary, errno));
  if (auto written = write_all(fd.get(), content, temporary); !written) return fail(written.error());
  if (::fsync(fd.get()) != 0) return fail(errno_error("fsync", temporary, errno));
  if (::close(fd.release()) != 0) return fail(errno_error("close", temporary, errno));
  if (::rename(temporary.c_str(), path.c_str()) != 0) return fail(errno_error("rename", path.string(), errno));
  return sync_directory(path.has_parent_path() ? path.parent_path() : std::filesystem::path("."));
}

Result<std::string> read_file(const std::filesystem::path& path, std::size_t limit) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return errno_error("open", path.string(), errno);
  std::string content;
  char block[64 << 10];
  for (;;) {
    const ssize_t n = ::read(fd.get(), block, sizeof block);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_error("read", path.string(), errno);
    if (n == 0) return content;
    if (content.size() + static_cast<std::size_t>(n) > limit)
      return Error{ErrorKind::permanent, "read", path.string(), "larger than " + std::to_string(limit) + " bytes"};
    content.append(block, static_cast<std::size_t>(n));
  }
}

}  // namespace stillpoint
