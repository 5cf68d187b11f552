#include "node-daemon/store/chunk_image_store.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include <set>
#include <thread>

#include "common/file.h"
#include "node-daemon/store/checkpoint_records.h"
#include "node-daemon/store/chunk_store.h"
#include "node-daemon/store/directory_id.h"
#include "node-daemon/store/image_reader.h"
#include "node-daemon/store/image_verify.h"
#include "node-daemon/store/image_writer.h"
#include "node-daemon/store/known_images.h"
#include "node-daemon/store/log_collection.h"
#include "node-daemon/store/paced_files.h"
#include "node-daemon/store/site_records.h"
#include "node-daemon/store/store_lock.h"

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;

constexpr std::chrono::seconds kLockPatience{30};
constexpr const char* kObjectStoreWords = "the S3 store";  // as a place

std::string epoch_name(const JobId& job, Epoch epoch) { return job.value + "/e" + std::to_string(epoch.value) + "/"; }
// "e12/guest-0.ram" → 12
std::optional<std::uint64_t> epoch_in(std::string_view name) {
  std::uint64_t number = 0;
  const char* const end = name.data() + name.find('/');
  if (!name.starts_with('e')) return std::nullopt;
  const auto parsed = std::from_chars(name.data() + 1, end, number);
  if (parsed.ec != std::errc{} || parsed.ptr != end) return std::nullopt;
  return number;
}
std::string part_name(const GuestIndex& guest, ImageName::Part part) {
  return "guest-" + std::to_string(guest.value) + (part == ImageName::Part::memory ? ".ram" : ".disk");
}

struct ImagePath {
  std::string owner, image;
};
Result<ImagePath> split_path(const wire::ImageFile& file) {
  const std::size_t slash = file.path().find('/');
  ImagePath path{file.path().substr(0, slash), slash == std::string::npos ? "" : file.path().substr(slash + 1)};
  if (!is_host_directory(path.owner) || !is_image_name(path.image))
    return Error{ErrorKind::refused, "open image", file.path(), "not the path of an image of this version"};
  return path;
}

class ChunkImageStore final : public SiteImageStore {
 public:
  ChunkImageStore(const fs::path& directory, std::string id, const HostName& host, const SiteKeys& keys,
                  ImageStoreOptions options)
      : id_(std::move(id)),
        hosts_(directory / "hosts"),
        host_(host),
        keys_(keys),
        is_own_(options.own),
        caps_(std::move(options.caps)),
        paced_(!is_own_ && caps_ && caps_->limits_bytes() ? make_paced_files(system_files(), *caps_) : nullptr),
        mirrors_(system_files(), hosts_, host, keys, options.reserve, memory_, unpack_threads_),
        copies_(host, keys, std::move(options.connect), std::move(options.object_store), memory_,
                hosts_ / host.value / "packs"),
        records_(hosts_, host_, is_own_, keys_, memory_) {}

  Status load() {
    for (const fs::path& path : {hosts_, hosts_ / host_.value})
      if (auto made = system_files().make_directory(path); !made) return made;
    if (auto synced = sync_directory(hosts_.parent_path()); !synced) return synced;
    auto lock = lock_store(hosts_ / host_.value, kLockPatience);
    if (!lock) return lock.error();
    lock_ = std::move(*lock);
    ChunkStoreOptions options;
    options.memory = memory_;
    options.unpack_threads = unpack_threads_;
    auto own = ChunkStore::open(paced_ ? *paced_ : system_files(), hosts_ / host_.value, keys_, options);
    if (!own) return own.error();
    own_ = std::move(*own);
    return {};
  }

