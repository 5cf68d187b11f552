#include "node-daemon/store/mirrors.h"

#include <algorithm>

#include "common/random_id.h"
#include "node-daemon/store/store_lock.h"

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPacks = "packs/", kImages = "images/", kPackSuffix = ".pack";
constexpr std::size_t kIdDigits = 32;

bool is_pack_name(std::string_view name) {
  if (!name.ends_with(kPackSuffix)) return false;
  name.remove_suffix(kPackSuffix.size());
  return name.size() == kIdDigits &&
         std::ranges::all_of(name, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

}  // namespace

class Mirrors::IncomingPack final : public Incoming {
 public:
  IncomingPack(Files& files, std::shared_ptr<ChunkStore> store, std::string name, fs::path temporary,
               std::unique_ptr<WritableFile> file)
      : files_(files),
        store_(std::move(store)),
        name_(std::move(name)),
        temporary_(std::move(temporary)),
        file_(std::move(file)) {}
  ~IncomingPack() override {
    if (file_) (void)files_.remove(temporary_);  // else the next opening of the mirror does it
  }
  IncomingPack(const IncomingPack&) = delete;
  IncomingPack& operator=(const IncomingPack&) = delete;

  Status write(std::string_view piece) override { return file_->append(piece); }
  // Checked first: it may take the place of blocks that are here whole.
  Status commit() override {
    if (auto synced = file_->sync(); !synced) return synced;
    if (auto taken = store_->take_pack(temporary_, name_); !taken) return taken;
    file_.reset();
    return {};
  }

 private:
  Files& files_;
  const std::shared_ptr<ChunkStore> store_;
  const std::string name_;
  const fs::path temporary_;
  std::unique_ptr<WritableFile> file_;
};

class Mirrors::IncomingImage final : public Incoming {
 public:
  IncomingImage(Mirrors& mirrors, std::shared_ptr<ChunkStore> store, std::string name, fs::path temporary,
                std::unique_ptr<WritableFile> file)
      : mirrors_(mirrors),
        store_(std::move(store)),
        name_(std::move(name)),
        temporary_(std::move(temporary)),
        file_(std::move(file)) {}
  ~IncomingImage() override {
    file_.reset();
    (void)mirrors_.files_.remove(temporary_);  // else the next opening of the mirror does it
  }
  IncomingImage(const IncomingImage&) = delete;
  IncomingImage& operator=(const IncomingImage&) = delete;

  Status write(std::string_view piece) override {
    bytes_ += piece.size();
    if (bytes_ > kMaxImageFileBytes)
      return Error{ErrorKind::refused, "keep a copy", name_, "an image's file is never so large"};
    return file_->append(piece);
  }
  Status commit() override {
    if (auto known = store_->refresh(); !known) return known;
    const std::lock_guard one(mirrors_.image_in_memory_);
    auto written = mirrors_.files_.open(temporary_);
    if (!written) return written.error();
    auto content = (*written)->read(0, bytes_);
    if (!content) return content.error();
    return store_->put_image(name_, *content);
  }

 private:
  Mirrors& mirrors_;
  const std::shared_ptr<ChunkStore> store_;
  const std::string name_;
  const fs::path temporary_;
  std::unique_ptr<WritableFile> file_;
  std::uint64_t bytes_ = 0;
};

Mirrors::~Mirrors() = default;

Result<std::unique_ptr<Mirrors::Incoming>> Mirrors::begin(const HostName& owner, const std::string& name,
                                                          std::uint64_t bytes) {
  const auto refused = [&](std::string cause) {
    return Error{ErrorKind::refused, "keep a copy", owner.value + "/" + name, std::move(cause)};
  };
  if (!is_host_directory(owner.value) || owner == self_) return refused("not another host's name");
  auto store = open(owner);
  if (!store) return store.error();
  auto free = files_.free_bytes(hosts_);
  if (!free) return free.error();
  if (*free < reserve_ || *free - reserve_ < bytes)
    return Error{ErrorKind::storage_full, "keep a copy", hosts_.string(),
                 std::to_string(*free >> 20) + " MiB are free on " + self_.value};
  const bool is_image = name.starts_with(kImages);
  const std::string image = is_image ? name.substr(kImages.size()) : "";
  if (is_image && !is_image_name(image)) return refused("not an image's name");
  if (!is_image && (!name.starts_with(kPacks) || !is_pack_name(std::string_view(name).substr(kPacks.size()))))
    return refused("neither a pack's nor an image's name");
  auto unique = stillpoint::random_id();  // the same may come twice
  if (!unique) return unique.error();
  fs::path temporary = directory(owner) / "packs" / (*unique + std::string(kTemporarySuffix));
  auto file = files_.create(temporary);
  if (!file) return file.error();
  if (is_image)
    return std::make_unique<IncomingImage>(*this, std::move(*store), image, std::move(temporary), std::move(*file));
  return std::make_unique<IncomingPack>(files_, std::move(*store), name.substr(kPacks.size()), std::move(temporary),
                                        std::move(*file));
}

Result<std::shared_ptr<ChunkStore>> Mirrors::open(const HostName& owner) {
  const std::lock_guard lock(mutex_);
  const auto known = open_.find(owner.value);
  if (known != open_.end()) return known->second.store;
  const fs::path path = directory(owner);
  if (auto made = files_.make_directory(path); !made) return made.error();
  auto held = lock_store(path, std::chrono::milliseconds(0));
  if (!held) return held.error();
  ChunkStoreOptions options;
  options.index_entries = 1;  // nothing is taken up here
  options.memory = memory_;
  options.unpack_threads = unpack_threads_;
  auto store = ChunkStore::open(files_, path, keys_, options);
  if (!store) return store.error();
  return (open_[owner.value] = {std::move(*held), std::move(*store)}).store;
}

Result<std::shared_ptr<ChunkStore>> Mirrors::find(const HostName& owner) {
  if (!is_host_directory(owner.value))
    return Error{ErrorKind::refused, "open copies", owner.value, "not a host's name"};
  auto packs = files_.list(directory(owner) / "packs");
  if (!packs) return packs.error();
  if (packs->empty()) return Error{ErrorKind::not_found, "open copies", owner.value, "none are kept here"};
  return open(owner);
}

Result<CollectReport> Mirrors::collect(const HostName& owner, const std::stop_token& stop) {
  auto store = find(owner);
  if (!store && store.error().kind == ErrorKind::not_found) return CollectReport{};
  if (!store) return store.error();
  if (auto known = (*store)->refresh(); !known) return known.error();
  return (*store)->collect(stop);
}

}  // namespace stillpoint::node
