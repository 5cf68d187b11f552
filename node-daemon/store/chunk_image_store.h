// The images of a site: one chunk store for each host. In a directory that all hosts reach, or in one of each host's
// own, with copies at other hosts:
//
//   DIR/id                  tells whether two hosts have the same directory
//   DIR/key-ids             which keys seal what is here (site_key.h)
//   DIR/hosts/HOST/lock     held by HOST's daemon while it runs (flock)
//   DIR/hosts/HOST/…        what HOST captured (chunk_store.h)
//
// Shared: HOST alone writes to its store; any host reads any other's, and deletes lists of images in it. The space of
// deleted images is HOST's to free; where nobody holds the lock, because HOST is dead, whoever deletes everywhere frees
// it. Own: HOST's directory elsewhere is a copy that belongs to whoever has it (mirrors.h).
#pragma once

#include <filesystem>

#include "node-daemon/store/image_copies.h"
#include "node-daemon/store/image_store.h"
#include "node-daemon/store/mirrors.h"
#include "node-daemon/store/upload_caps.h"

namespace stillpoint::node {

struct ImageStoreOptions {
  bool own = false;                         // no other host reaches the directory
  ImageCopies::Connect connect;             // how other hosts are reached; null: they are not
  std::shared_ptr<BlobStore> object_store;  // the site's; may be null
  std::uint64_t reserve = 0;                // bytes that copies for other hosts leave free
  std::shared_ptr<UploadCaps> caps;         // of what storing and copying takes; may be null
};

// For images that go into QEMU, which by itself takes what two or three processors unpack.
unsigned unpack_threads();

class SiteImageStore : public ImageStore {
 public:
  virtual const std::string& id() const = 0;
  virtual const std::filesystem::path& hosts() const = 0;
  // Copies of other hosts' images; only where the directory is this host's own.
  virtual Mirrors& mirrors() = 0;
};

// keys: the site's file of keys, the same on all hosts; made if no image is there yet. Waits for a while for a host
// that is tidying this one's store up; transient if the lock is not to be had.
Result<std::unique_ptr<SiteImageStore>> open_chunk_image_store(const std::filesystem::path& directory,
                                                               const HostName& host, const std::filesystem::path& keys,
                                                               ImageStoreOptions options = {});

}  // namespace stillpoint::node
