#include "cli/export/new_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "common/file.h"
#include "common/random_id.h"

namespace stillpoint::cli {
namespace {

constexpr std::size_t kMostPassphrase = 4096;

Error taken(const std::filesystem::path& path) {
  return {ErrorKind::refused, "export", path.string(), "there is a file of that name already; name another one"};
}

}  // namespace

Result<NewFile> NewFile::create(const std::string& name) {
  NewFile file;
  if (name == "-") {
    file.fd_ = Fd(::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3));
    if (!file.fd_) return errno_error("open", "standard output", errno);
    if (::isatty(STDOUT_FILENO) == 1)
      return Error{ErrorKind::refused, "export", "standard output", "it is a terminal; redirect it, or name a file"};
    return file;
  }
  file.path_ = name;
  struct stat info {};
  if (::lstat(name.c_str(), &info) == 0) return taken(name);
  auto mark = random_id();
  if (!mark) return mark.error();
  std::filesystem::path temporary = name + "." + mark->substr(0, 8) + ".tmp";
  file.fd_ = Fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!file.fd_) return errno_error("create", temporary.string(), errno);
  file.temporary_ = std::move(temporary);
  return file;
}

NewFile::~NewFile() {
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

Status NewFile::write(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd_.get(), bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_error("write", path_.empty() ? "standard output" : path_.string(), errno);
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return {};
}

Status NewFile::publish() {
  if (path_.empty()) return {};
  if (::fsync(fd_.get()) != 0) return errno_error("fsync", temporary_.string(), errno);
  // A hard link never takes another file's name from it; where the file system has none, the rename does.
  if (::link(temporary_.c_str(), path_.c_str()) == 0) ::unlink(temporary_.c_str());
  else if (errno == EEXIST) return taken(path_);
  else if (::rename(temporary_.c_str(), path_.c_str()) != 0) return errno_error("rename", path_.string(), errno);
  temporary_.clear();
  return sync_directory(path_.has_parent_path() ? path_.parent_path() : std::filesystem::path("."));
}

Result<std::string> read_passphrase(const std::string& path) {
  const auto refused = [&](std::string cause) {
    return Error{ErrorKind::refused, "read passphrase", path, std::move(cause)};
  };
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return errno_error("read passphrase", path, errno);
  if (S_ISREG(info.st_mode) && (info.st_mode & 077) != 0)
    return refused("others may read it: chmod 600, and take another passphrase if somebody did");
  auto text = read_file(path, kMostPassphrase);
  if (!text) return text.error();
  if (text->ends_with('\n')) text->pop_back();
  if (text->ends_with('\r')) text->pop_back();
  if (text->empty()) return refused("it is empty");
  return text;
}

}  // namespace stillpoint::cli
