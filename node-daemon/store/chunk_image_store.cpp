#include "node-daemon/store/chunk_image_store.h"

#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>

#include "common/log.h"
#include "node-daemon/store/chunk_store.h"
#include "node-daemon/store/digest.h"
#include "node-daemon/store/directory_store.h"

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kBufferBytes = 32u << 20;  // taken and not yet in the store
constexpr std::string_view kChunks = "chunks";

std::string epoch_name(const JobId& job, Epoch epoch) { return job.value + "/e" + std::to_string(epoch.value) + "/"; }
std::string part_name(const GuestIndex& guest, ImageName::Part part) {
  return "guest-" + std::to_string(guest.value) + (part == ImageName::Part::memory ? ".ram" : ".disk");
}

// Feeds the ingest on a thread of its own, behind a bounded buffer, so that the machine whose memory is being read
// waits as little as possible.
class Writer final : public ImageWriter {
 public:
  Writer(std::unique_ptr<ImageIngest> ingest, std::string path, std::stop_token stop)
      : path_(std::move(path)), stop_(std::move(stop)), ingest_(std::move(ingest)) {
    worker_ = std::jthread([this](const std::stop_token& ended) { run(ended); });
  }
  ~Writer() override { worker_.request_stop(); }

  Status write(std::string_view raw) override {
    std::unique_lock lock(mutex_);
    if (auto ready = wait(lock, [this] { return queued_ < kBufferBytes; }); !ready) return ready;
    blocks_.emplace_back(raw);
    queued_ += raw.size();
    changed_.notify_all();
    return {};
  }

  Result<wire::ImageFile> commit() override {
    {
      std::unique_lock lock(mutex_);
      if (auto ready = wait(lock, [this] { return blocks_.empty() && !busy_; }); !ready) return ready.error();
    }
    // The worker has nothing to do and gets nothing more: from here on this thread works alone.
    auto figures = ingest_->commit();
    if (!figures) return figures.error();
    log_info("image stored", {{"image", path_},
                              {"raw_bytes", std::to_string(figures->raw_bytes)},
                              {"pages", std::to_string(figures->pages)},
                              {"new_pages", std::to_string(figures->new_pages)},
                              {"stored_bytes", std::to_string(figures->stored_bytes)}});
    wire::ImageFile file;
    file.set_path(path_);
    file.set_raw_bytes(figures->raw_bytes);
    file.set_stored_bytes(figures->stored_bytes);
    file.set_sha256(figures->sha256);
    return file;
  }

 private:
  template <class Ready>
  Status wait(std::unique_lock<std::mutex>& lock, Ready ready) {
    changed_.wait(lock, stop_, [&] { return failed_ || ready(); });
    if (failed_) return *failed_;
    if (stop_.stop_requested()) return Error{ErrorKind::refused, "store image", path_, "it was given up"};
    return {};
  }

  void run(const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    for (;;) {
      if (!changed_.wait(lock, stop, [&] { return !blocks_.empty(); }) || stop.stop_requested()) return;
      const std::string block = std::move(blocks_.front());
      blocks_.pop_front();
      busy_ = true;
      lock.unlock();
      const Status done = ingest_->write(block);
      lock.lock();
      busy_ = false;
      queued_ -= block.size();
      if (!done) failed_ = done.error();
      changed_.notify_all();
      if (failed_) return;
    }
  }

  const std::string path_;
  const std::stop_token stop_;
  // The worker's alone while blocks_ is not empty or busy_ is set; commit()'s afterwards.
  const std::unique_ptr<ImageIngest> ingest_;
  std::mutex mutex_;
  std::condition_variable_any changed_;  // with stop tokens: a plain one would miss a stop between test and wait
  std::deque<std::string> blocks_;
  std::size_t queued_ = 0;
  bool busy_ = false;
  std::optional<Error> failed_;
  std::jthread worker_;  // last: ends before what it uses
};

class Reader final : public ImageReader {
 public:
  Reader(std::unique_ptr<ChunkStore> other, std::unique_ptr<ImageSource> source)
      : other_(std::move(other)), source_(std::move(source)) {}
  Result<std::string> read() override { return source_->read(); }

 private:
  const std::unique_ptr<ChunkStore> other_;  // another host's, opened for this; or none. Outlives the source
  const std::unique_ptr<ImageSource> source_;
};

class ChunkImageStore final : public ImageStore {
 public:
  ChunkImageStore(fs::path directory, HostName host, SiteKeys keys, std::unique_ptr<ImageStore> before)
      : directory_(std::move(directory)), host_(std::move(host)), keys_(std::move(keys)), before_(std::move(before)) {}

  Status load() {
    if (auto made = system_files().make_directory(directory_ / kChunks); !made) return made;
    auto own = ChunkStore::open(system_files(), directory_ / kChunks / host_.value, keys_);
    if (!own) return own.error();
    own_ = std::move(*own);
    collect();
    return {};
  }