  Result<std::unique_ptr<ImageWriter>> begin(const ImageName& name, std::stop_token stop) override {
    const std::string image = epoch_name(name.job, name.epoch) + part_name(name.guest, name.part);
    const bool memory = name.part == ImageName::Part::memory;
    auto ingest = own_->begin(image, memory ? ImageKind::memory : ImageKind::flat);
    if (!ingest) return ingest.error();
    return make_image_writer(known_.noting(std::move(*ingest), image), host_.value + "/" + image, std::move(stop),
                             caps_.get(), memory_);
  }
  Status replicate(wire::GuestImage& image, const wire::Durability& asked, std::stop_token stop) override;
  Result<std::unique_ptr<ImageReader>> open(const wire::ImageFile& file,
                                            const std::vector<wire::StorePeer>& peers) override;
  Result<ImageCheck> verify(const wire::ImageFile& file, const std::vector<wire::StorePeer>& peers,
                            const std::stop_token& stop) override;
  Result<ImageCheck> verify_in_object_store(const wire::ImageFile& file, const std::vector<wire::StorePeer>& peers,
                                            const std::stop_token& stop) override;
  Status remove(const JobId& job, const std::vector<Epoch>& epochs, Reach reach,
                const std::vector<HostName>& lost_hosts) override;
  // Another host may have deleted lists here while this daemon was away, or was not asked.
  void tidy() override {
    if (!known_.all_there(*own_)) collect_own();
  }
  void tidy_object_store() override { copies_.tidy_object_store(*own_, stop_freeing_.get_token()); }
  void stop_freeing() override { stop_freeing_.request_stop(); }
  Result<std::uint64_t> free_bytes() override { return system_files().free_bytes(hosts_); }
  Result<std::uint64_t> total_bytes() override {
    std::error_code failed;
    const auto space = fs::space(hosts_, failed);
    if (failed) return Error{ErrorKind::transient, "look at file system", hosts_.string(), failed.message()};
    return std::uint64_t{space.capacity};
  }
  Use use() override {
    const StoreFigures figures = own_->figures();
    return {figures.packs, figures.pack_bytes, figures.pages};
  }
  Result<wire::HeldImages> held() override;
  Status keep_record(const JobId& job, Epoch epoch, const wire::KeepRecord& record, std::stop_token stop) override {
    return records_.keep(job, epoch, record, copies_.object_store(), std::move(stop));
  }
  Result<wire::Records> records(const wire::ReadRecords& ask) override {
    return records_.page(ask, copies_.object_store());
  }

  const std::string& id() const override { return id_; }
  const fs::path& hosts() const override { return hosts_; }
  Mirrors& mirrors() override { return mirrors_; }

 private:
  Result<ImagePlace> here(const std::string& owner);
  Result<std::vector<std::string>> names_of_copies();  // that are kept here for other hosts
  std::vector<ImageOpener> places_of(const wire::ImageFile& file, const std::string& owner,
                                     const std::vector<wire::StorePeer>& peers);
  // Whether whoever has the image in a directory is this host or among the peers.
  bool keepers_are_named(const wire::ImageFile& file, const std::string& owner,
                         const std::vector<wire::StorePeer>& peers) const;
  void collect_own() {
    known_.look_anew(*own_);
    log_collection(own_->collect(stop_freeing_.get_token()), host_.value, "here");
  }
  void collect_of_other(const std::string& host);
  Result<ImagePlace> abandoned(const std::string& host);

  const std::string id_;
  const fs::path hosts_;
  const HostName host_;
  const SiteKeys keys_;
  const bool is_own_;
  const std::shared_ptr<UploadCaps> caps_;
  const std::shared_ptr<MemoryPool> memory_ = std::make_shared<MemoryPool>(kImageMemoryBytes);  // for everything
  const std::shared_ptr<UnpackThreads> unpack_threads_ = std::make_shared<UnpackThreads>(unpack_threads());  // too
  const std::unique_ptr<Files> paced_;  // of this host's own store, if what goes there counts as sent
  Mirrors mirrors_;
  ImageCopies copies_;
  const SiteRecords records_;
  Fd lock_;
  std::unique_ptr<ChunkStore> own_;
  KnownImages known_;
  std::stop_source stop_freeing_;
};

// What is in this host's directory.
Result<ImagePlace> ChunkImageStore::here(const std::string& owner) {
  // Where the file system is not mounted, not even this host's own store is there: nothing is known then.
  std::error_code failed;
  if (!fs::exists(hosts_ / host_.value, failed))
    return Error{ErrorKind::transient, "open image", hosts_.string(),
                 "the image directory is not there, or empty; is it mounted here?"};
  if (owner == host_.value) return ImagePlace{nullptr, own_.get()};
  if (is_own_) {
    auto mirror = mirrors_.find({owner});
    if (!mirror) return mirror.error();
    return ImagePlace{*mirror, mirror->get()};
  }
  ChunkStoreOptions options;
  options.read_only = true;
  options.unpack_threads = unpack_threads_;
  options.memory = memory_;
  auto opened = ChunkStore::open(system_files(), hosts_ / owner, keys_, options);
  if (!opened) return opened.error();
  std::shared_ptr<ChunkStore> store = std::move(*opened);
  return ImagePlace{store, store.get()};
}

