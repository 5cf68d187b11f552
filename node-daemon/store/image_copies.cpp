#include "node-daemon/store/image_copies.h"

#include "common/log.h"
#include "node-daemon/store/checkpoint_records.h"
#include "node-daemon/store/remote/remote_files.h"
#include "node-daemon/store/store_copy.h"

namespace stillpoint::node {
namespace {

class View final : public CopiesView {
 public:
  View(std::shared_ptr<BlobStore> blobs, const std::shared_ptr<MemoryPool>& memory)
      : files_(std::move(blobs), memory), memory_(memory) {}
  Status open(const std::string& owner, const SiteKeys& keys) {
    ChunkStoreOptions options;
    options.memory = memory_;
    options.read_only = true;
    // No threads that unpack ahead: each would fetch for itself what lies between its blocks, too.
    auto store = ChunkStore::open(files_, owner, keys, options);
    if (!store) return store.error();
    store_ = std::move(*store);
    return {};
  }
  ChunkStore& store() override { return *store_; }

 private:
  RemoteFiles files_;
  const std::shared_ptr<MemoryPool> memory_;
  std::unique_ptr<ChunkStore> store_;
};

}  // namespace

// A store in the place that is only deleted from.
class ImageCopies::Deleter {
 public:
  Deleter(std::shared_ptr<BlobStore> blobs, const std::shared_ptr<MemoryPool>& memory)
      : files_(std::move(blobs), memory), memory_(memory) {}
  Status open(const std::string& owner, const SiteKeys& keys) {
    ChunkStoreOptions options;
    options.index_entries = 1;
    options.compact = false;
    options.memory = memory_;
    auto store = ChunkStore::open(files_, owner, keys, options);
    if (!store) return store.error();
    store_ = std::move(*store);
    return {};
  }
  ChunkStore& store() { return *store_; }

 private:
  RemoteFiles files_;
  const std::shared_ptr<MemoryPool> memory_;
  std::unique_ptr<ChunkStore> store_;
};

std::shared_ptr<ImageCopies::Place> ImageCopies::place(const std::string& key,
                                                       const std::function<std::shared_ptr<BlobStore>()>& make) {
  const std::lock_guard lock(mutex_);
  auto& known = places_[key];
  if (!known) {
    known = std::make_shared<Place>();
    known->blobs = make();
  }
  return known;
}

Result<std::shared_ptr<CopiesView>> ImageCopies::view(const std::shared_ptr<BlobStore>& blobs,
                                                      const std::string& owner) const {
  auto made = std::make_shared<View>(blobs, memory_);
  if (auto opened = made->open(owner, keys_); !opened) return opened.error();
  return std::shared_ptr<CopiesView>(std::move(made));
}

Status ImageCopies::copy(Place& place, ChunkStore& own, const std::vector<std::string>& images,
                         const std::stop_token& stop) {
  const std::lock_guard one(place.copying);
  if (!place.view) {
    auto made = view(place.blobs, self_.value);
    if (!made) return made.error();
    place.view = std::move(*made);
  }
  for (const std::string& image : images) {
    auto copied = copy_image(own, image, place.view->store(), *place.blobs, self_.value, stop);
    if (!copied) {
      place.collected.erase(self_.value);  // packs without their image may be there
      return copied.error();
    }
    log_info("image copied", {{"image", self_.value + "/" + image},
                              {"to", place.blobs->where()},
                              {"packs", std::to_string(copied->packs)},
                              {"bytes", std::to_string(copied->bytes)}});
  }
  return {};
}

Result<std::string> ImageCopies::to_partner(ChunkStore& own, const std::vector<std::string>& images,
                                            const std::vector<wire::StorePeer>& partners, const std::stop_token& stop) {
  Error failed{ErrorKind::transient, "copy images", self_.value, ""};
  for (const wire::StorePeer& partner : partners) {
    const auto at = place(partner.host() + "@" + partner.endpoint(), [&] { return connect_(partner); });
    const Status copied = copy(*at, own, images, stop);
    if (copied) return partner.host();
    if (stop.stop_requested()) return copied.error();
    failed.kind = copied.error().kind;
    failed.cause += (failed.cause.empty() ? "" : "; ") + partner.host() + ": " + copied.error().message();
  }
  if (failed.cause.empty()) failed.cause = "no host was named that could keep them";
  return failed;
}

Status ImageCopies::to_object_store(ChunkStore& own, const std::vector<std::string>& images,
                                    const std::stop_token& stop) {
  if (!object_store_)
    return Error{ErrorKind::refused, "copy images", self_.value, "this host's daemon knows of no S3 store"};
  return copy(*object_place(), own, images, stop);
}

std::shared_ptr<ImageCopies::Place> ImageCopies::object_place() {
  return place("s3", [&] { return object_store_; });
}

// Copies that are under way end first: what they put is then removed with the rest.
Result<bool> ImageCopies::remove_lists(Place& place, const std::string& owner,
                                       const std::vector<std::string>& directories) {
  const std::lock_guard one(place.copying);
  RemoteFiles files(place.blobs, memory_);
  for (const std::string& directory : directories) {
    const std::string epoch = directory.substr(0, directory.rfind('/'));
    if (auto removed = remove_record(files, owner, epoch); !removed) return removed.error();
    const std::string path = owner + "/images/" + epoch;
    auto names = files.list(path);
    if (!names) return names.error();
    for (const std::string& name : *names) {
      place.collected.erase(owner);
      if (auto removed = files.remove(path + "/" + name); !removed) return removed.error();
    }
  }
  return !place.collected.contains(owner);
}

Status ImageCopies::remove_from_object_store(const std::string& owner, const std::vector<std::string>& directories,
                                             const std::stop_token& stop) {
  const auto at = object_place();
  const auto left = remove_lists(*at, owner, directories);
  if (!left) return left.error();
  return *left ? collect(*at, owner, stop) : Status{};
}

Status ImageCopies::collect(Place& place, const std::string& owner, const std::stop_token& stop) {
  // This host's own packs are known from the time before; of all the others every index is read, which takes long: not
  // while copies wait.
  const std::lock_guard deleting(place.deleting);
  std::shared_ptr<Deleter> deleter = owner == self_.value ? place.deleter : nullptr;
  if (!deleter) {
    deleter = std::make_shared<Deleter>(place.blobs, memory_);
    if (auto opened = deleter->open(owner, keys_); !opened) return opened;
    if (owner == self_.value) place.deleter = deleter;
  } else if (auto known = deleter->store().refresh(); !known) {
    return known;
  }
  const std::lock_guard one(place.copying);  // packs whose image is still to come would count as dead
  if (auto known = deleter->store().refresh(); !known) return known;
  const auto report = deleter->store().collect(stop);
  if (!report) return report.error();
  for (const Error& problem : report->problems) {
    log_warn("not all space freed", {{"of", owner}, {"at", place.blobs->where()}, {"cause", problem.message()}});
    // A damaged list keeps what it may need until it is removed; all else may go better another time.
    if (problem.kind != ErrorKind::damaged) return problem;
  }
  place.collected.insert(owner);
  return {};
}

Result<std::shared_ptr<CopiesView>> ImageCopies::at_peer(const wire::StorePeer& peer, const std::string& owner) {
  return view(place(peer.host() + "@" + peer.endpoint(), [&] { return connect_(peer); })->blobs, owner);
}

Result<std::shared_ptr<CopiesView>> ImageCopies::at_object_store(const std::string& owner) {
  if (!object_store_)
    return Error{ErrorKind::not_found, "open copies", owner, "this host's daemon knows of no S3 store"};
  return view(object_store_, owner);
}

}  // namespace stillpoint::node
