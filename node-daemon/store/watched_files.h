// A file system that lets a test look at every step that is done on another one, before and after it; the test may stop
// the world there: kill the process, fill the disk.
//
// Threads: the watchers are called on whatever thread does the step.
#pragma once

#include <functional>

#include "node-daemon/store/files.h"

namespace stillpoint::node::test {

struct FileStep {
  enum class Kind {
    create,
    append,
    sync,
    rename,
    remove,
    make_directory,
    remove_directory,
    sync_directory,
    open,
    list
  } kind;
  std::filesystem::path path;    // of rename: the new one
  std::string_view bytes;        // of append
  WritableFile* file = nullptr;  // of append and sync: the one below
  bool changes() const { return kind != Kind::open && kind != Kind::list; }
  std::string text() const;  // "append packs/ID.pack.tmp", ids and numbers left out: the same in every run
};

class WatchedFiles final : public Files {
 public:
  using Watcher = std::function<void(const FileStep&)>;
  explicit WatchedFiles(Files& below, Watcher before = {}, Watcher after = {})
      : below_(below), before_(std::move(before)), after_(std::move(after)) {}

  Result<std::unique_ptr<WritableFile>> create(const std::filesystem::path& path) override;
  Result<std::shared_ptr<const ReadableFile>> open(const std::filesystem::path& path) override;
  Status rename(const std::filesystem::path& from, const std::filesystem::path& to) override;
  Status remove(const std::filesystem::path& path) override;
  Status make_directory(const std::filesystem::path& path) override;
  Status remove_directory(const std::filesystem::path& path) override;
  Status sync_directory(const std::filesystem::path& path) override;
  Result<std::vector<std::string>> list(const std::filesystem::path& path) override;
  Result<std::uint64_t> free_bytes(const std::filesystem::path& path) override { return below_.free_bytes(path); }

 private:
  class Writable;
  template <class Action>
  auto watched(const FileStep& step, Action action) {
    if (before_) before_(step);
    auto done = action();
    if (after_) after_(step);
    return done;
  }
  Files& below_;
  const Watcher before_, after_;
};

}  // namespace stillpoint::node::test