std::vector<ImageOpener> ChunkImageStore::places_of(const wire::ImageFile& file, const std::string& owner,
                                                    const std::vector<wire::StorePeer>& peers) {
  const auto viewed = [](Result<std::shared_ptr<CopiesView>> view) -> Result<ImagePlace> {
    if (!view) return view.error();
    return ImagePlace{*view, &(*view)->store()};
  };
  const std::set<std::string> copies(file.copies().begin(), file.copies().end());
  std::vector<ImageOpener> places{{"this host", [this, owner] { return here(owner); }}};
  for (const wire::StorePeer& peer : peers)
    if (peer.host() != host_.value && (peer.host() == owner || copies.contains(peer.host())))
      places.push_back({"host " + peer.host(), [=, this] { return viewed(copies_.at_peer(peer, owner)); }});
  if (copies.contains("s3") && copies_.has_object_store())
    places.push_back({kObjectStoreWords, [=, this] { return viewed(copies_.at_object_store(owner)); }});
  return places;
}

Result<std::unique_ptr<ImageReader>> ChunkImageStore::open(const wire::ImageFile& file,
                                                           const std::vector<wire::StorePeer>& peers) {
  const auto name = split_path(file);
  if (!name) return name.error();
  return open_image_reader(file, name->image, places_of(file, name->owner, peers));
}

Status ChunkImageStore::replicate(wire::GuestImage& image, const wire::Durability& asked, std::stop_token stop) {
  const UploadCaps::Work work(caps_.get());
  std::vector<std::string> names, places;
  for (const auto* file : {&image.memory(), &image.disk()}) {
    const auto name = split_path(*file);
    if (!name) return name.error();
    names.push_back(name->image);
  }
  if (!is_own_) places.push_back("dir:" + id_);
  if (asked.level() == wire::Durability::HOST_LOSS && is_own_) {
    auto partner = copies_.to_partner(*own_, names, {asked.partners().begin(), asked.partners().end()}, stop);
    if (!partner) return partner.error();
    places.push_back(std::move(*partner));
  }
  if (asked.level() == wire::Durability::SITE) {
    if (auto copied = copies_.to_object_store(*own_, names, stop); !copied) return copied;
    places.emplace_back("s3");
  }
  for (auto* file : {image.mutable_memory(), image.mutable_disk()})
    for (const std::string& place : places)
      if (std::ranges::find(file->copies(), place) == file->copies().end()) file->add_copies(place);
  return {};
}

Result<ImageCheck> ChunkImageStore::verify(const wire::ImageFile& file, const std::vector<wire::StorePeer>& peers,
                                           const std::stop_token& stop) {
  const auto name = split_path(file);
  if (!name) return name.error();
  const std::string& image = name->image;
  const Error not_here{ErrorKind::transient, "verify image", file.path(), "no copy of it is kept on this host"};
  const bool is_keeper = std::ranges::find(file.copies(), host_.value) != file.copies().end();
  auto place = here(name->owner);
  if (!place && place.error().kind == ErrorKind::not_found && is_keeper)
    if (auto mirror = mirrors_.open({name->owner}); mirror) place = ImagePlace{*mirror, mirror->get()};
  if (!place) return place.error().kind == ErrorKind::not_found ? not_here : place.error();
  if (is_own_ && name->owner != host_.value && !is_keeper && !place->store->image_file(image)) return not_here;
  bool list_is_bad = false;
  auto found = check_image(*place->store, file, image, list_is_bad, stop);
  if (!found || found->problems.empty()) return found;
  bool may_write = is_own_ || name->owner == host_.value;
  if (!may_write)
    if (auto theirs = abandoned(name->owner)) {
      place = std::move(*theirs);
      may_write = true;
    }

  auto places = places_of(file, name->owner, peers);
  const bool all_named = places.size() > static_cast<std::size_t>(file.copies_size());  // this host is one of them
  const bool in_object_store = std::ranges::find(file.copies(), "s3") != file.copies().end();
  const bool all_can_be_asked = is_own_ ? all_named : !in_object_store || (may_write && copies_.has_object_store());
  if (!may_write) places.clear();
  else places.erase(places.begin());  // this host
  return mend_from_places(places, file, *found, all_can_be_asked, "",
                          [&](ChunkStore& other) { return mend_image(other, *place->store, file, image, stop); });
}

