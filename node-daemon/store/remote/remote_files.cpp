#include "node-daemon/store/remote/remote_files.h"

#include <algorithm>
#include <mutex>

namespace stillpoint::node {
namespace {

// The bytes read last and those after them.
class AheadFile final : public ReadableFile {
 public:
  explicit AheadFile(std::shared_ptr<const ReadableFile> file) : file_(std::move(file)) {}

  Result<std::string> read(std::uint64_t offset, std::size_t count) const override {
    const std::uint64_t end = file_->size();
    if (offset > end || count > end - offset)
      return Error{ErrorKind::damaged, "read", "file elsewhere", "it ends before what is looked for"};
    const std::lock_guard lock(mutex_);
    const bool known = offset >= at_ && offset + count <= at_ + ahead_.size();
    if (!known) {
      // Backwards or far away: nobody knows what comes next. Then, and at first, no more than is asked.
      const bool in_order = offset >= at_ && offset <= at_ + ahead_.size() && !ahead_.empty();
      const std::size_t wanted = in_order ? std::max(count, RemoteFiles::kReadAhead) : count;
      auto bytes = file_->read(offset, static_cast<std::size_t>(std::min<std::uint64_t>(wanted, end - offset)));
      if (!bytes) return bytes.error();
      at_ = offset;
      ahead_ = std::move(*bytes);
    }
    return ahead_.substr(static_cast<std::size_t>(offset - at_), count);
  }
  std::uint64_t size() const override { return file_->size(); }

 private:
  const std::shared_ptr<const ReadableFile> file_;
  mutable std::mutex mutex_;
  mutable std::uint64_t at_ = 0;  // of ahead_
  mutable std::string ahead_;
};

Error refused(const std::string& step, const std::filesystem::path& path) {
  return {ErrorKind::refused, step, path.string(), "files elsewhere are only read and deleted"};
}

}  // namespace

Result<std::shared_ptr<const ReadableFile>> RemoteFiles::open(const std::filesystem::path& path) {
  auto file = blobs_->open(path.string());
  if (!file) return file.error();
  return std::make_shared<const AheadFile>(std::move(*file));
}

Result<std::vector<std::string>> RemoteFiles::list(const std::filesystem::path& path) {
  return blobs_->list(path.string());
}

Status RemoteFiles::remove(const std::filesystem::path& path) { return blobs_->remove(path.string()); }

Result<std::unique_ptr<WritableFile>> RemoteFiles::create(const std::filesystem::path& path) {
  return refused("create", path);
}
Status RemoteFiles::rename(const std::filesystem::path& from, const std::filesystem::path&) {
  return refused("rename", from);
}
Result<std::uint64_t> RemoteFiles::free_bytes(const std::filesystem::path& path) {
  return refused("ask for the room of", path);
}

}  // namespace stillpoint::node
