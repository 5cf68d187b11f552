#include "node-daemon/store/memory_files.h"

#include <cerrno>

namespace stillpoint::node {

namespace fs = std::filesystem;

Status MemoryFiles::operation(const char* step, const fs::path& path) {
  const std::uint64_t now = operations_++;
  if (now > die_after_) return Error{ErrorKind::permanent, step, path.string(), "the machine is dead"};
  if (now != fail_at_) return {};
  fail_at_ = kNever;
  return errno_error(step, path.string(), errno_);
}

class MemoryFiles::Writable final : public WritableFile {
 public:
  Writable(MemoryFiles& files, fs::path path, std::shared_ptr<Content> content)
      : files_(files), path_(std::move(path)), content_(std::move(content)) {}
  Status append(std::string_view bytes) override {
    if (auto done = files_.operation("write", path_); !done) {
      // A failed write may have written some.
      if (!files_.dead()) content_->bytes += bytes.substr(0, bytes.size() / 2);
      return done;
    }
    if (files_.bytes() + bytes.size() > files_.limit_) return errno_error("write", path_.string(), ENOSPC);
    content_->bytes += bytes;
    return {};
  }
  Status sync() override {
    if (auto done = files_.operation("fsync", path_); !done) return done;
    content_->synced = content_->bytes.size();
    return {};
  }

 private:
  MemoryFiles& files_;
  const fs::path path_;
  const std::shared_ptr<Content> content_;
};

class MemoryFiles::Readable final : public ReadableFile {
 public:
  explicit Readable(std::shared_ptr<const Content> content) : content_(std::move(content)) {}
  Result<std::string> read(std::uint64_t offset, std::size_t count) const override {
    if (offset > content_->bytes.size() || count > content_->bytes.size() - offset)
      return Error{ErrorKind::damaged, "read", "", "it ends too early"};
    return content_->bytes.substr(offset, count);
  }
  std::uint64_t size() const override { return content_->bytes.size(); }

 private:
  const std::shared_ptr<const Content> content_;
};

std::uint64_t MemoryFiles::bytes() const {
  std::uint64_t sum = 0;
  for (const auto& [path, content] : names_) sum += content->bytes.size();
  return sum;
}

void MemoryFiles::reboot(bool lose) {
  if (lose) {
    names_ = durable_names_;
    directories_ = durable_directories_;
    for (auto& [path, content] : names_) content->bytes.resize(content->synced);
  }
  fail_at_ = die_after_ = limit_ = kNever;
}

Result<std::unique_ptr<WritableFile>> MemoryFiles::create(const fs::path& path) {
  if (auto done = operation("create", path); !done) return done.error();
  if (names_.contains(path)) return errno_error("create", path.string(), EEXIST);
  if (!directories_.contains(path.parent_path())) return errno_error("create", path.string(), ENOENT);
  auto content = std::make_shared<Content>();
  names_[path] = content;
  return std::make_unique<Writable>(*this, path, std::move(content));
}

Result<std::shared_ptr<const ReadableFile>> MemoryFiles::open(const fs::path& path) {
  const auto found = names_.find(path);
  if (found == names_.end()) return errno_error("open", path.string(), ENOENT);
  return std::make_shared<Readable>(found->second);
}

Status MemoryFiles::rename(const fs::path& from, const fs::path& to) {
  if (auto done = operation("rename", to); !done) return done;
  auto node = names_.extract(from);
  if (node.empty()) return errno_error("rename", from.string(), ENOENT);
  names_[to] = node.mapped();
  return {};
}

Status MemoryFiles::remove(const fs::path& path) {
  if (auto done = operation("delete", path); !done) return done;
  names_.erase(path);
  return {};
}

Status MemoryFiles::make_directory(const fs::path& path) {
  if (auto done = operation("make directory", path); !done) return done;
  directories_.insert(path);
  return {};
}

Status MemoryFiles::remove_directory(const fs::path& path) {
  if (auto done = operation("delete directory", path); !done) return done;
  for (const auto& [name, content] : names_)
    if (name.parent_path() == path) return {};
  for (const fs::path& directory : directories_)
    if (directory.parent_path() == path) return {};
  directories_.erase(path);
  return {};
}

// What names the directory has is on disk from now on.
Status MemoryFiles::sync_directory(const fs::path& path) {
  if (auto done = operation("fsync", path); !done) return done;
  std::erase_if(durable_names_, [&](const auto& entry) { return entry.first.parent_path() == path; });
  for (const auto& entry : names_)
    if (entry.first.parent_path() == path) durable_names_.insert(entry);
  std::erase_if(durable_directories_, [&](const fs::path& name) { return name.parent_path() == path; });
  for (const fs::path& directory : directories_)
    if (directory.parent_path() == path) durable_directories_.insert(directory);
  return {};
}

Result<std::vector<std::string>> MemoryFiles::list(const fs::path& path) {
  std::vector<std::string> found;
  for (const auto& [name, content] : names_)
    if (name.parent_path() == path) found.push_back(name.filename().string());
  for (const fs::path& directory : directories_)
    if (directory.parent_path() == path) found.push_back(directory.filename().string());
  return found;
}

Result<std::uint64_t> MemoryFiles::free_bytes(const fs::path&) { return limit_ - bytes(); }

}  // namespace stillpoint::node
