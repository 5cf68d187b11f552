#include "node-daemon/store/chunk_store.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <unordered_map>

#include "node-daemon/store/digest.h"
#include "node-daemon/store/image_source.h"
#include "node-daemon/store/store_state.h"

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;

bool all_zero(std::string_view page) {
  return page[0] == 0 && std::memcmp(page.data(), page.data() + 1, page.size() - 1) == 0;
}

// Another host's remove() may take an empty directory away while this one is about to write into it.
Status publish_image(StoreState& state, const std::string& name, std::string_view content) {
  const fs::path path = state.images_directory / name;
  const fs::path epoch = path.parent_path(), job = epoch.parent_path();
  for (int attempt = 0;; ++attempt) {
    for (const fs::path& directory : {job, epoch})
      if (auto made = state.files.make_directory(directory);
          !made && !(made.error().kind == ErrorKind::not_found && attempt < 8))
        return made;
    // The names above it first: when the image is there, it is there for good.
    Status done;
    for (const fs::path& directory : {job.parent_path(), job})
      if (done) done = state.files.sync_directory(directory);
    if (done) done = publish(state.files, path, content);
    if (done || done.error().kind != ErrorKind::not_found || attempt >= 8) return done;
  }
}

class Ingest final : public ImageIngest, private RamStreamSink {
 public:
  Ingest(StoreState& state, std::string name, ImageKind kind)
      : state_(state),
        name_(std::move(name)),
        kind_(kind),
        holder_(state.hold()),
        hasher_(derive(state.keys.active().key, "pages", "")),
        compressor_(state.options.level),
        parser_(*this) {
    state_.add_spaces(*holder_, {{}});
  }
  ~Ingest() override { state_.release(holder_); }
  Ingest(const Ingest&) = delete;
  Ingest& operator=(const Ingest&) = delete;

  Status write(std::string_view raw) override {
    if (!failed_) return failed_;
    figures_.raw_bytes += raw.size();
    failed_ = kind_ == ImageKind::memory ? parser_.push(raw) : other(raw);
    return failed_;
  }
  Result<ImageFigures> commit() override;

 private:
  Status ram(const std::vector<RamBlock>& blocks) override;
  Status page(std::uint32_t block, std::uint64_t page, std::string_view content) override {
    return put(holder_->spaces[block].pages, page, content);
  }
  Status zero_page(std::uint32_t block, std::uint64_t page) override {
    ++figures_.pages;
    ++figures_.zero_pages;
    state_.put_unstored(holder_->spaces[block].pages, page, kZeroPage);
    return {};
  }
  // Bytes without an address: page after page into the last space.
  Status other(std::string_view bytes) override;

  Status put(PageList& list, std::size_t at, std::string_view content);
  Status put_other(std::string_view content) {
    PageList& list = holder_->spaces.back().pages;
    return put(list, list.size(), content);
  }
  Result<std::string> list_file(const StreamShape& shape);

  StoreState& state_;
  const std::string name_;
  const ImageKind kind_;
  const std::shared_ptr<Holder> holder_;
  PageHasher hasher_;
  PageCompressor compressor_;
  RamStreamParser parser_;
  std::string partial_;  // other bytes that do not fill a page yet
  std::uint64_t other_bytes_ = 0;
  ImageFigures figures_;
  Status failed_;
};

Status Ingest::ram(const std::vector<RamBlock>& blocks) {
  std::vector<Space> spaces;
  for (const RamBlock& block : blocks) spaces.push_back({block.name, block.bytes, PageList(block.pages())});
  state_.add_spaces(*holder_, std::move(spaces));
  return {};
}

Status Ingest::put(PageList& list, std::size_t at, std::string_view content) {
  if (all_zero(content)) {
    ++figures_.pages;
    ++figures_.zero_pages;
    state_.put_unstored(list, at, kZeroPage);
    return {};
  }
  bool is_new = false;
  if (auto done = state_.put_page(*holder_, list, at, hasher_(content), content, is_new, compressor_); !done)
    return done;
  ++figures_.pages;
  ++(is_new ? figures_.new_pages : figures_.known_pages);
  return {};
}

Status Ingest::other(std::string_view bytes) {
  other_bytes_ += bytes.size();
  while (!bytes.empty()) {
    if (partial_.empty() && bytes.size() >= kPageBytes) {
      if (auto done = put_other(bytes.substr(0, kPageBytes)); !done) return done;
      bytes.remove_prefix(kPageBytes);
      continue;
    }
    const std::string_view piece = bytes.substr(0, kPageBytes - partial_.size());
    partial_ += piece;
    bytes.remove_prefix(piece.size());
    if (partial_.size() < kPageBytes) continue;
    if (auto done = put_other(partial_); !done) return done;
    partial_.clear();
  }
  return {};
}

