#include "node-daemon/store/store_state.h"

#include <algorithm>
#include <bit>

namespace stillpoint::node {

std::optional<std::uint32_t> StoreState::origin_number(const Id& id) {
  const std::lock_guard lock(mutex_);
  const auto known = origin_numbers_.find(id);
  if (known == origin_numbers_.end()) return std::nullopt;
  return known->second;
}

Id StoreState::origin_id(std::uint32_t number) {
  const std::lock_guard lock(mutex_);
  return origins_[number].id;
}

std::uint32_t StoreState::number_of(const Id& id) {
  const auto [known, is_new] = origin_numbers_.try_emplace(id, static_cast<std::uint32_t>(origins_.size()));
  if (is_new) origins_.push_back({id, nullptr, {}});
  return known->second;
}

void StoreState::add_pack(const PackContent& content, bool replace) {
  auto& known = packs_[content.id];
  // A pack never changes: one that is put again stays the place of all its blocks.
  if (!known || known->content.blocks != content.blocks) {
    auto info = std::make_shared<PackInfo>();
    info->content = {content.id, content.key, content.origins, content.blocks, {}, content.file_bytes};
    info->path = packs_directory / pack_name(content.id);
    for (const PackBlock& block : content.blocks) info->pages += static_cast<unsigned>(std::popcount(block.slots));
    known = std::move(info);
  }
  place_blocks(known, replace);
}

void StoreState::place_blocks(const std::shared_ptr<const PackInfo>& pack, bool replace) {
  std::vector<std::uint32_t> numbers;
  for (const Id& id : pack->content.origins) numbers.push_back(number_of(id));
  for (std::uint32_t index = 0; index < pack->content.blocks.size(); ++index) {
    const PackBlock& block = pack->content.blocks[index];
    auto& blocks = origins_[numbers[block.origin]].blocks;
    if (blocks.size() <= block.number) blocks.resize(block.number + 1);
    BlockPlace& place = blocks[block.number];
    const BlockPlace here{pack, index, block.slots};
    // A crash may leave a block both where it was and where compaction put what was alive of it: the fuller one counts.
    // Unless it is known to be damaged.
    const bool fuller = std::popcount(place.slots) < std::popcount(block.slots);
    const bool better = is_bad(place) == is_bad(here) ? fuller : is_bad(place) || !place.pack;
    if (replace || better) place = here;
  }
}

bool StoreState::usable(const PageRef& ref) const {
  const Origin& origin = origins_[ref.origin];
  if (origin.open) return !origin.open->failed;
  const std::uint32_t block = ref.page / kPagesPerBlock;
  return block < origin.blocks.size() && (origin.blocks[block].slots >> (ref.page % kPagesPerBlock) & 1) != 0;
}

bool StoreState::is_in_bad_block(const PageRef& ref) const {
  const Origin& origin = origins_[ref.origin];
  return !origin.open && is_bad(origin.blocks[ref.page / kPagesPerBlock]);
}

BlockPlace StoreState::place(const PageRef& ref) {
  const std::lock_guard lock(mutex_);
  if (ref.origin >= origins_.size() || origins_[ref.origin].open || !usable(ref)) return {};
  return origins_[ref.origin].blocks[ref.page / kPagesPerBlock];
}

std::shared_ptr<Holder> StoreState::hold() {
  auto holder = std::make_shared<Holder>();
  const std::lock_guard lock(mutex_);
  holders_.push_back(holder);
  return holder;
}

void StoreState::release(const std::shared_ptr<Holder>& holder) {
  if (let_go(holder)) trim_heap();
}

bool StoreState::let_go(const std::shared_ptr<Holder>& holder) {
  const std::lock_guard lock(mutex_);
  for (const auto& pack : holder->packs)
    if (--pack->users == 0 && !pack->done)
      fail(*pack, {ErrorKind::refused, "write pack", "", "every image that needed it was given up"});
  holder->packs.clear();
  holders_.remove(holder);
  if (collecting_) left_while_collecting_.push_back(holder);
  return holders_.empty();
}

Status StoreState::open_pack() {
  auto writer = PackWriter::create(files, packs_directory, keys.active());
  if (!writer) return writer.error();
  auto pack = std::make_shared<OpenPack>();
  pack->origin = number_of((*writer)->id());
  pack->writer = std::move(*writer);
  origins_[pack->origin].open = pack;
  open_ = std::move(pack);
  return {};
}

void StoreState::fail(OpenPack& pack, const Error& error) {
  if (!pack.failed) pack.failed = error;
  pack.done = true;
  std::string().swap(pack.pages);
  std::vector<Fingerprint>().swap(pack.fingerprints);
  if (open_.get() == &pack) open_.reset();
  {
    const std::lock_guard io(pack.io);
    pack.writer.reset();
  }
  changed_.notify_all();
}

void StoreState::add_spaces(Holder& holder, std::vector<Space> spaces) {
  const std::lock_guard lock(mutex_);
  const auto before = holder.spaces.empty() ? holder.spaces.end() : holder.spaces.end() - 1;
  holder.spaces.insert(before, std::make_move_iterator(spaces.begin()), std::make_move_iterator(spaces.end()));
}

void StoreState::end_spaces(Holder& holder, std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  holder.spaces.back().bytes = bytes;
}

void StoreState::put_unstored(PageList& list, std::size_t at, PageRef what) {
  const std::lock_guard lock(mutex_);
  list.put(at, what);
}

Status StoreState::put_page(Holder& holder, PageList& list, std::size_t at, const Fingerprint& fingerprint,
                            std::string_view page, bool& is_new, PageCompressor& compressor) {
  const auto join = [&holder](const std::shared_ptr<OpenPack>& pack) {
    if (holder.packs.insert(pack).second) ++pack->users;
  };
  std::unique_lock lock(mutex_);
  is_new = false;
  if (const auto known = index_.find(fingerprint); known && usable(*known) && !is_in_bad_block(*known)) {
    list.put(at, *known);
    if (const auto& open = origins_[known->origin].open) join(open);
    return {};
  }
  if (!open_)
    if (auto opened = open_pack(); !opened) return opened;
  const std::shared_ptr<OpenPack> pack = open_;
  join(pack);
  const PageRef ref{pack->origin,
                    pack->number * kPagesPerBlock + static_cast<std::uint32_t>(pack->fingerprints.size())};
  list.put(at, ref);
  pack->pages += page;
  pack->fingerprints.push_back(fingerprint);
  index_.put(fingerprint, ref);
  is_new = true;
  if (pack->fingerprints.size() < kPagesPerBlock) return {};

  const std::uint32_t number = pack->number++;
  const std::string pages = std::exchange(pack->pages, {});
  const auto fingerprints = std::exchange(pack->fingerprints, {});
  if (pack->bytes >= options.pack_bytes || std::uint64_t{pack->number} * kPagesPerBlock >= options.pack_pages) {
    pack->full = true;
    open_.reset();
  } else {
    pack->pages.reserve(pages.size());
  }
  ++pack->in_flight;
  lock.unlock();
  std::uint64_t written = 0;
  Status done = write_block(*pack, number, pages, fingerprints, compressor, written);
  lock.lock();
  // Of a large image many packs are full before it ends: they wait for it without what each of their pages takes.
  if (done && pack->full && pack->in_flight == 1) {
    lock.unlock();
    done = end_pack(*pack);
    lock.lock();
  }
  --pack->in_flight;
  pack->bytes += written;
  holder.stored_bytes += written;
  if (!done) fail(*pack, done.error());
  changed_.notify_all();
  return done ? done : Status(*pack->failed);  // the first reason, whoever met it
}

Status StoreState::write_block(OpenPack& pack, std::uint32_t number, const std::string& pages,
                               const std::vector<Fingerprint>& fingerprints, PageCompressor& compressor,
                               std::uint64_t& written) {
  auto compressed = compressor.compress(pages);
  if (!compressed) return compressed.error();
  const std::lock_guard io(pack.io);
  if (!pack.writer) return Error{ErrorKind::transient, "write pack", "", "another image failed to write it"};
  const std::uint64_t slots = ~std::uint64_t{0} >> (kPagesPerBlock - fingerprints.size());
  const std::uint64_t before = pack.writer->bytes();
  const Status done = pack.writer->append(pack.writer->id(), number, slots, *compressed, fingerprints);
  written = pack.writer->bytes() - before;
  return done;
}

Status StoreState::end_pack(OpenPack& pack) {
  const std::lock_guard io(pack.io);
  return pack.writer ? pack.writer->end() : Status();  // none: it failed, which whoever needs it is told
}

Status StoreState::seal_packs(Holder& holder, PageCompressor& compressor) {
  for (const auto& pack : holder.packs)
    if (auto sealed = seal(pack, holder, compressor); !sealed) return sealed;
  return {};
}

Status StoreState::seal(const std::shared_ptr<OpenPack>& pack, Holder& holder, PageCompressor& compressor) {
  std::unique_lock lock(mutex_);
  const auto outcome = [&pack]() -> Status { return pack->failed ? Status(*pack->failed) : Status(); };
  if (pack->sealing) changed_.wait(lock, [&pack] { return pack->done; });
  if (pack->done) return outcome();
  pack->sealing = true;
  if (open_ == pack) open_.reset();  // nobody puts a page into it any more
  changed_.wait(lock, [&pack] { return pack->in_flight == 0; });
  if (pack->done) return outcome();
  const std::string pages = std::exchange(pack->pages, {});
  const auto fingerprints = std::exchange(pack->fingerprints, {});
  lock.unlock();

  std::uint64_t written = 0;
  Status done;
  if (!fingerprints.empty()) done = write_block(*pack, pack->number, pages, fingerprints, compressor, written);
  holder.stored_bytes += written;
  std::optional<PackContent> content;
  if (done) {
    const std::lock_guard io(pack->io);
    auto published = pack->writer->publish();
    if (published) content = std::move(*published);
    else done = published.error();
  }

  lock.lock();
  if (!content) {
    fail(*pack, done.error());
    return outcome();
  }
  {
    const std::lock_guard io(pack->io);
    pack->writer.reset();
  }
  add_pack(*content, false);
  origins_[pack->origin].open.reset();
  pack->done = true;
  changed_.notify_all();
  return {};
}

StoreFigures StoreState::figures() {
  const std::lock_guard lock(mutex_);
  StoreFigures figures;
  figures.packs = packs_.size();
  for (const auto& [id, pack] : packs_) {
    figures.pack_bytes += pack->content.file_bytes;
    figures.pages += pack->pages;
  }
  figures.index_bytes = index_.bytes();
  return figures;
}

}  // namespace stillpoint::node
