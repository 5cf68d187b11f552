// A place for files (BlobStore) as the chunk store sees a file system, to read a store that lies there, and to delete
// from it. Nothing is written: files are put there as a whole, by BlobStore::put. Paths are the place's names.
// Threads: as Files says.
#pragma once

#include <memory>

#include "node-daemon/store/remote/blob_store.h"

namespace stillpoint::node {

class RemoteFiles final : public Files {
 public:
  // A reader in order asks the other side once for so many bytes.
  static constexpr std::size_t kReadAhead = 4u << 20;

  explicit RemoteFiles(std::shared_ptr<BlobStore> blobs) : blobs_(std::move(blobs)) {}

  Result<std::shared_ptr<const ReadableFile>> open(const std::filesystem::path& path) override;
  Result<std::vector<std::string>> list(const std::filesystem::path& path) override;
  Status remove(const std::filesystem::path& path) override;
  // Directories come and go with the files in them.
  Status make_directory(const std::filesystem::path&) override { return {}; }
  Status remove_directory(const std::filesystem::path&) override { return {}; }
  Status sync_directory(const std::filesystem::path&) override { return {}; }
  // Refused.
  Result<std::unique_ptr<WritableFile>> create(const std::filesystem::path& path) override;
  Status rename(const std::filesystem::path& from, const std::filesystem::path& to) override;
  Result<std::uint64_t> free_bytes(const std::filesystem::path& path) override;

 private:
  const std::shared_ptr<BlobStore> blobs_;
};

}  // namespace stillpoint::node
