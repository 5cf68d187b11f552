#include "node-daemon/store/chunk_image_store.h"

#include <algorithm>
#include <mutex>
#include <set>

#include "common/file.h"
#include "common/log.h"
#include "node-daemon/store/chunk_store.h"
#include "node-daemon/store/digest.h"
#include "node-daemon/store/image_writer.h"
#include "node-daemon/store/store_lock.h"

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;

constexpr std::chrono::seconds kLockPatience{30};

std::string epoch_name(const JobId& job, Epoch epoch) { return job.value + "/e" + std::to_string(epoch.value) + "/"; }
std::string part_name(const GuestIndex& guest, ImageName::Part part) {
  return "guest-" + std::to_string(guest.value) + (part == ImageName::Part::memory ? ".ram" : ".disk");
}

void collect(ChunkStore& store, const std::string& host) {
  auto report = store.collect();
  if (!report)
    return log_warn("space of deleted images not freed", {{"of", host}, {"cause", report.error().message()}});
  for (const Error& problem : report->problems)
    log_warn("pack not collected", {{"of", host}, {"cause", problem.message()}});
  if (report->packs_removed + report->packs_compacted > 0)
    log_info("space of deleted images freed", {{"of", host},
                                               {"packs_removed", std::to_string(report->packs_removed)},
                                               {"packs_compacted", std::to_string(report->packs_compacted)},
                                               {"bytes_before", std::to_string(report->bytes_before)},
                                               {"bytes_after", std::to_string(report->bytes_after)}});
}

class Reader final : public ImageReader {
 public:
  Reader(std::unique_ptr<ChunkStore> other, std::unique_ptr<ImageSource> source)
      : other_(std::move(other)), source_(std::move(source)) {}
  Result<std::string> read() override { return source_->read(); }

 private:
  const std::unique_ptr<ChunkStore> other_;  // another host's, opened for this; or none. Outlives the source
  const std::unique_ptr<ImageSource> source_;
};

// The images that were here when they were last looked at, and those that came since. Whether one of them has gone
// tells whether another host deleted something. Too many names cost a look more, too few leave space without use.
class KnownImages {
 public:
  void add(const std::string& name) {
    const std::lock_guard lock(mutex_);
    names_.insert(name);
  }
  // Before a collection: what goes from now on counts as gone.
  void look_anew(ChunkStore& store) {
    {
      const std::lock_guard lock(mutex_);
      names_.clear();
      looked_ = true;
    }
    if (auto names = store.images())
      for (const std::string& name : *names) add(name);
  }
  bool all_there(ChunkStore& store) {
    auto names = store.images();
    if (!names) return false;
    const std::set<std::string> there(names->begin(), names->end());
    const std::lock_guard lock(mutex_);
    return looked_ && std::ranges::includes(there, names_);
  }

 private:
  std::mutex mutex_;
  std::set<std::string> names_;
  bool looked_ = false;
};

class NotingIngest final : public ImageIngest {
 public:
  NotingIngest(std::unique_ptr<ImageIngest> ingest, KnownImages& known, std::string name)
      : ingest_(std::move(ingest)), known_(known), name_(std::move(name)) {}
  Status write(std::string_view raw) override { return ingest_->write(raw); }
  Result<ImageFigures> commit() override {
    auto figures = ingest_->commit();
    if (figures) known_.add(name_);
    return figures;
  }

 private:
  const std::unique_ptr<ImageIngest> ingest_;
  KnownImages& known_;
  const std::string name_;
};

class ChunkImageStore final : public ImageStore {
 public:
  ChunkImageStore(const fs::path& directory, HostName host, SiteKeys keys)
      : hosts_(directory / "hosts"), host_(std::move(host)), keys_(std::move(keys)) {}

  Status load() {
    for (const fs::path& path : {hosts_, hosts_ / host_.value})
      if (auto made = system_files().make_directory(path); !made) return made;
    if (auto synced = sync_directory(hosts_.parent_path()); !synced) return synced;
    auto lock = lock_store(hosts_ / host_.value, kLockPatience);
    if (!lock) return lock.error();
    lock_ = std::move(*lock);
    auto own = ChunkStore::open(system_files(), hosts_ / host_.value, keys_);
    if (!own) return own.error();
    own_ = std::move(*own);
    return {};
  }

  Result<std::unique_ptr<ImageWriter>> begin(const ImageName& name, std::stop_token stop) override {
    const std::string image = epoch_name(name.job, name.epoch) + part_name(name.guest, name.part);
    const bool memory = name.part == ImageName::Part::memory;
    auto ingest = own_->begin(image, memory ? ImageKind::memory : ImageKind::flat);
    if (!ingest) return ingest.error();
    return make_image_writer(std::make_unique<NotingIngest>(std::move(*ingest), known_, image),
                             host_.value + "/" + image, std::move(stop));
  }
  Result<std::unique_ptr<ImageReader>> open(const wire::ImageFile& file) override;
  Status remove(const JobId& job, const std::vector<Epoch>& epochs, Reach reach) override;
  // Another host may have deleted lists here while this daemon was away, or was not asked.
  void tidy() override {
    if (!known_.all_there(*own_)) collect_own();
  }
  Result<std::uint64_t> free_bytes() override { return system_files().free_bytes(hosts_); }

