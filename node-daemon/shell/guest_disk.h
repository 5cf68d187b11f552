// The files of a guest's writable disk, by mkfs.ext4(8) and qemu-img(1): made, stored, brought back.
//
//   directory/base.raw | base.qcow2     a fresh ext4, or the disk of a checkpoint as one file
//   directory/layer-0.qcow2             what the machine writes first; captures put further layers on top
//
// Blocking; from workers, one call per guest at a time.
#pragma once

#include <filesystem>
#include <stop_token>

#include "common/result.h"
#include "node-daemon/store/image_store.h"

namespace stillpoint::node {

// Both give the active layer. What an earlier attempt left in the directory is removed first.
Result<std::filesystem::path> make_fresh_disk(const std::filesystem::path& directory, std::uint64_t bytes);
Result<std::filesystem::path> make_restored_disk(const std::filesystem::path& directory, ImageReader& image);

// The chain that ends in `frozen` (no machine writes to it) as one qcow2 file into the writer, committed. Ends soon,
// with an error of kind refused, when stop is requested.
Result<wire::ImageFile> store_disk(const std::filesystem::path& frozen, ImageWriter& writer,
                                   const std::stop_token& stop);

}  // namespace stillpoint::node
