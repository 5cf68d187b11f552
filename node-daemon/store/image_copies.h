// Copies of images in other places than this host's directory: made there, found there again.
//
// Threads: blocking; any number side by side. To one place one image at a time is copied: images that are captured
// together share packs, which go over once.
#pragma once

#include <filesystem>
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
  // staging: a directory of this host where files that end in ".tmp" may be until the next process begins.
  ImageCopies(HostName self, SiteKeys keys, Connect connect, std::shared_ptr<BlobStore> object_store,
              std::shared_ptr<MemoryPool> memory, std::filesystem::path staging)
      : self_(std::move(self)),
        memory_(std::move(memory)),
        staging_(std::move(staging)),
        keys_(std::move(keys)),
        connect_(std::move(connect)),
        object_store_(std::move(object_store)) {}

  bool has_object_store() const { return object_store_ != nullptr; }
  const std::shared_ptr<BlobStore>& object_store() const { return object_store_; }

  // Copies all images, by their names in `own`, to the first of the partners that takes them; its name.
  Result<std::string> to_partner(ChunkStore& own, const std::vector<std::string>& images,
                                 const std::vector<wire::StorePeer>& partners, const std::stop_token& stop);
  Status to_object_store(ChunkStore& own, const std::vector<std::string>& images, const std::stop_token& stop);

  // Images of owner below these directories ("j7/e12/"), their records, and packs that only they needed; also what an
  // earlier call that failed, an upload that was given up, or an earlier process has left of others. owner: this host,
  // or one that puts nothing there any more. own: this host's store.
  Status remove_from_object_store(ChunkStore& own, const std::string& owner,
                                  const std::vector<std::string>& directories, const std::stop_token& stop);
  // Writes packs anew there of which a deletion has left little in use, with what `own` has of them. Ends where a copy
  // or a deletion waits for it; the next call goes on. Nothing when there are none.
  void tidy_object_store(ChunkStore& own, const std::stop_token& stop);
  // Puts an image of owner's in the object store right from a store that has it whole: what lacks is the list of it, or
  // these blocks, as a reader there has found. owner: as above. Errors as in store_mend.h.
  Status mend_in_object_store(ChunkStore& own, const std::string& owner, const std::string& image,
                              const ImageCheck& found, ChunkStore& from, const std::stop_token& stop);

  // What lies at a peer of owner's store, to be read. The list of packs is read now.
  Result<std::shared_ptr<CopiesView>> at_peer(const wire::StorePeer& peer, const std::string& owner);
  Result<std::shared_ptr<CopiesView>> at_object_store(const std::string& owner);

 private:
  class Replica;
  class Turn;
  struct Place {
    std::mutex changing;               // taken before `copying`
    std::shared_ptr<Replica> replica;  // of self's copies; made when they are first changed. Guarded by changing
    std::mutex copying;
    std::shared_ptr<BlobStore> blobs;
    std::shared_ptr<CopiesView> view;  // of self's copies; made with the first copy. Guarded by copying
    std::mutex state;                  // taken last; guards the rest
    // Owners without a page that no image lists, as far as this process knows.
    std::set<std::string> collected;
    bool left_off = true;         // packs of self's may still be to be written anew: also those of an earlier process
    unsigned waiting = 0;         // for `copying`, or have it
    std::stop_source giving_way;  // requested while some wait
  };
  std::shared_ptr<Place> place(const std::string& key, const std::function<std::shared_ptr<BlobStore>()>& make);
  std::shared_ptr<Place> object_place();
  // Whether there may be something to collect.
  Result<bool> remove_lists(Place& place, const std::string& owner, const std::vector<std::string>& directories);
  // Refreshed. Under `changing`.
  Result<std::shared_ptr<Replica>> replica(Place& place, const std::string& owner, ChunkStore* near);
  enum class Writing { now, later };  // packs anew
  Status collect(Place& place, ChunkStore& own, const std::string& owner, Writing writing, const std::stop_token& stop);
  Status copy(Place& place, ChunkStore& own, const std::vector<std::string>& images, const std::stop_token& stop);
  Result<std::shared_ptr<CopiesView>> view(const std::shared_ptr<BlobStore>& blobs, const std::string& owner) const;

  const HostName self_;
  const std::shared_ptr<MemoryPool> memory_;
  const std::filesystem::path staging_;
  const SiteKeys keys_;
  const Connect connect_;
  const std::shared_ptr<BlobStore> object_store_;
  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Place>> places_;
};

}  // namespace stillpoint::node
