// Writes one image file: compresses, hashes and stores on a thread of its own, behind a bounded buffer, so that the
// machine whose memory is being read waits as little as possible.
#pragma once

#include <filesystem>

#include "node-daemon/store/image_store.h"

namespace stillpoint::node {

struct ImageWriterOptions {
  int level = 1;                         // zstd
  std::size_t buffer_bytes = 32u << 20;  // raw bytes taken and not yet compressed
  unsigned new_directories = 0;  // so many above the file may have been made for it: commit() makes them durable
  std::stop_token stop = {};     // as in ImageStore::begin()
};

// temporary: written and renamed to target by commit(), in the same directory. relative: target's name in the answer.
Result<std::unique_ptr<ImageWriter>> make_image_writer(const std::filesystem::path& temporary,
                                                       const std::filesystem::path& target, const std::string& relative,
                                                       const ImageWriterOptions& options = {});

}  // namespace stillpoint::node