bool ChunkImageStore::keepers_are_named(const wire::ImageFile& file, const std::string& owner,
                                        const std::vector<wire::StorePeer>& peers) const {
  const std::string directory = "dir:" + id_;
  const auto is_named = [&](const std::string& place) {
    return place == "s3" || place == host_.value || place == directory ||
           std::ranges::any_of(peers, [&](const wire::StorePeer& peer) { return peer.host() == place; });
  };
  const bool in_directory = std::ranges::find(file.copies(), directory) != file.copies().end();
  return (in_directory || is_named(owner)) && std::ranges::all_of(file.copies(), is_named);
}

Result<ImageCheck> ChunkImageStore::verify_in_object_store(const wire::ImageFile& file,
                                                           const std::vector<wire::StorePeer>& peers,
                                                           const std::stop_token& stop) {
  const auto name = split_path(file);
  if (!name) return name.error();
  if (!copies_.has_object_store())
    return Error{ErrorKind::transient, "verify image", file.path(), "this host's daemon knows of no S3 store"};
  if (std::ranges::find(file.copies(), "s3") == file.copies().end()) return ImageCheck{};
  ObjectStoreMending mending{*own_, {}, false};
  // Its owner's to put right: it may be back, and at it, whenever it is believed to be lost.
  if (name->owner == host_.value) {
    mending.places = places_of(file, name->owner, peers);
    std::erase_if(mending.places, [](const ImageOpener& place) { return place.words == kObjectStoreWords; });
    mending.all_named = keepers_are_named(file, name->owner, peers);
  }
  return node::verify_in_object_store(copies_, file, name->owner, name->image, mending, stop);
}

Status ChunkImageStore::remove(const JobId& job, const std::vector<Epoch>& epochs, Reach reach,
                               const std::vector<HostName>& lost_hosts) {
  std::vector<std::string> hosts{host_.value};
  if (reach == Reach::all_hosts) {
    auto all = system_files().list(hosts_);
    if (!all) return all.error();
    hosts = std::move(*all);
  }
  for (const Epoch epoch : epochs) {
    const std::string name = epoch_name(job, epoch);
    if (!is_image_name(name + "x")) return Error{ErrorKind::refused, "delete images", name, "not a job id"};
    // The record first: where it is, its images count as committed.
    for (const std::string& host : hosts) {
      if (auto removed = remove_record(system_files(), hosts_ / host, record_name(job, epoch)); !removed)
        return removed;
      if (auto removed = remove_images(system_files(), hosts_ / host / "images", name); !removed) return removed;
    }
  }
  for (const std::string& host : hosts)
    if (host == host_.value) collect_own();
    else collect_of_other(host);
  if (!copies_.has_object_store()) return {};
  std::vector<std::string> directories;
  for (const Epoch epoch : epochs) directories.push_back(epoch_name(job, epoch));
  Status done = copies_.remove_from_object_store(*own_, host_.value, directories, stop_freeing_.get_token());
  for (const HostName& lost : lost_hosts)
    if (done) done = copies_.remove_from_object_store(*own_, lost.value, directories, stop_freeing_.get_token());
  // Whatever it is, a wrong key or a wrong clock: it is tried again until somebody has put it right.
  if (!done && done.error().kind == ErrorKind::refused)
    return Error{ErrorKind::transient, done.error().step, done.error().object, done.error().cause};
  return done;
}

Result<std::vector<std::string>> ChunkImageStore::names_of_copies() {
  auto hosts = system_files().list(hosts_);
  if (!hosts) return hosts;
  std::vector<std::string> names;
  for (const std::string& host : *hosts) {
    if (host == host_.value || !is_host_directory(host)) continue;
    auto mirror = mirrors_.find({host});
    if (!mirror && mirror.error().kind == ErrorKind::not_found) continue;
    if (!mirror) return mirror.error();
    auto theirs = (*mirror)->images();
    if (!theirs) return theirs;
    names.insert(names.end(), theirs->begin(), theirs->end());
  }
  return names;
}