Result<std::string> Ingest::list_file(const StreamShape& shape) {
  ImageManifest manifest;
  manifest.name = name_;
  manifest.kind = kind_;
  manifest.shape = shape;
  manifest.stored_bytes = holder_->stored_bytes;
  std::unordered_map<std::uint32_t, std::uint32_t> numbers;
  for (const Space& space : holder_->spaces)
    for (const PageRef ref : space.pages) {
      if (!is_stored(ref)) continue;
      const auto [known, is_new] = numbers.try_emplace(ref.origin, static_cast<std::uint32_t>(numbers.size()));
      if (is_new) manifest.origins.push_back(state_.origin_id(ref.origin));
    }
  state_.end_spaces(*holder_, other_bytes_);
  // Nobody changes the lists any more: what others do with them is reading.
  return seal_manifest(
      manifest, holder_->spaces, [&](std::uint32_t origin) { return numbers.at(origin); }, state_.keys.active());
}

Result<ImageFigures> Ingest::commit() {
  if (!failed_) return failed_.error();
  StreamShape shape;
  shape.raw_bytes = figures_.raw_bytes;
  if (kind_ == ImageKind::memory) {
    auto parsed = parser_.finish();
    if (!parsed) return (failed_ = parsed.error()).error();
    shape = *parsed;
  }
  if (!partial_.empty()) {
    partial_.resize(kPageBytes, '\0');
    failed_ = put_other(partial_);
    if (!failed_) return failed_.error();
  }
  if (failed_ = state_.seal_packs(*holder_, compressor_); !failed_) return failed_.error();
  auto file = list_file(shape);
  if (!file) return (failed_ = file.error()).error();
  if (failed_ = publish_image(state_, name_, *file); !failed_) return failed_.error();
  state_.image_replaced(name_);
  figures_.stored_bytes = holder_->stored_bytes + file->size();
  Sha256 digest;
  digest.add(*file);
  figures_.sha256 = digest.finish();
  return figures_;
}

class Store final : public ChunkStore {
 public:
  Store(Files& files, const fs::path& directory, SiteKeys keys, const ChunkStoreOptions& options)
      : state_(files, directory, std::move(keys), options) {}
  Status load() { return state_.load(); }

  Result<std::unique_ptr<ImageIngest>> begin(const std::string& name, ImageKind kind) override {
    if (state_.options.read_only) return Error{ErrorKind::refused, "store image", name, "this store is read only"};
    if (!is_image_name(name)) return Error{ErrorKind::refused, "store image", name, "not an image's name"};
    return std::make_unique<Ingest>(state_, name, kind);
  }
  Result<std::unique_ptr<ImageSource>> read(const std::string& name) override {
    if (!is_image_name(name)) return Error{ErrorKind::refused, "open image", name, "not an image's name"};
    return open_image_source(state_, name);
  }
  Status remove(const std::string& name) override { return remove_images(state_.files, state_.images_directory, name); }
  Result<std::vector<std::string>> images() override { return state_.image_names(); }
  Result<CollectReport> collect(std::stop_token stop) override {
    if (state_.options.read_only) return Error{ErrorKind::refused, "collect garbage", "", "this store is read only"};
    auto report = state_.collect(stop, stop);
    if (report && report->left_off) return *report->left_off;
    return report;
  }
  Result<CollectReport> collect_giving_way(const std::stop_token& stop, const std::stop_token& stop_writing) override {
    if (state_.options.read_only) return Error{ErrorKind::refused, "collect garbage", "", "this store is read only"};
    return state_.collect(stop, stop_writing);
  }
  Result<VerifyReport> verify(const std::vector<std::string>& expected) override { return state_.verify(expected); }
  Result<ImageCheck> verify_image(const std::string& name, const std::stop_token& stop) override {
    if (!is_image_name(name)) return Error{ErrorKind::refused, "verify image", name, "not an image's name"};
    return node::verify_image(state_, name, stop);
  }
  StoreFigures figures() override { return state_.figures(); }

  Status refresh() override { return state_.refresh_packs(); }
  Result<std::vector<BlockSlots>> blocks(const std::string& image) override;
  std::uint64_t slots(const Id& origin, std::uint32_t block) override { return state_.place_of(origin, block).slots; }
  std::uint64_t sound_slots(const Id& origin, std::uint32_t block) override {
    return state_.sound_slots(origin, block);
  }
  Result<OpenedPack> pack(const Id& origin, std::uint32_t block) override;
  Result<std::string> pages(const BlockSlots& block) override;
  Result<std::shared_ptr<const ReadableFile>> image_file(const std::string& image) override {
    if (!is_image_name(image)) return Error{ErrorKind::refused, "open image", image, "not an image's name"};
    return state_.files.open(state_.images_directory / image);
  }
  Status put_pack(const ReadableFile& content, const std::vector<BlockSlots>& instead) override {
    if (state_.options.read_only) return Error{ErrorKind::refused, "copy pack", "", "this store is read only"};
    return state_.put_pack(content, instead);
  }
  Status take_pack(const fs::path& temporary, const std::string& name) override {
    return state_.take_pack(temporary, name);
  }
  Status retire_mended() override { return state_.retire_mended(); }
  Status put_image(const std::string& image, std::string_view file) override;

