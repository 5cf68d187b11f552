// A place for files (BlobStore) as a file system that a chunk store also writes to. What is being written lies in a
// directory of this host; when it gets its name it is put there, whole, and then it is no longer here. All else is as
// in RemoteFiles.
//
// A process that dies leaves what it was writing in that directory, under a name that ends in ".tmp": for the owner of
// the directory to remove.
// Threads: as Files says.
#pragma once

#include <map>
#include <mutex>
#include <optional>
#include <stop_token>

#include "node-daemon/store/remote/remote_files.h"

namespace stillpoint::node {

class StagedFiles final : public Files {
 public:
  // local: borrowed. directory: in it; must be there when the first file is written.
  StagedFiles(std::shared_ptr<BlobStore> blobs, std::shared_ptr<MemoryPool> memory, Files& local,
              std::filesystem::path directory)
      : blobs_(std::move(blobs)), remote_(blobs_, std::move(memory)), local_(local), directory_(std::move(directory)) {}

  // What is put there from now on ends soon when it is requested, with an error.
  void stop_with(std::stop_token stop);

  Result<std::unique_ptr<WritableFile>> create(const std::filesystem::path& path) override;
  Result<std::shared_ptr<const ReadableFile>> open(const std::filesystem::path& path) override;
  // Only of what was created here, and not renamed yet.
  Status rename(const std::filesystem::path& from, const std::filesystem::path& to) override;
  Status remove(const std::filesystem::path& path) override;
  Result<std::vector<std::string>> list(const std::filesystem::path& path) override { return remote_.list(path); }
  Status make_directory(const std::filesystem::path&) override { return {}; }
  Status remove_directory(const std::filesystem::path&) override { return {}; }
  Status sync_directory(const std::filesystem::path&) override { return {}; }
  Result<std::uint64_t> free_bytes(const std::filesystem::path&) override { return local_.free_bytes(directory_); }

 private:
  std::optional<std::filesystem::path> staged(const std::filesystem::path& path);

  const std::shared_ptr<BlobStore> blobs_;
  RemoteFiles remote_;
  Files& local_;
  const std::filesystem::path directory_;
  std::mutex mutex_;
  std::stop_token stop_;                                           // guarded by mutex_
  std::map<std::filesystem::path, std::filesystem::path> staged_;  // what is being written, and where; likewise
};

}  // namespace stillpoint::node
