// Images in chunk stores, one for each host, in a directory that all hosts of a site reach:
//
//   DIR/chunks/HOST/…    what HOST captured; HOST alone writes packs there
//   DIR/JOB/eEPOCH/…     images that the directory store wrote before: still readable, and removed with their epoch
//
// Any host reads any other's images and deletes their lists; the space is HOST's to free.
#pragma once

#include <filesystem>

#include "node-daemon/store/image_store.h"

namespace stillpoint::node {

// keys: the site's file of keys, the same on all hosts; made if there is none.
Result<std::unique_ptr<ImageStore>> open_chunk_image_store(const std::filesystem::path& directory, const HostName& host,
                                                           const std::filesystem::path& keys);

}  // namespace stillpoint::node
