#include "node-daemon/store/image_source.h"

#include <unordered_map>

#include "node-daemon/store/block_fetcher.h"

namespace stillpoint::node {
namespace {

constexpr std::size_t kPiece = 1u << 20;  // that read() gives at once

// The blocks used last, whose other pages may be wanted soon. Pages of an image lie in as many runs as it has epochs
// behind it, each read from front to back.
class BlockCache {
 public:
  explicit BlockCache(std::shared_ptr<MemoryPool> memory) : room_(std::move(memory)) {}
  bool contains(std::uint64_t key) const { return entries_.contains(key); }
  const UnpackedBlock* find(std::uint64_t key) {
    const auto found = entries_.find(key);
    if (found == entries_.end()) return nullptr;
    order_.splice(order_.begin(), order_, found->second);
    return &found->second->second;
  }
  const UnpackedBlock* put(std::uint64_t key, UnpackedBlock block) {
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
  std::list<std::pair<std::uint64_t, UnpackedBlock>> order_;  // the one used last in front
  std::unordered_map<std::uint64_t, std::list<std::pair<std::uint64_t, UnpackedBlock>>::iterator> entries_;
  MemoryPool::Member room_;
};

class Source final : public ImageSource {
 public:
  Source(StoreState& state, std::string name)
      : state_(state),
        name_(std::move(name)),
        holder_(state.hold()),
        writer_(manifest_.shape, ram_),
        cache_(state.memory),
        fetcher_(state, name_) {}
  ~Source() override {
    ahead_.reset();  // what it reads is held until then
    state_.release(holder_);
  }
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;

  Status open();
  Result<std::string> read() override;

 private:
  enum class Part { head, pages, tail, end };
  Status some_pages(std::string& out);
  Status some_others(std::string& out, std::uint64_t until);
  Result<std::string_view> page(const PageRef& ref);
  Result<UnpackedBlock> fetch(const PageRef& ref);
  void look_ahead();
  Error damaged(std::string cause) const { return {ErrorKind::damaged, "read image", name_, std::move(cause)}; }
  const std::vector<Space>& spaces() const { return holder_->spaces; }

  StoreState& state_;
  const std::string name_;
  const std::shared_ptr<Holder> holder_;
  ImageManifest manifest_;  // its spaces are the holder's
  std::vector<RamBlock> ram_;
  RamStreamWriter writer_;
  BlockCache cache_;
  BlockFetcher fetcher_;
  Part part_ = Part::head;
  std::uint32_t space_ = 0;
  std::uint64_t page_ = 0, other_ = 0;              // next ones
  std::optional<PageList::Cursor> pages_, others_;  // of space_, of the last one
  // What threads read ahead of these.
  std::uint32_t seen_space_ = 0;
  std::uint64_t seen_page_ = 0;
  std::optional<PageList::Cursor> seen_;          // of seen_space_
  std::uint64_t seen_block_ = ~std::uint64_t{0};  // of the last page
  std::optional<BlocksAhead> ahead_;              // where the store has threads for it; goes first
};

Status Source::open() {
  auto manifest = state_.read_manifest(name_);
  if (!manifest) return manifest.error().kind == ErrorKind::not_found ? damaged("it is gone") : manifest.error();
  if (state_.options.read_only)
    if (auto loaded = state_.load_packs_for(*manifest); !loaded) return loaded;
  std::vector<std::uint32_t> numbers;
  for (const Id& id : manifest->origins) {
    const auto number = state_.origin_number(id);
    if (!number) return state_.nowhere(id, "read image", name_, "pack " + pack_name(id) + " is missing or damaged");
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
      if (is_stored(ref) && !state_.place(ref).pack)
        return state_.nowhere(state_.origin_id(ref.origin), "read image", name_,
                              "a pack that it needs is missing or damaged");
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
  const std::uint64_t key = block_key(ref);
  const std::uint32_t slot = ref.page % kPagesPerBlock;
  const UnpackedBlock* block = cache_.find(key);
  if (block == nullptr) {
    auto fetched = fetch(ref);
    if (!fetched) return fetched.error();
    block = cache_.put(key, std::move(*fetched));
  }
  if ((block->slots >> slot & 1) == 0) return damaged("a page of it is missing");
  return block->page(slot);
}

Result<UnpackedBlock> Source::fetch(const PageRef& ref) {
  if (part_ == Part::pages && state_.options.unpack_threads) look_ahead();
  const std::uint64_t key = block_key(ref);
  return ahead_ && ahead_->is_asked(key) ? ahead_->take(key) : fetcher_.fetch(ref);
}

// Asks for the blocks of this page and of those to come, as many as the threads take.
void Source::look_ahead() {
  if (!ahead_) ahead_.emplace(state_, name_);
  if (seen_space_ < space_ || (seen_space_ == space_ && seen_page_ < page_)) {
    if (seen_space_ != space_) seen_.reset();
    seen_space_ = space_;
    seen_page_ = page_;
  }
  while (ahead_->has_room() && seen_space_ + 1 < spaces().size()) {
    const PageList& pages = spaces()[seen_space_].pages;
    if (seen_page_ == pages.size()) {
      ++seen_space_;
      seen_page_ = 0;
      seen_.reset();
      continue;
    }
    if (!seen_) seen_.emplace(pages);
    const PageRef ref = (*seen_)[seen_page_++];
    if (!is_stored(ref) || block_key(ref) == std::exchange(seen_block_, block_key(ref))) continue;
    if (!cache_.contains(seen_block_)) ahead_->ask(ref);
  }
}

}  // namespace

Result<std::unique_ptr<ImageSource>> open_image_source(StoreState& state, const std::string& name) {
  auto source = std::make_unique<Source>(state, name);
  if (auto opened = source->open(); !opened) return opened.error();
  return std::unique_ptr<ImageSource>(std::move(source));
}

}  // namespace stillpoint::node