 private:
  StoreState state_;
};

Result<std::vector<BlockSlots>> Store::blocks(const std::string& image) {
  if (!is_image_name(image)) return Error{ErrorKind::refused, "read image", image, "not an image's name"};
  auto manifest = state_.read_manifest(image);
  if (!manifest) return manifest.error();
  return blocks_of(*manifest);
}

Result<OpenedPack> Store::pack(const Id& origin, std::uint32_t block) {
  // A collection may move it between the question where it is and the opening.
  for (int attempt = 0; attempt < 3; ++attempt) {
    const BlockPlace at = state_.place_of(origin, block);
    if (!at.pack) break;
    auto file = state_.files.open(at.pack->path);
    if (file) return OpenedPack{at.pack->path.filename().string(), std::move(*file)};
    if (file.error().kind != ErrorKind::not_found) return file.error();
    state_.note_missing(at);
  }
  return state_.nowhere(origin, "copy image", pack_name(origin), "a pack that it needs is missing or damaged");
}

Result<std::string> Store::pages(const BlockSlots& block) {
  const BlockPlace at = state_.place_of(block.origin, block.number);
  if (!at.pack || (block.slots & ~at.slots) != 0)
    return state_.nowhere(block.origin, "read pages", pack_name(block.origin), "they are not here");
  auto file = state_.files.open(at.pack->path);
  if (!file) return file.error();
  const PackContent& content = at.pack->content;
  BlockReader reader(std::move(*file), *state_.keys.find(content.key), content);
  auto pages = reader.read(content, content.blocks[at.index], at.index);
  if (!pages && pages.error().kind == ErrorKind::damaged) state_.note_bad(at);
  if (!pages) return pages;
  return pages_in(*pages, content.blocks[at.index].slots, block.slots);
}

// Keeps the pages of an image alive that no file lists yet.
class Held {
 public:
  Held(StoreState& state, const ImageManifest& manifest) : state_(state), holder_(state.hold()) {
    std::vector<std::optional<std::uint32_t>> numbers;
    for (const Id& id : manifest.origins) numbers.push_back(state.origin_number(id));
    std::vector<Space> spaces = manifest.spaces;
    for (Space& space : spaces)
      space.pages.transform([&](PageRef ref) {
        if (!is_stored(ref)) return ref;
        return numbers[ref.origin] ? PageRef{*numbers[ref.origin], ref.page} : kAbsentPage;  // not here at all
      });
    state.add_spaces(*holder_, std::move(spaces));
  }
  ~Held() { state_.release(holder_); }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;

 private:
  StoreState& state_;
  const std::shared_ptr<Holder> holder_;
};

Status Store::put_image(const std::string& image, std::string_view file) {
  const auto damaged = [&](std::string cause) {
    return Error{ErrorKind::damaged, "copy image", image, std::move(cause)};
  };
  if (!is_image_name(image)) return Error{ErrorKind::refused, "copy image", image, "not an image's name"};
  auto manifest = open_manifest(file, state_.keys);
  if (!manifest) return Error{kind_for_sender(manifest.error()), "copy image", image, manifest.error().cause};
  if (manifest->name != image) return damaged("it is " + manifest->name);
  // From before its pages are looked for until its file is there: a collection beside this may have read the files
  // already.
  const Held held(state_, *manifest);
  state_.place_around_bad();
  for (const BlockSlots& block : blocks_of(*manifest))
    if ((block.slots & ~state_.sound_slots(block.origin, block.number)) != 0)
      return state_.nowhere(block.origin, "copy image", image, "pages of it are not here");
  const Status published = publish_image(state_, image, file);
  if (published) state_.image_replaced(image);
  return published;
}

}  // namespace

Result<std::unique_ptr<ChunkStore>> ChunkStore::open(Files& files, const fs::path& directory, SiteKeys keys,
                                                     const ChunkStoreOptions& options) {
  auto store = std::make_unique<Store>(files, directory, std::move(keys), options);
  if (auto loaded = store->load(); !loaded) return loaded.error();
  return std::unique_ptr<ChunkStore>(std::move(store));
}

}  // namespace stillpoint::node