 private:
  Status check_digest(const wire::ImageFile& file, const fs::path& path) const;
  void collect_own() {
    known_.look_anew(*own_);
    collect(*own_, host_.value);
  }
  void collect_of_dead(const std::string& host);

  const fs::path hosts_;
  const HostName host_;
  const SiteKeys keys_;
  Fd lock_;
  std::unique_ptr<ChunkStore> own_;
  KnownImages known_;
};

// The catalog's digest is that of the image's list, which vouches for every page by its seals.
Status ChunkImageStore::check_digest(const wire::ImageFile& file, const fs::path& path) const {
  auto list = system_files().open(path);
  if (!list && list.error().kind == ErrorKind::not_found) {
    // Where the shared file system is not mounted, not even this host's own store is there: nothing is known then.
    std::error_code failed;
    if (!fs::exists(hosts_ / host_.value, failed))
      return Error{ErrorKind::transient, "open image", path.string(),
                   "the image directory is not there, or empty; is it mounted here?"};
    return Error{ErrorKind::damaged, "open image", path.string(), "it is gone"};
  }
  if (!list) return list.error();
  auto bytes = (*list)->read(0, (*list)->size());
  if (!bytes) return bytes.error();
  Sha256 digest;
  digest.add(*bytes);
  if (digest.finish() == file.sha256()) return {};
  return Error{ErrorKind::damaged, "verify image", path.string(), "its SHA-256 is not the recorded one"};
}

Result<std::unique_ptr<ImageReader>> ChunkImageStore::open(const wire::ImageFile& file) {
  const std::size_t slash = file.path().find('/');
  const std::string host = file.path().substr(0, slash);
  const std::string name = slash == std::string::npos ? "" : file.path().substr(slash + 1);
  if (!is_host_directory(host) || !is_image_name(name))
    return Error{ErrorKind::refused, "open image", file.path(), "not the path of an image of this version"};
  if (auto same = check_digest(file, hosts_ / host / "images" / name); !same) return same.error();
  std::unique_ptr<ChunkStore> other;
  if (host != host_.value) {
    ChunkStoreOptions options;
    options.read_only = true;
    auto opened = ChunkStore::open(system_files(), hosts_ / host, keys_, options);
    if (!opened) return opened.error();
    other = std::move(*opened);
  }
  auto source = (other ? *other : *own_).read(name);
  if (!source) return source.error();
  return std::make_unique<Reader>(std::move(other), std::move(*source));
}

Status ChunkImageStore::remove(const JobId& job, const std::vector<Epoch>& epochs, Reach reach) {
  std::vector<std::string> hosts{host_.value};
  if (reach == Reach::all_hosts) {
    auto all = system_files().list(hosts_);
    if (!all) return all.error();
    hosts = std::move(*all);
  }
  for (const Epoch epoch : epochs) {
    const std::string name = epoch_name(job, epoch);
    if (!is_image_name(name + "x")) return Error{ErrorKind::refused, "delete images", name, "not a job id"};
    for (const std::string& host : hosts)
      if (auto removed = remove_images(system_files(), hosts_ / host / "images", name); !removed) return removed;
  }
  for (const std::string& host : hosts)
    if (host == host_.value) collect_own();
    else collect_of_dead(host);
  return {};
}

void ChunkImageStore::collect_of_dead(const std::string& host) {
  const fs::path directory = hosts_ / host;
  auto packs = system_files().list(directory / "packs");
  if (!packs || packs->empty()) return;
  auto lock = lock_store(directory, std::chrono::milliseconds(0));
  if (!lock) return;  // its daemon runs, and frees the space itself
  auto store = ChunkStore::open(system_files(), directory, keys_);
  if (store) collect(**store, host);
  else log_warn("space of deleted images not freed", {{"of", host}, {"cause", store.error().message()}});
}

}  // namespace

Result<std::unique_ptr<ImageStore>> open_chunk_image_store(const fs::path& directory, const HostName& host,
                                                           const fs::path& keys) {
  if (!is_host_directory(host.value)) return Error{ErrorKind::refused, "open store", host.value, "not a host's name"};
  std::error_code failed;
  fs::create_directories(directory.parent_path(), failed);
  if (failed) return Error{ErrorKind::permanent, "make directory", directory.parent_path().string(), failed.message()};
  if (auto made = system_files().make_directory(directory); !made) return made.error();
  auto site_keys = load_keys_of_site(keys, directory / "key-ids");
  if (!site_keys) return site_keys.error();
  auto store = std::make_unique<ChunkImageStore>(directory, host, std::move(*site_keys));
  if (auto loaded = store->load(); !loaded) return loaded.error();
  return std::unique_ptr<ImageStore>(std::move(store));
}

}  // namespace stillpoint::node
