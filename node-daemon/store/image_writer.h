// Feeds an image into a chunk store on a thread of its own, behind a bounded buffer, so that the machine whose memory
// is being read waits as little as possible.
#pragma once

#include "node-daemon/store/chunk_store.h"
#include "node-daemon/store/image_store.h"
#include "node-daemon/store/memory_pool.h"
#include "node-daemon/store/upload_caps.h"

namespace stillpoint::node {

// path: the image's name in the answer and in words. stop: as in ImageStore::begin(). caps: of what the store does
// behind the buffer; borrowed, may be null. memory: what the buffer is part of.
std::unique_ptr<ImageWriter> make_image_writer(std::unique_ptr<ImageIngest> ingest, const std::string& path,
                                               std::stop_token stop, UploadCaps* caps,
                                               std::shared_ptr<MemoryPool> memory);

}  // namespace stillpoint::node
