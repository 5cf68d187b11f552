// What every BlobStore must do, as doctest checks on an empty one.
#pragma once

#include <functional>

#include "node-daemon/store/remote/blob_store.h"
#include "node-daemon/store/remote/memory_blob.h"

namespace stillpoint::node::test {

void check_blob_store(BlobStore& store);

// Chunk stores are read through RemoteFiles: an image comes back; with a byte of a file changed, at so many random
// places of each, or the file cut short there, or gone, it is refused.
void check_chunk_store_in(const std::shared_ptr<BlobStore>& blobs, int damages);

Result<std::string> read_all(BlobStore& store, const std::string& name);

// Bytes in memory, and a call before each read.
class WatchedBlob final : public ReadableFile {
 public:
  using Watch = std::function<Status(std::uint64_t offset)>;
  WatchedBlob(std::string bytes, Watch watch) : blob_(std::move(bytes)), watch_(std::move(watch)) {}
  Result<std::string> read(std::uint64_t offset, std::size_t count) const override {
    if (auto watched = watch_(offset); !watched) return watched.error();
    return blob_.read(offset, count);
  }
  std::uint64_t size() const override { return blob_.size(); }
  const std::string& bytes() const { return blob_.bytes(); }

 private:
  const MemoryBlob blob_;
  const Watch watch_;
};

}  // namespace stillpoint::node::test
