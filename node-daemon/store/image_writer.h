// Feeds an image into a chunk store on a thread of its own, behind a bounded buffer, so that the machine whose memory
// is being read waits as little as possible.
#pragma once

#include "node-daemon/store/chunk_store.h"
#include "node-daemon/store/image_store.h"

namespace stillpoint::node {

inline constexpr std::size_t kWriterBufferBytes = 32u << 20;  // taken and not yet in the store

// path: the image's name in the answer and in words. stop: as in ImageStore::begin().
std::unique_ptr<ImageWriter> make_image_writer(std::unique_ptr<ImageIngest> ingest, const std::string& path,
                                               std::stop_token stop, std::size_t buffer_bytes = kWriterBufferBytes);

}  // namespace stillpoint::node
