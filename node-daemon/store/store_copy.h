// Copies of images in another place: a partner host, an S3 bucket, or back from there.
//
// What is copied are whole packs as they are, sealed: those with blocks of the image that the other place lacks, then the
// image's file. Packs first, so that an image that is there can be read.
//
// Threads: blocking; any.
#pragma once

#include <stop_token>
#include <string>

#include "node-daemon/store/chunk_store.h"
#include "node-daemon/store/remote/blob_store.h"

namespace stillpoint::node {

struct Copied {
  std::uint64_t packs = 0, bytes = 0;  // that went over
};

// there: what lies in `directory` of `to`. Its packs may be collected meanwhile; then the copy is made anew, three times at
// most. Errors: of the place, or damaged when the image cannot be read here.
Result<Copied> copy_image(ChunkStore& from, const std::string& image, ChunkStore& there, BlobStore& to,
                          const std::string& directory, const std::stop_token& stop);

}  // namespace stillpoint::node
