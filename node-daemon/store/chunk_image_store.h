// The images of a site: one chunk store for each host, in a directory that all hosts reach.
//
//   DIR/key-ids             which keys seal what is here (site_key.h)
//   DIR/hosts/HOST/lock     held by HOST's daemon while it runs (flock)
//   DIR/hosts/HOST/…        what HOST captured (chunk_store.h)
//
// HOST alone writes to its store; any host reads any other's, and deletes lists of images in it. The space of deleted
// images is HOST's to free; where nobody holds the lock, because HOST is dead, whoever deletes everywhere frees it.
#pragma once

#include <filesystem>

#include "node-daemon/store/image_store.h"

namespace stillpoint::node {

// keys: the site's file of keys, the same on all hosts; made if no image is there yet. Waits for a while for a host
// that is tidying this one's store up; transient if the lock is not to be had.
Result<std::unique_ptr<ImageStore>> open_chunk_image_store(const std::filesystem::path& directory, const HostName& host,
                                                           const std::filesystem::path& keys);

}  // namespace stillpoint::node