Result<wire::HeldImages> ChunkImageStore::held() {
  auto names = own_->images();
  if (!names) return names.error();
  if (is_own_) {
    auto copies = names_of_copies();
    if (!copies) return copies.error();
    names->insert(names->end(), copies->begin(), copies->end());
  }
  std::map<std::string, std::set<std::uint64_t>> epochs;
  for (const std::string& name : *names) {
    const std::size_t slash = name.find('/');
    if (const auto epoch = epoch_in(std::string_view(name).substr(slash + 1)))
      epochs[name.substr(0, slash)].insert(*epoch);
  }
  const fs::path own = hosts_ / host_.value;
  auto records = record_names(system_files(), own);
  if (!records) return records.error();
  std::map<std::string, std::vector<std::pair<std::uint64_t, std::uint32_t>>> revisions;
  for (const std::string& name : *records) {
    const std::size_t slash = name.find('/');
    const auto epoch = epoch_in(name.substr(slash + 1) + "/");
    if (!epoch) continue;
    epochs[name.substr(0, slash)].insert(*epoch);
    // One that is damaged is written anew by whoever does not find it named.
    if (const auto record = read_record(system_files(), own, name, keys_))
      revisions[name.substr(0, slash)].emplace_back(*epoch, record->revision);
  }
  wire::HeldImages held;
  for (const auto& [job, theirs] : epochs) {
    auto& one = *held.add_jobs();
    one.set_job(job);
    one.mutable_epochs()->Assign(theirs.begin(), theirs.end());
    for (const auto& [epoch, revision] : revisions[job]) {
      auto& record = *one.add_records();
      record.set_epoch(epoch);
      record.set_revision(revision);
    }
  }
  return held;
}

void ChunkImageStore::collect_of_other(const std::string& host) {
  const fs::path directory = hosts_ / host;
  auto packs = system_files().list(directory / "packs");
  if (!packs || packs->empty()) return;
  if (is_own_) return log_collection(mirrors_.collect({host}, stop_freeing_.get_token()), host, "here");
  const auto place = abandoned(host);
  if (!place && place.error().step == "lock store") return;  // its daemon runs, and frees the space itself
  log_collection(place ? place->store->collect(stop_freeing_.get_token()) : place.error(), host, "here");
}

// In a directory that all share, the store of a host whose daemon does not run; refused while it does.
Result<ImagePlace> ChunkImageStore::abandoned(const std::string& host) {
  struct Held {
    Fd lock;
    std::unique_ptr<ChunkStore> store;
  };
  auto lock = lock_store(hosts_ / host, std::chrono::milliseconds(0));
  if (!lock) return lock.error();
  ChunkStoreOptions options;
  options.index_entries = 1;  // nothing is taken up here
  options.memory = memory_;
  auto store = ChunkStore::open(system_files(), hosts_ / host, keys_, options);
  if (!store) return store.error();
  auto held = std::make_shared<Held>(std::move(*lock), std::move(*store));
  ChunkStore* const opened = held->store.get();
  return ImagePlace{std::move(held), opened};
}

}  // namespace

unsigned unpack_threads() { return std::clamp(std::thread::hardware_concurrency(), 1u, 3u); }

Result<std::unique_ptr<SiteImageStore>> open_chunk_image_store(const fs::path& directory, const HostName& host,
                                                               const fs::path& keys, ImageStoreOptions options) {
  if (!is_host_directory(host.value)) return Error{ErrorKind::refused, "open store", host.value, "not a host's name"};
  std::error_code failed;
  fs::create_directories(directory.parent_path(), failed);
  if (failed) return Error{ErrorKind::permanent, "make directory", directory.parent_path().string(), failed.message()};
  if (auto made = system_files().make_directory(directory); !made) return made.error();
  auto site_keys = load_keys_of_site(keys, directory / "key-ids");
  if (!site_keys) return site_keys.error();
  auto id = directory_id(directory, !options.own);
  if (!id) return id.error();
  auto store = std::make_unique<ChunkImageStore>(directory, std::move(*id), host, *site_keys, std::move(options));
  if (auto loaded = store->load(); !loaded) return loaded.error();
  return std::unique_ptr<SiteImageStore>(std::move(store));
}

}  // namespace stillpoint::node
