// A place for files (BlobStore) as the chunk store sees a file system, to read a store that lies there, and to delete
// from it. Nothing is written: files are put there as a whole, by BlobStore::put. Paths are the place's names.
//
// Readers ask for a chunk store's blocks one after the other, some 80 KB each. A read that goes on where an earlier one
// ended therefore takes more than was asked, twice as much each time; what others asked for is kept a while. What is
// kept is part of a memory pool, however many files are open.
// Threads: as Files says.
#pragma once

#include <memory>

#include "node-daemon/store/memory_pool.h"
#include "node-daemon/store/remote/blob_store.h"

namespace stillpoint::node {

struct ReadAheadSettings {
  std::size_t first = 128u << 10;  // bytes that a read takes at least
  std::size_t most = 4u << 20;     // and that it grows to, where there is memory
};

class RemoteFiles final : public Files {
 public:
  // memory: null: a pool of its own.
  explicit RemoteFiles(std::shared_ptr<BlobStore> blobs, std::shared_ptr<MemoryPool> memory = nullptr,
                       const ReadAheadSettings& settings = {});
  ~RemoteFiles() override;

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
  class ReadAhead;
  class File;
  const std::shared_ptr<BlobStore> blobs_;
  const std::shared_ptr<ReadAhead> read_ahead_;  // shared with the files, which may outlive this
};

}  // namespace stillpoint::node
