#include "node-daemon/store/remote/staged_files.h"

#include "node-daemon/store/seal.h"

namespace stillpoint::node {

namespace fs = std::filesystem;

void StagedFiles::stop_with(std::stop_token stop) {
  const std::lock_guard lock(mutex_);
  stop_ = std::move(stop);
}

std::optional<fs::path> StagedFiles::staged(const fs::path& path) {
  const std::lock_guard lock(mutex_);
  const auto found = staged_.find(path);
  return found == staged_.end() ? std::nullopt : std::optional(found->second);
}

Result<std::unique_ptr<WritableFile>> StagedFiles::create(const fs::path& path) {
  auto id = random_id();
  if (!id) return id.error();
  const fs::path here = directory_ / (hex(as_text(*id)) + std::string(kTemporarySuffix));
  auto file = local_.create(here);
  if (!file) return file;
  const std::lock_guard lock(mutex_);
  if (staged_.try_emplace(path, here).second) return file;
  (void)local_.remove(here);
  return Error{ErrorKind::refused, "create", path.string(), "it is being written already"};
}

Result<std::shared_ptr<const ReadableFile>> StagedFiles::open(const fs::path& path) {
  const auto here = staged(path);
  return here ? local_.open(*here) : remote_.open(path);
}

Status StagedFiles::rename(const fs::path& from, const fs::path& to) {
  const auto here = staged(from);
  if (!here) return Error{ErrorKind::refused, "rename", from.string(), "files elsewhere get their names once"};
  auto file = local_.open(*here);
  if (!file) return file.error();
  std::stop_token stop;
  {
    const std::lock_guard lock(mutex_);
    stop = stop_;
  }
  if (auto put = blobs_->put(to.string(), **file, stop); !put) return put;
  (void)remove(from);  // else whoever owns the directory does it
  return {};
}

Status StagedFiles::remove(const fs::path& path) {
  const auto here = staged(path);
  if (!here && path.string().ends_with(kTemporarySuffix)) return {};  // nothing is written there
  if (!here) return remote_.remove(path);
  if (auto removed = local_.remove(*here); !removed) return removed;
  const std::lock_guard lock(mutex_);
  staged_.erase(path);
  return {};
}

}  // namespace stillpoint::node
