#include "node-daemon/store/new_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "common/fd.h"
#include "common/file.h"
#include "node-daemon/store/seal.h"

namespace stillpoint::node {
namespace {

// Where the file system has no files without a name.
Status make_named_file(const std::filesystem::path& path, std::string_view text) {
  auto id = random_id();
  if (!id) return id.error();
  const std::filesystem::path own = path.string() + "." + hex(as_text(*id));
  if (auto written = publish_file(own, text, 0600); !written) return written;
  const int failed = ::link(own.c_str(), path.c_str()) == 0 ? 0 : errno;
  ::unlink(own.c_str());
  if (failed != 0 && failed != EEXIST) return errno_error("make file", path.string(), failed);
  return {};
}

}  // namespace

Status make_new_file(const std::filesystem::path& path, std::string_view text) {
  const std::filesystem::path directory = path.parent_path().empty() ? "." : path.parent_path();
  const Fd fd(::open(directory.c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600));
  if (fd) {
    const ssize_t n = ::write(fd.get(), text.data(), text.size());
    if (n != static_cast<ssize_t>(text.size())) return errno_error("make file", path.string(), n < 0 ? errno : ENOSPC);
    if (::fsync(fd.get()) != 0) return errno_error("make file", path.string(), errno);
    const std::string self = "/proc/self/fd/" + std::to_string(fd.get());
    if (::linkat(AT_FDCWD, self.c_str(), AT_FDCWD, path.c_str(), AT_SYMLINK_FOLLOW) != 0 && errno != EEXIST)
      return errno_error("make file", path.string(), errno);
  } else if (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL) {
    if (auto made = make_named_file(path, text); !made) return made;
  } else {
    return errno_error("make file", path.string(), errno);
  }
  return sync_directory(directory);
}

}  // namespace stillpoint::node
