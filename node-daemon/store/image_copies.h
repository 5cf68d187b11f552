// Copies of images in other places than this host's directory: made there, found there again.
//
// Threads: blocking; any number side by side. To one place one image at a time is copied: images that are captured
// together share packs, which go over once.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <stop_token>

#include "common/ids.h"
#include "gang.pb.h"
#include "node-daemon/store/chunk_store.h"
#include "node-daemon/store/remote/blob_store.h"

namespace stillpoint::node {

// What is known of a place's copies of one host's store.
class CopiesView {
 public:
  virtual ~CopiesView() = default;
  virtual ChunkStore& store() = 0;
};

class ImageCopies {
 public:
  using Connect = std::function<std::shared_ptr<BlobStore>(const wire::StorePeer&)>;
  // self: whose images are copied. connect: never null. object_store: the site's; may be null. memory: of what is read.
  ImageCopies(HostName self, SiteKeys keys, Connect connect, std::shared_ptr<BlobStore> object_store,
              std::shared_ptr<MemoryPool> memory)
      : self_(std::move(self)),
        memory_(std::move(memory)),
        keys_(std::move(keys)),
        connect_(std::move(connect)),
        object_store_(std::move(object_store)) {}

  bool has_object_store() const { return object_store_ != nullptr; }
  const std::shared_ptr<BlobStore>& object_store() const { return object_store_; }

  // Copies all images, by their names in `own`, to the first of the partners that takes them; its name.
  Result<std::string> to_partner(ChunkStore& own, const std::vector<std::string>& images,
                                 const std::vector<wire::StorePeer>& partners, const std::stop_token& stop);
  Status to_object_store(ChunkStore& own, const std::vector<std::string>& images, const std::stop_token& stop);

  // Images of owner below these directories ("j7/e12/"), their records, and what only they needed; also what an earlier
  // call that failed, an upload that was given up, or an earlier process has left of others. owner: this host, or one
  // that puts nothing there any more.
  Status remove_from_object_store(const std::string& owner, const std::vector<std::string>& directories,
                                  const std::stop_token& stop);

  // What lies at a peer of owner's store, to be read. The list of packs is read now.
  Result<std::shared_ptr<CopiesView>> at_peer(const wire::StorePeer& peer, const std::string& owner);
  Result<std::shared_ptr<CopiesView>> at_object_store(const std::string& owner);

 private:
  class Deleter;
  struct Place {
    std::mutex deleting;               // taken before `copying`
    std::shared_ptr<Deleter> deleter;  // of self's copies; made with the first deletion. Guarded by deleting
    std::mutex copying;
    std::shared_ptr<BlobStore> blobs;
    std::shared_ptr<CopiesView> view;  // of self's copies; made with the first copy. Guarded by copying
    // Owners without a page that no image lists, as far as this process knows. Guarded by copying
    std::set<std::string> collected;
  };
  std::shared_ptr<Place> place(const std::string& key, const std::function<std::shared_ptr<BlobStore>()>& make);
  std::shared_ptr<Place> object_place();
  // Whether there may be something to collect.
  Result<bool> remove_lists(Place& place, const std::string& owner, const std::vector<std::string>& directories);
  Status collect(Place& place, const std::string& owner, const std::stop_token& stop);
  Status copy(Place& place, ChunkStore& own, const std::vector<std::string>& images, const std::stop_token& stop);
  Result<std::shared_ptr<CopiesView>> view(const std::shared_ptr<BlobStore>& blobs, const std::string& owner) const;

  const HostName self_;
  const std::shared_ptr<MemoryPool> memory_;
  const SiteKeys keys_;
  const Connect connect_;
  const std::shared_ptr<BlobStore> object_store_;
  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Place>> places_;
};

}  // namespace stillpoint::node
