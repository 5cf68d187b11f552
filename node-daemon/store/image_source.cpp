#include "node-daemon/store/image_source.h"

#include <bit>
#include <unordered_map>

namespace stillpoint::node {
namespace {

constexpr std::size_t kPiece = 1u << 20;  // that read() gives at once
constexpr std::size_t kOpenPacks = 32;    // by one reader

// The blocks used last, whose other pages may be wanted soon. Pages of an image lie in as many runs as it has epochs
// behind it, each read from front to back.
class BlockCache {
 public:
  struct Block {
    std::uint64_t slots = 0;
    std::string pages;
    std::string_view page(std::uint32_t slot) const {
      const std::uint64_t before = slots & ((std::uint64_t{1} << slot) - 1);
      return std::string_view(pages).substr(static_cast<unsigned>(std::popcount(before)) * kPageBytes, kPageBytes);
    }
  };
  explicit BlockCache(std::shared_ptr<MemoryPool> memory) : room_(std::move(memory)) {}
  const Block* find(std::uint64_t key) {
    const auto found = entries_.find(key);
    if (found == entries_.end()) return nullptr;
    order_.splice(order_.begin(), order_, found->second);
    return &found->second->second;
  }
  const Block* put(std::uint64_t key, Block block) {
    room_.add(block.pages.size());
    order_.emplace_front(key, std::move(block));
    entries_[key] = order_.begin();
    while (order_.size() > 1 && room_.is_over()) {
      room_.give(order_.back().second.pages.size());
      entries_.erase(order_.back().first);
      order_.pop_back();
    }
    return &order_.front().second;
  }

 private:
  std::list<std::pair<std::uint64_t, Block>> order_;  // the one used last in front
  std::unordered_map<std::uint64_t, std::list<std::pair<std::uint64_t, Block>>::iterator> entries_;
  MemoryPool::Member room_;
};

class Source final : public ImageSource {
 public:
  Source(StoreState& state, std::string name)
      : state_(state),
        name_(std::move(name)),
        holder_(state.hold()),
        writer_(manifest_.shape, ram_),
        cache_(state.memory) {}
  ~Source() override { state_.release(holder_); }
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;

  Status open();
  Result<std::string> read() override;

 private:
  enum class Part { head, pages, tail, end };
  Status some_pages(std::string& out);
  Status some_others(std::string& out, std::uint64_t until);
  Result<std::string_view> page(const PageRef& ref);
  Result<BlockCache::Block> fetch(const PageRef& ref);
  // The pages of the block there; not_found: the pack has moved.
  Result<std::string> read_there(const BlockPlace& at);
  Error damaged(std::string cause) const { return {ErrorKind::damaged, "read image", name_, std::move(cause)}; }
  const std::vector<Space>& spaces() const { return holder_->spaces; }

