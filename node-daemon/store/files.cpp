#include "node-daemon/store/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "common/fd.h"
#include "common/file.h"

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;

class SystemWritable final : public WritableFile {
 public:
  SystemWritable(Fd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}
  Status append(std::string_view bytes) override {
    while (!bytes.empty()) {
      const ssize_t n = ::write(fd_.get(), bytes.data(), bytes.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return errno_error("write", path_, errno);
      bytes.remove_prefix(static_cast<std::size_t>(n));
    }
    return {};
  }
  Status sync() override {
    if (::fsync(fd_.get()) != 0) return errno_error("fsync", path_, errno);
    return {};
  }

 private:
  Fd fd_;
  const std::string path_;
};

class SystemReadable final : public ReadableFile {
 public:
  SystemReadable(Fd fd, std::string path, std::uint64_t size)
      : fd_(std::move(fd)), path_(std::move(path)), size_(size) {}
  Result<std::string> read(std::uint64_t offset, std::size_t count) const override {
    if (offset > size_ || count > size_ - offset) return too_short();  // before anything is allocated
    std::string bytes(count, '\0');
    for (std::size_t done = 0; done < count;) {
      const ssize_t n = ::pread(fd_.get(), bytes.data() + done, count - done, static_cast<off_t>(offset + done));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && errno == EIO) return Error{ErrorKind::damaged, "read", path_, "the disk cannot read it"};
      if (n < 0) return errno_error("read", path_, errno);
      if (n == 0) return too_short();
      done += static_cast<std::size_t>(n);
    }
    return bytes;
  }
  std::uint64_t size() const override { return size_; }

 private:
  Error too_short() const { return {ErrorKind::damaged, "read", path_, "it ends too early"}; }
  Fd fd_;
  const std::string path_;
  const std::uint64_t size_;
};

class SystemFiles final : public Files {
 public:
  Result<std::unique_ptr<WritableFile>> create(const fs::path& path) override {
    Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!fd) return errno_error("create", path.string(), errno);
    return std::make_unique<SystemWritable>(std::move(fd), path.string());
  }
  Result<std::shared_ptr<const ReadableFile>> open(const fs::path& path) override {
    Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd) return errno_error("open", path.string(), errno);
    struct stat state {};
    if (::fstat(fd.get(), &state) != 0) return errno_error("open", path.string(), errno);
    return std::make_shared<SystemReadable>(std::move(fd), path.string(), static_cast<std::uint64_t>(state.st_size));
  }
  Status rename(const fs::path& from, const fs::path& to) override {
    if (::rename(from.c_str(), to.c_str()) != 0) return errno_error("rename", to.string(), errno);
    return {};
  }
  Status remove(const fs::path& path) override {
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) return errno_error("delete", path.string(), errno);
    return {};
  }
  Status make_directory(const fs::path& path) override {
    if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) return errno_error("make directory", path.string(), errno);
    return {};
  }
  Status remove_directory(const fs::path& path) override {
    if (::rmdir(path.c_str()) != 0 && errno != ENOENT && errno != ENOTEMPTY && errno != EEXIST)
      return errno_error("delete directory", path.string(), errno);
    return {};
  }
  Status sync_directory(const fs::path& path) override { return stillpoint::sync_directory(path); }
  Result<std::vector<std::string>> list(const fs::path& path) override {
    std::vector<std::string> names;
    std::error_code failed;
    for (fs::directory_iterator entry(path, failed), end; !failed && entry != end; entry.increment(failed))
      names.push_back(entry->path().filename().string());
    if (failed && failed != std::errc::no_such_file_or_directory)
      return errno_error("list", path.string(), failed.value());
    std::ranges::sort(names);
    return names;
  }
  Result<std::uint64_t> free_bytes(const fs::path& path) override {
    struct statvfs figures {};
    if (::statvfs(path.c_str(), &figures) != 0) return errno_error("ask for free space", path.string(), errno);
    return static_cast<std::uint64_t>(figures.f_bavail) * figures.f_frsize;
  }
};

}  // namespace

Files& system_files() {
  static SystemFiles files;
  return files;
}

Status publish(Files& files, const fs::path& path, std::string_view content) {
  const fs::path temporary = path.string() + std::string(kTemporarySuffix);
  const auto write = [&]() -> Status {
    if (auto cleared = files.remove(temporary); !cleared) return cleared;  // of an attempt before
    auto file = files.create(temporary);
    if (!file) return file.error();
    if (auto done = (*file)->append(content); !done) return done;
    if (auto done = (*file)->sync(); !done) return done;
    return files.rename(temporary, path);
  };
  if (auto written = write(); !written) {
    (void)files.remove(temporary);
    return written;
  }
  auto synced = files.sync_directory(path.parent_path());
  if (!synced) (void)files.remove(path);
  return synced;
}

}  // namespace stillpoint::node
