// Base images are no part of a checkpoint: a guest's disk lies on a file that every host has. Which one it was is told
// by its SHA-256, recorded in the guest's directory when the machine is made, and in each checkpoint; over another file
// the guest's file system would be nonsense.
//
// Blocking; any thread.
#pragma once

#include <filesystem>
#include <map>
#include <mutex>
#include <string>

#include "common/result.h"

namespace stillpoint::node {

class BaseImages {
 public:
  // 32 bytes. Read once for each file, and again when it is another one or was written to.
  Result<std::string> digest(const std::filesystem::path& image);

 private:
  std::mutex mutex_;
  std::map<std::filesystem::path, std::pair<std::string, std::string>> known_;  // what the file was then, digest
};

// refused unless the image has this digest, with what to do. recorded: empty, from a version that recorded none: fits.
Status check_base_image(const std::filesystem::path& image, const std::string& digest, const std::string& recorded);

// guest: its directory, which goes with it. Empty: the guest is from a version that recorded none.
Status record_base_image(const std::filesystem::path& guest, const std::string& digest);
Result<std::string> recorded_base_image(const std::filesystem::path& guest);

}  // namespace stillpoint::node