  Result<std::unique_ptr<ImageWriter>> begin(const ImageName& name, std::stop_token stop) override {
    const std::string image = epoch_name(name.job, name.epoch) + part_name(name.guest, name.part);
    const bool memory = name.part == ImageName::Part::memory;
    auto ingest = own_->begin(image, memory ? ImageKind::memory : ImageKind::flat);
    if (!ingest) return ingest.error();
    return std::make_unique<Writer>(std::move(*ingest), std::string(kChunks) + "/" + host_.value + "/" + image,
                                    std::move(stop));
  }
  Result<std::unique_ptr<ImageReader>> open(const wire::ImageFile& file) override;
  Status remove(const JobId& job, Epoch epoch, const std::optional<std::vector<GuestIndex>>& guests) override;
  Result<std::uint64_t> free_bytes() override { return system_files().free_bytes(directory_); }

 private:
  Status check_digest(const wire::ImageFile& file, const fs::path& path) const;
  void collect() {
    auto report = own_->collect();
    if (!report) log_warn("space of deleted images not freed", {{"cause", report.error().message()}});
    else
      for (const Error& problem : report->problems) log_warn("pack not collected", {{"cause", problem.message()}});
  }

  const fs::path directory_;
  const HostName host_;
  const SiteKeys keys_;
  const std::unique_ptr<ImageStore> before_;  // of images without chunks
  std::unique_ptr<ChunkStore> own_;
};

// The catalog's digest is that of the image's list, which vouches for every page by its seals.
Status ChunkImageStore::check_digest(const wire::ImageFile& file, const fs::path& path) const {
  auto list = system_files().open(path);
  if (!list && list.error().kind == ErrorKind::not_found) {
    // Where the shared file system is not mounted, not even this host's own store is there: nothing is known then.
    std::error_code failed;
    if (!fs::exists(directory_ / kChunks / host_.value, failed))
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
  const std::string prefix = std::string(kChunks) + "/";
  if (!file.path().starts_with(prefix)) return before_->open(file);
  const std::size_t slash = file.path().find('/', prefix.size());
  if (slash == std::string::npos) return Error{ErrorKind::refused, "open image", file.path(), "not an image's path"};
  const std::string host = file.path().substr(prefix.size(), slash - prefix.size());
  const std::string name = file.path().substr(slash + 1);
  if (!is_host_directory(host) || !is_image_name(name))
    return Error{ErrorKind::refused, "open image", file.path(), "not a path inside the image directory"};
  if (auto same = check_digest(file, directory_ / kChunks / host / "images" / name); !same) return same.error();
  std::unique_ptr<ChunkStore> other;
  if (host != host_.value) {
    ChunkStoreOptions options;
    options.read_only = true;
    auto opened = ChunkStore::open(system_files(), directory_ / kChunks / host, keys_, options);
    if (!opened) return opened.error();
    other = std::move(*opened);
  }
  auto source = (other ? *other : *own_).read(name);
  if (!source) return source.error();
  return std::make_unique<Reader>(std::move(other), std::move(*source));
}

Status ChunkImageStore::remove(const JobId& job, Epoch epoch, const std::optional<std::vector<GuestIndex>>& guests) {
  if (auto removed = before_->remove(job, epoch, guests); !removed) return removed;
  auto hosts = system_files().list(directory_ / kChunks);
  if (!hosts) return hosts.error();
  std::vector<std::string> names;
  if (!guests) names.push_back(epoch_name(job, epoch));
  else
    for (const GuestIndex& guest : *guests)
      for (const auto part : {ImageName::Part::memory, ImageName::Part::disk})
        names.push_back(epoch_name(job, epoch) + part_name(guest, part));
  for (const std::string& host : *hosts)
    for (const std::string& name : names)
      if (auto removed = remove_images(system_files(), directory_ / kChunks / host / "images", name); !removed)
        return removed;
  collect();
  return {};
}

}  // namespace

Result<std::unique_ptr<ImageStore>> open_chunk_image_store(const fs::path& directory, const HostName& host,
                                                           const fs::path& keys) {
  if (!is_host_directory(host.value)) return Error{ErrorKind::refused, "open store", host.value, "not a host's name"};
  auto before = open_directory_store(directory, host);
  if (!before) return before.error();
  auto site_keys = load_site_keys(keys);
  if (!site_keys) return site_keys.error();
  auto store = std::make_unique<ChunkImageStore>(directory, host, std::move(*site_keys), std::move(*before));
  if (auto loaded = store->load(); !loaded) return loaded.error();
  return std::unique_ptr<ImageStore>(std::move(store));
}

}  // namespace stillpoint::node
