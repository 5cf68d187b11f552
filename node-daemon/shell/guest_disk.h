// The files of a guest's writable disk, by mkfs.ext4(8) and qemu-img(1): made, stored, brought back.
//
//   directory/base.raw | base.qcow2     a fresh ext4, or the disk of a checkpoint as one file
//   directory/layer-0.qcow2             what the machine writes first; captures put further layers on top
//
// Blocking; from workers, one call per guest at a time.
#pragma once

#include <filesystem>
#include <mutex>
#include <stop_token>
#include <vector>

#include "common/result.h"
#include "node-daemon/store/image_store.h"
#include "node-daemon/store/upload_caps.h"

namespace stillpoint::node {

// Both give the active layer. What an earlier attempt left in the directory is removed first.
Result<std::filesystem::path> make_fresh_disk(const std::filesystem::path& directory, std::uint64_t bytes);
Result<std::filesystem::path> make_restored_disk(const std::filesystem::path& directory, ImageReader& image);

// The room on the host's own disk that is spoken for by store_disk() calls under way. Any thread.
class DiskRoom {
 public:
  // What running machines may write meanwhile: a machine that finds no room stands still.
  static constexpr std::uint64_t kReserve = 128u << 20;

  class Claim {
   public:
    Claim(DiskRoom& room, std::uint64_t bytes) : room_(&room), bytes_(bytes) {}
    Claim(Claim&& other) noexcept : room_(std::exchange(other.room_, nullptr)), bytes_(other.bytes_) {}
    ~Claim();

   private:
    DiskRoom* room_;
    const std::uint64_t bytes_;
  };
  // An error of kind storage_full where so much more would leave less than the reserve.
  Result<Claim> claim(const std::filesystem::path& directory, std::uint64_t bytes);

 private:
  std::mutex mutex_;
  std::uint64_t claimed_ = 0;
};

// The chain whose layers are given, topmost first (no machine writes to them), as one qcow2 file into the writer,
// committed. That file lies beside the layers until then. Ends soon, with an error of kind refused, when stop is
// requested.
// What the making of it takes is within the caps, if there are any.
Result<wire::ImageFile> store_disk(const std::vector<std::filesystem::path>& chain, DiskRoom& room, ImageWriter& writer,
                                   UploadCaps* caps, const std::stop_token& stop);

}  // namespace stillpoint::node
