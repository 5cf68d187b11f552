// A file system in memory for tests. It counts every operation that changes something, and can fail one, fill up, or
// die: from then on nothing works, and what was not synced is forgotten when it is opened again. Not thread-safe.
#pragma once

#include <map>
#include <set>

#include "node-daemon/store/files.h"

namespace stillpoint::node {

class MemoryFiles final : public Files {
 public:
  struct Content {
    std::string bytes;
    std::size_t synced = 0;
  };
  using Names = std::map<std::filesystem::path, std::shared_ptr<Content>>;

  // The n-th operation from now on (0: the next) fails with this errno and is not done.
  void fail_at(std::uint64_t n, int errno_value) { fail_at_ = operations_ + n, errno_ = errno_value; }
  // The machine dies after the n-th operation from now on is done: every later one fails.
  void die_after(std::uint64_t n) { die_after_ = operations_ + n; }
  // Files together may hold so many bytes.
  void limit(std::uint64_t bytes) { limit_ = bytes; }
  // The machine comes up again. lose: of what was not synced, names and bytes, nothing is left; otherwise all of it is.
  void reboot(bool lose);

  std::uint64_t operations() const { return operations_; }
  bool dead() const { return operations_ > die_after_; }
  Names& names() { return names_; }
  std::uint64_t bytes() const;

  Result<std::unique_ptr<WritableFile>> create(const std::filesystem::path& path) override;
  Result<std::shared_ptr<const ReadableFile>> open(const std::filesystem::path& path) override;
  Status rename(const std::filesystem::path& from, const std::filesystem::path& to) override;
  Status remove(const std::filesystem::path& path) override;
  Status make_directory(const std::filesystem::path& path) override;
  Status remove_directory(const std::filesystem::path& path) override;
  Status sync_directory(const std::filesystem::path& path) override;
  Result<std::vector<std::string>> list(const std::filesystem::path& path) override;
  Result<std::uint64_t> free_bytes(const std::filesystem::path& path) override;

 private:
  class Writable;
  class Readable;
  static constexpr std::uint64_t kNever = ~std::uint64_t{0};
  Status operation(const char* step, const std::filesystem::path& path);

  Names names_, durable_names_;
  std::set<std::filesystem::path> directories_, durable_directories_;
  std::uint64_t operations_ = 0, fail_at_ = kNever, die_after_ = kNever, limit_ = kNever;
  int errno_ = 0;
};

}  // namespace stillpoint::node
