// Images in a directory that all hosts of a site reach (its shared file system):
//
//   DIR/JOB/eEPOCH/guest-G.ram.zst    QEMU's migration stream, one zstd frame with checksum
//   DIR/JOB/eEPOCH/guest-G.disk.zst   the guest's disk as one qcow2 file, one zstd frame with checksum
//   DIR/JOB/eEPOCH/.guest-G.….HOST.tmp  being written by HOST; HOST's next daemon removes what is left of them
//
// Files 0600, directories 0700. The digest is SHA-256 over the stored bytes. Published by write, fsync, rename, fsync
// of the directories.
#pragma once

#include <filesystem>

#include "node-daemon/store/image_store.h"

namespace stillpoint::node {

// Makes the directory if it is not there, and removes what an earlier daemon of this host left half written.
Result<std::unique_ptr<ImageStore>> open_directory_store(const std::filesystem::path& directory, const HostName& host);

}  // namespace stillpoint::node
