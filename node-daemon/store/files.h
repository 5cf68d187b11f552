// What the chunk store does to a file system, as an interface: tests put one behind it that fails, fills up, or dies
// after any operation and forgets what was not synced. Errors are those of errno_error.
//
// Threads: Files may be used by any number of threads; a file by one at a time, a readable one by any number.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace stillpoint::node {

class WritableFile {
 public:
  virtual ~WritableFile() = default;
  virtual Status append(std::string_view bytes) = 0;
  virtual Status sync() = 0;
};

class ReadableFile {
 public:
  virtual ~ReadableFile() = default;
  // Exactly so many bytes; a file that ends before is damaged.
  virtual Result<std::string> read(std::uint64_t offset, std::size_t count) const = 0;
  virtual std::uint64_t size() const = 0;  // when it was opened
};

class Files {
 public:
  virtual ~Files() = default;
  virtual Result<std::unique_ptr<WritableFile>> create(const std::filesystem::path& path) = 0;  // must not exist; 0600
  virtual Result<std::shared_ptr<const ReadableFile>> open(const std::filesystem::path& path) = 0;
  virtual Status rename(const std::filesystem::path& from, const std::filesystem::path& to) = 0;
  virtual Status remove(const std::filesystem::path& path) = 0;            // what is not there is removed already
  virtual Status make_directory(const std::filesystem::path& path) = 0;    // there already: fine; 0700
  virtual Status remove_directory(const std::filesystem::path& path) = 0;  // not empty, not there: fine, nothing done
  virtual Status sync_directory(const std::filesystem::path& path) = 0;
  // Names in a directory, in order; one that is not there is empty.
  virtual Result<std::vector<std::string>> list(const std::filesystem::path& path) = 0;
  virtual Result<std::uint64_t> free_bytes(const std::filesystem::path& path) = 0;
};

// The operating system's.
Files& system_files();

inline constexpr std::string_view kTemporarySuffix = ".tmp";

// Writes path + kTemporarySuffix, syncs, renames, syncs the directory. After an error there is neither file, unless the
// file system refused that too.
Status publish(Files& files, const std::filesystem::path& path, std::string_view content);

}  // namespace stillpoint::node