  StoreState& state_;
  const std::string name_;
  const std::shared_ptr<Holder> holder_;
  ImageManifest manifest_;  // its spaces are the holder's
  std::vector<RamBlock> ram_;
  RamStreamWriter writer_;
  const std::shared_ptr<ZSTD_DCtx> unpacker_ = make_unpacker();  // of all of them
  std::map<Id, BlockReader> readers_;
  BlockCache cache_;
  Part part_ = Part::head;
  std::uint32_t space_ = 0;
  std::uint64_t page_ = 0, other_ = 0;              // next ones
  std::optional<PageList::Cursor> pages_, others_;  // of space_, of the last one
};

Status Source::open() {
  auto manifest = state_.read_manifest(name_);
  if (!manifest) return manifest.error().kind == ErrorKind::not_found ? damaged("it is gone") : manifest.error();
  if (state_.options.read_only)
    if (auto loaded = state_.load_packs_for(*manifest); !loaded) return loaded;
  std::vector<std::uint32_t> numbers;
  for (const Id& id : manifest->origins) {
    const auto number = state_.origin_number(id);
    if (!number) return damaged("pack " + pack_name(id) + " is missing or damaged");
    numbers.push_back(*number);
  }
  std::vector<Space> mapped = std::move(manifest->spaces);
  for (Space& space : mapped)
    space.pages.transform([&](PageRef ref) { return is_stored(ref) ? PageRef{numbers[ref.origin], ref.page} : ref; });
  for (std::size_t i = 0; i + 1 < mapped.size(); ++i) ram_.push_back({mapped[i].name, mapped[i].bytes});
  manifest_ = std::move(*manifest);
  state_.add_spaces(*holder_, std::move(mapped));
  // Held from here on: no collection takes a page of it. What is not there now will not be there later.
  for (const Space& space : spaces())
    for (const PageRef ref : space.pages)
      if (is_stored(ref) && !state_.place(ref).pack) return damaged("a pack that it needs is missing or damaged");
  return {};
}

Result<std::string> Source::read() {
  std::string out;
  out.reserve(kPiece + 2 * kPageBytes);
  while (out.size() < kPiece && part_ != Part::end) {
    Status done;
    const std::uint64_t others = spaces().back().bytes;
    const std::uint64_t head = manifest_.kind == ImageKind::memory ? manifest_.shape.head_bytes : others;
    switch (part_) {
      case Part::head:
        done = some_others(out, head);
        if (done && other_ == head) {
          part_ = Part::pages;
          writer_.begin(out);
        }
        break;
      case Part::pages:
        done = some_pages(out);
        if (done && space_ + 1 == spaces().size()) {
          writer_.end(out);
          part_ = Part::tail;
        }
        break;
      case Part::tail:
        done = some_others(out, others);
        if (done && other_ == others) part_ = Part::end;
        break;
      case Part::end: break;
    }
    if (!done) return done.error();
  }
  return out;
}

Status Source::some_pages(std::string& out) {
  while (out.size() < kPiece && space_ + 1 < spaces().size()) {
    if (page_ == spaces()[space_].pages.size()) {
      ++space_;
      page_ = 0;
      pages_.reset();
      continue;
    }
    if (!pages_) pages_.emplace(spaces()[space_].pages);
    const PageRef ref = (*pages_)[page_];
    if (ref == kZeroPage) {
      writer_.zero_page(out, space_, page_);
    } else if (ref != kAbsentPage) {
      auto content = page(ref);
      if (!content) return content.error();
      writer_.page(out, space_, page_, *content);
    }
    ++page_;
  }
  return {};
}

Status Source::some_others(std::string& out, std::uint64_t until) {
  while (out.size() < kPiece && other_ < until) {
    if (!others_) others_.emplace(spaces().back().pages);
    const PageRef ref = (*others_)[other_ / kPageBytes];
    const std::size_t from = other_ % kPageBytes;
    const std::size_t count = std::min<std::uint64_t>(kPageBytes - from, until - other_);
    if (ref == kZeroPage) {
      out.append(count, '\0');
    } else {
      auto content = page(ref);
      if (!content) return content.error();
      out += content->substr(from, count);
    }
    other_ += count;
  }
  return {};
}

Result<std::string_view> Source::page(const PageRef& ref) {
  if (ref == kAbsentPage) return damaged("a page of it was never written");
  const std::uint64_t key = (std::uint64_t{ref.origin} << 32) | (ref.page / kPagesPerBlock);
  const std::uint32_t slot = ref.page % kPagesPerBlock;
  const BlockCache::Block* block = cache_.find(key);
  if (block == nullptr) {
    auto fetched = fetch(ref);
    if (!fetched) return fetched.error();
    block = cache_.put(key, std::move(*fetched));
  }
  if ((block->slots >> slot & 1) == 0) return damaged("a page of it is missing");
  return block->page(slot);
}

Result<BlockCache::Block> Source::fetch(const PageRef& ref) {
  // A collection may move the block between the question where it is and the opening of the file; another host's does
  // so without our knowing.
  for (int attempt = 0; attempt < 3; ++attempt) {
    const BlockPlace at = state_.place(ref);
    if (at.pack) {
      auto pages = read_there(at);
      if (pages) return BlockCache::Block{at.pack->content.blocks[at.index].slots, std::move(*pages)};
      if (pages.error().kind == ErrorKind::damaged) state_.note_bad(at);
      if (pages.error().kind != ErrorKind::not_found)
        return Error{pages.error().kind, "read image", name_, at.pack->path.string() + ": " + pages.error().cause};
      readers_.erase(at.pack->content.id);  // a file that lies elsewhere does not stay because it was opened
    }
    if (!at.pack && !state_.options.read_only) return damaged("a page of it is missing");
    if (state_.options.read_only)
      if (auto again = state_.load_packs(); !again) return again.error();
  }
  return damaged("a pack that it needs is gone");
}

Result<std::string> Source::read_there(const BlockPlace& at) {
  const PackContent& content = at.pack->content;
  auto known = readers_.find(content.id);
  if (known == readers_.end()) {
    auto file = state_.files.open(at.pack->path);
    if (!file) return file.error();
    if (readers_.size() == kOpenPacks) readers_.clear();
    known = readers_.try_emplace(content.id, *file, *state_.keys.find(content.key), content, unpacker_).first;
  }
  return known->second.read(content, content.blocks[at.index], at.index);
}

}  // namespace

Result<std::unique_ptr<ImageSource>> open_image_source(StoreState& state, const std::string& name) {
  auto source = std::make_unique<Source>(state, name);
  if (auto opened = source->open(); !opened) return opened.error();
  return std::unique_ptr<ImageSource>(std::move(source));
}

}  // namespace stillpoint::node
