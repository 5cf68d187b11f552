#include "node-daemon/store/image_copies.h"

#include "common/log.h"
#include "node-daemon/store/checkpoint_records.h"
#include "node-daemon/store/log_collection.h"
#include "node-daemon/store/remote/remote_files.h"
#include "node-daemon/store/remote/staged_files.h"
#include "node-daemon/store/store_copy.h"
#include "node-daemon/store/store_mend.h"

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

// Requested when one of two is.
class EitherStop {
 public:
  EitherStop(const std::stop_token& one, const std::stop_token& other)
      : one_(one, [this] { source_.request_stop(); }), other_(other, [this] { source_.request_stop(); }) {}
  std::stop_token token() const { return source_.get_token(); }

 private:
  std::stop_source source_;
  const std::stop_callback<std::function<void()>> one_, other_;
};

}  // namespace

// A store in the place that is changed from here: what nobody needs goes, what is damaged is put right.
class ImageCopies::Replica {
 public:
  Replica(std::shared_ptr<BlobStore> blobs, std::shared_ptr<MemoryPool> memory, std::filesystem::path staging)
      : files_(std::move(blobs), memory, system_files(), std::move(staging)), memory_(std::move(memory)) {}
  // near: what has most of its pages, for as long as this one is there; null: nothing has, and no collection writes.
  Status open(const std::string& owner, const SiteKeys& keys, ChunkStore* near) {
    ChunkStoreOptions options;
    options.index_entries = 1;
    options.compact = near != nullptr;
    options.memory = memory_;
    if (near != nullptr) options.pages_at_hand = [near](const BlockSlots& block) { return near->pages(block); };
    auto store = ChunkStore::open(files_, owner, keys, options);
    if (!store) return store.error();
    store_ = std::move(*store);
    return {};
  }
  ChunkStore& store() { return *store_; }
  void stop_with(std::stop_token stop) { files_.stop_with(std::move(stop)); }

 private:
  StagedFiles files_;
  const std::shared_ptr<MemoryPool> memory_;
  std::unique_ptr<ChunkStore> store_;
};

// Has the place to itself. Whoever writes packs anew there gives way soon, and says so.
class ImageCopies::Turn {
 public:
  explicit Turn(Place& place) : place_(place) {
    {
      const std::lock_guard lock(place.state);
      ++place.waiting;
      place.giving_way.request_stop();
    }
    place.copying.lock();
  }
  ~Turn() {
    place_.copying.unlock();
    const std::lock_guard lock(place_.state);
    if (--place_.waiting == 0) place_.giving_way = std::stop_source();
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  Place& place_;
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
  const Turn turn(place);
  if (!place.view) {
    auto made = view(place.blobs, self_.value);
    if (!made) return made.error();
    place.view = std::move(*made);
  }
  for (const std::string& image : images) {
    auto copied = copy_image(own, image, place.view->store(), *place.blobs, self_.value, stop);
    if (!copied) {
      const std::lock_guard lock(place.state);
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
  const Turn turn(place);
  RemoteFiles files(place.blobs, memory_);
  for (const std::string& directory : directories) {
    const std::string epoch = directory.substr(0, directory.rfind('/'));
    if (auto removed = remove_record(files, owner, epoch); !removed) return removed.error();
    const std::string path = owner + "/images/" + epoch;
    auto names = files.list(path);
    if (!names) return names.error();
    for (const std::string& name : *names) {
      {
        const std::lock_guard lock(place.state);
        place.collected.erase(owner);
      }
      if (auto removed = files.remove(path + "/" + name); !removed) return removed.error();
    }
  }
  const std::lock_guard lock(place.state);
  return !place.collected.contains(owner);
}

Status ImageCopies::remove_from_object_store(ChunkStore& own, const std::string& owner,
                                             const std::vector<std::string>& directories, const std::stop_token& stop) {
  const auto at = object_place();
  const auto left = remove_lists(*at, owner, directories);
  if (!left) return left.error();
  return *left ? collect(*at, own, owner, Writing::later, stop) : Status{};
}

void ImageCopies::tidy_object_store(ChunkStore& own, const std::stop_token& stop) {
  if (!object_store_) return;
  const auto at = object_place();
  {
    const std::lock_guard lock(at->state);
    if (!at->left_off) return;
  }
  if (auto done = collect(*at, own, self_.value, Writing::now, stop); !done)
    log_warn("not all space freed",
             {{"of", self_.value}, {"at", at->blobs->where()}, {"cause", done.error().message()}});
}

// This host's own packs are known from the time before; of all the others every index is read, which takes long.
Result<std::shared_ptr<ImageCopies::Replica>> ImageCopies::replica(Place& place, const std::string& owner,
                                                                   ChunkStore* near) {
  if (owner == self_.value && place.replica) {
    if (auto known = place.replica->store().refresh(); !known) return known.error();
    return place.replica;
  }
  auto made = std::make_shared<Replica>(place.blobs, memory_, staging_);
  if (auto opened = made->open(owner, keys_, near); !opened) return opened.error();
  if (owner == self_.value) place.replica = made;
  return made;
}

Status ImageCopies::collect(Place& place, ChunkStore& own, const std::string& owner, Writing writing,
                            const std::stop_token& stop) {
  const std::lock_guard changing(place.changing);
  // Of another host's packs only those go that nobody needs: it may be back at any moment, and count on the others.
  const bool is_own = owner == self_.value;
  const auto there = replica(place, owner, is_own ? &own : nullptr);  // while copies go on
  if (!there) return there.error();
  ChunkStore& store = (*there)->store();
  const std::lock_guard one(place.copying);  // packs whose image is still to come would count as dead
  if (auto known = store.refresh(); !known) return known;
  std::stop_source giving_way;
  if (writing == Writing::later) {
    giving_way.request_stop();
  } else {
    const std::lock_guard lock(place.state);
    giving_way = place.giving_way;
  }
  const EitherStop stop_writing(stop, giving_way.get_token());
  (*there)->stop_with(stop_writing.token());
  // Of a deletion all lists are read, whoever waits: what nobody needs goes now.
  const auto report =
      store.collect_giving_way(writing == Writing::now ? stop_writing.token() : stop, stop_writing.token());
  if (!report && writing == Writing::now && stop_writing.token().stop_requested()) return {};  // the next call goes on
  if (!report) return report.error();
  log_collection(report, owner, place.blobs->where());
  for (const Error& problem : report->problems)
    // A damaged list keeps what it may need until it is removed; all else may go better another time.
    if (problem.kind != ErrorKind::damaged) return problem;
  const std::lock_guard lock(place.state);
  if (is_own) place.left_off = report->left_off.has_value();
  if (!report->left_off) place.collected.insert(owner);
  return {};
}

Status ImageCopies::mend_in_object_store(ChunkStore& own, const std::string& owner, const std::string& image,
                                         const ImageCheck& found, ChunkStore& from, const std::stop_token& stop) {
  const auto at = object_place();
  const std::lock_guard changing(at->changing);
  const auto there = replica(*at, owner, owner == self_.value ? &own : &from);
  if (!there) return there.error();
  {
    const std::lock_guard lock(at->state);
    at->collected.erase(owner);  // what comes with the blocks may be of use to nobody
  }
  (*there)->stop_with(stop);
  ChunkStore& store = (*there)->store();
  return found.bad.empty() ? mend_list(store, from, image, stop) : mend_blocks(store, from, found.bad, stop);
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
