// Garbage collection: packs without a live page go, packs with few are written anew.
//
// What is alive is what an image file lists, or an ingest or a source holds; and what was there when an image was found
// that cannot be read. The order makes it safe:
//   1. from now on, what an ingest held when it ended is remembered (an image that is published is then either among
//      the files of step 2 or remembered)
//   2. the image files are read
//   3. under the mutex, in one step: what is held is added; packs to go are chosen; the dead pages in them are struck
//      out, so that no ingest refers to them from then on
//   4. live pages of sparse packs are copied into a new one, which is published
//   5. only then the old files go
// After a crash between 4 and 5 both files are there, and either serves; the next collection takes one of them.
#include <algorithm>
#include <bit>

#include "node-daemon/store/store_state.h"

namespace stillpoint::node {
namespace {

constexpr std::uint64_t kSmallPackShare = 16, kFewPagesShare = 4;  // of a full pack's bytes, of its pages
constexpr std::size_t kManySmallPacks = 8;                         // are put together

Error stopped() { return {ErrorKind::refused, "collect garbage", "", "it was stopped"}; }

}  // namespace

void StoreState::mark(Live& live, const PageRef& ref) const {
  if (!is_stored(ref)) return;
  if (live.size() <= ref.origin) live.resize(origins_.size());
  auto& blocks = live[ref.origin];
  const std::uint32_t block = ref.page / kPagesPerBlock;
  if (blocks.size() <= block) blocks.resize(block + 1);
  blocks[block] |= std::uint64_t{1} << (ref.page % kPagesPerBlock);
}

void StoreState::mark(Live& live, const std::vector<Space>& spaces) const {
  for (const Space& space : spaces)
    for (const PageRef ref : space.pages) mark(live, ref);
}

void StoreState::image_replaced(const std::string& name) {
  const std::lock_guard lock(mutex_);
  unreadable_.erase(name);
}

void StoreState::note_unreadable(const std::set<std::string>& names) {
  const std::lock_guard lock(mutex_);
  std::erase_if(unreadable_, [&](const auto& entry) { return !names.contains(entry.first); });
  for (const std::string& name : names) unreadable_.try_emplace(name, origins_.size());
}

Result<StoreState::Live> StoreState::live_by_images(const std::stop_token& stop, CollectReport& report) {
  auto names = image_names();
  if (!names) return names.error();
  Live live;
  std::set<std::string> unreadable;
  bool all_there = true;
  for (const std::string& name : *names) {
    if (stop.stop_requested()) return stopped();
    auto manifest = read_manifest(name);
    if (!manifest && manifest.error().kind == ErrorKind::not_found) continue;  // removed meanwhile
    if (!manifest) {
      unreadable.insert(name);
      report.problems.push_back({manifest.error().kind, "collect garbage", name,
                                 "it is not known what this image needs, so nothing is freed that may be its; repair "
                                 "or remove it: " +
                                     manifest.error().cause});
      continue;
    }
    std::vector<std::optional<std::uint32_t>> numbers;
    for (const Id& id : manifest->origins) numbers.push_back(origin_number(id));
    const std::lock_guard lock(mutex_);
    for (const Space& space : manifest->spaces)
      for (const PageRef ref : space.pages)
        if (is_stored(ref) && numbers[ref.origin]) {
          const PageRef here{*numbers[ref.origin], ref.page};
          all_there = all_there && usable(here);
          mark(live, here);
        } else if (is_stored(ref)) {
          all_there = false;
        }
  }
  note_unreadable(unreadable);
  lacks_nothing_ = all_there && unreadable.empty();
  return live;
}

// Under mutex_.
bool StoreState::has_live_pages(const PackInfo& pack, const Live& live) const {
  return std::ranges::any_of(pack.content.blocks, [&](const PackBlock& block) {
    const auto& of_origin = live[origin_numbers_.at(pack.content.origins[block.origin])];
    return block.number < of_origin.size() && (of_origin[block.number] & block.slots) != 0;
  });
}

StoreState::Victims StoreState::choose_victims(Live& live) {
  const std::lock_guard lock(mutex_);
  for (const auto& holder : holders_) mark(live, holder->spaces);
  for (const auto& holder : left_while_collecting_) mark(live, holder->spaces);
  live.resize(origins_.size());
  std::size_t all_kept = 0;  // of the origins before this one
  for (const auto& [name, origins] : unreadable_) all_kept = std::max(all_kept, origins);

  std::map<const PackInfo*, std::uint64_t> live_pages;
  for (std::size_t i = 0; i < origins_.size(); ++i) {
    live[i].resize(origins_[i].blocks.size());
    for (std::size_t block = 0; block < origins_[i].blocks.size(); ++block) {
      const BlockPlace& place = origins_[i].blocks[block];
      if (i < all_kept) live[i][block] = place.slots;
      if (place.pack)
        live_pages[place.pack.get()] += static_cast<unsigned>(std::popcount(place.slots & live[i][block]));
    }
  }
  Victims victims;
  std::vector<std::shared_ptr<const PackInfo>> small;
  for (const auto& [id, pack] : packs_) {
    const std::uint64_t count = live_pages[pack.get()];
    // Whose store it is may be at it, too, and be about to remove the other one of two packs with the same pages.
    if (!options.compact && has_live_pages(*pack, live)) continue;
    if (count == 0) victims.dead.push_back(pack);
    else if (!options.compact) continue;
    else if (mended_.contains(id)) victims.sparse.push_back(pack);
    else if (static_cast<double>(count) < options.compact_below * static_cast<double>(pack->pages))
      victims.sparse.push_back(pack);
    else if (pack->content.file_bytes < options.pack_bytes / kSmallPackShare &&
             pack->pages < options.pack_pages / kFewPagesShare)
      small.push_back(pack);
  }
  if (small.size() >= kManySmallPacks) victims.sparse.insert(victims.sparse.end(), small.begin(), small.end());

  std::set<const PackInfo*> chosen;
  for (const auto* list : {&victims.dead, &victims.sparse})
    for (const auto& pack : *list) chosen.insert(pack.get());
  for (std::size_t i = 0; i < origins_.size(); ++i)
    for (std::size_t block = 0; block < origins_[i].blocks.size(); ++block) {
      BlockPlace& place = origins_[i].blocks[block];
      if (!place.pack || !chosen.contains(place.pack.get())) continue;
      place.slots &= live[i][block];
      if (place.slots == 0) place = {};
    }
  for (const auto& pack : victims.dead) packs_.erase(pack->content.id);
  return victims;
}

BlockPlace StoreState::place_of(const Id& origin, std::uint32_t block) {
  const std::lock_guard lock(mutex_);
  const auto known = origin_numbers_.find(origin);
  if (known == origin_numbers_.end()) return {};
  const auto& blocks = origins_[known->second].blocks;
  return block < blocks.size() ? blocks[block] : BlockPlace{};
}

Result<std::string> StoreState::live_pages(const PackInfo& pack, std::uint32_t index, std::uint64_t slots,
                                           std::optional<BlockReader>& reader) {
  const PackContent& content = pack.content;
  const PackBlock& block = content.blocks[index];
  if (options.pages_at_hand)
    if (auto near = options.pages_at_hand({content.origins[block.origin], block.number, slots})) return near;
  if (!reader) {
    auto file = files.open(pack.path);
    if (!file) return file.error();
    reader.emplace(std::move(*file), *keys.find(content.key), content);
  }
  auto pages = reader->read(content, block, index);
  if (!pages) return pages;
  return pages_in(*pages, block.slots, slots);
}

Status StoreState::copy_live(const PackInfo& pack, const std::stop_token& stop, PackWriter& writer,
                             PageCompressor& compressor) {
  const PackContent& content = pack.content;
  std::optional<BlockReader> reader;
  PageHasher hasher(derive(keys.active().key, "pages", ""));
  for (std::uint32_t index = 0; index < content.blocks.size(); ++index) {
    const PackBlock& block = content.blocks[index];
    const Id& origin = content.origins[block.origin];
    const BlockPlace here = place_of(origin, block.number);
    if (here.pack.get() != &pack || here.slots == 0) continue;
    if (stop.stop_requested()) return stopped();
    auto pages = live_pages(pack, index, here.slots, reader);
    if (!pages) return pages.error();
    std::vector<Fingerprint> fingerprints;
    for (std::size_t at = 0; at < pages->size(); at += kPageBytes)
      fingerprints.push_back(hasher(std::string_view(*pages).substr(at, kPageBytes)));
    auto compressed = compressor.compress(*pages);
    if (!compressed) return compressed.error();
    if (auto done = writer.append(origin, block.number, here.slots, *compressed, fingerprints); !done) return done;
  }
  return {};
}

Status StoreState::compact(const std::vector<std::shared_ptr<const PackInfo>>& sparse, const std::stop_token& stop,
                           CollectReport& report, std::vector<std::shared_ptr<const PackInfo>>& replaced) {
  PageCompressor compressor(options.level);
  for (std::size_t next = 0; next < sparse.size();) {
    if (stop.stop_requested()) return stopped();
    auto writer = PackWriter::create(files, packs_directory, keys.active());
    if (!writer) return writer.error();
    std::vector<std::shared_ptr<const PackInfo>> copied;
    const auto has_room = [&] {
      return (*writer)->bytes() < options.pack_bytes && (*writer)->pages() < options.pack_pages;
    };
    for (; next < sparse.size() && has_room(); ++next) {
      const Status done = copy_live(*sparse[next], stop, **writer, compressor);
      if (done) {
        copied.push_back(sparse[next]);
        continue;
      }
      // A pack that cannot be read stays, whole: it may be repaired. What was copied of it does no harm.
      if (done.error().kind != ErrorKind::damaged && done.error().kind != ErrorKind::not_found) return done;
      if (done.error().kind == ErrorKind::not_found) note_missing({sparse[next]});
      report.problems.push_back(done.error());
    }
    if (copied.empty()) continue;
    auto content = (*writer)->publish();
    if (!content) return content.error();
    const std::lock_guard lock(mutex_);
    add_pack(*content, true);
    looked_at_.insert(pack_name(content->id));
    for (const auto& pack : copied) packs_.erase(pack->content.id);
    replaced.insert(replaced.end(), copied.begin(), copied.end());
  }
  return {};
}

std::vector<std::shared_ptr<const PackInfo>> StoreState::without_places(
    std::vector<std::shared_ptr<const PackInfo>>& packs) {
  const std::lock_guard lock(mutex_);
  std::set<const PackInfo*> used;
  for (const Origin& origin : origins_)
    for (const BlockPlace& place : origin.blocks) used.insert(place.pack.get());
  std::vector<std::shared_ptr<const PackInfo>> unused;
  std::erase_if(packs, [&](const auto& pack) {
    if (used.contains(pack.get())) return false;
    unused.push_back(pack);
    packs_.erase(pack->content.id);
    return true;
  });
  return unused;
}

void StoreState::take_back(const std::vector<std::shared_ptr<const PackInfo>>& sparse,
                           const std::vector<std::shared_ptr<const PackInfo>>& replaced) {
  const std::lock_guard lock(mutex_);
  for (const auto& pack : sparse)
    if (std::ranges::find(replaced, pack) == replaced.end()) place_blocks(pack, false);
}

Status StoreState::remove_packs(const std::vector<std::shared_ptr<const PackInfo>>& gone, CollectReport& report) {
  if (gone.empty()) return {};
  for (const auto& pack : gone) {
    looked_at_.erase(pack->path.filename().string());  // a copy may be put here again
    if (auto removed = files.remove(pack->path); !removed) report.problems.push_back(removed.error());
  }
  {
    const std::lock_guard lock(mutex_);
    for (const auto& pack : gone) mended_.erase(pack->content.id);
  }
  return files.sync_directory(packs_directory);
}

Result<CollectReport> StoreState::collect(const std::stop_token& stop, const std::stop_token& stop_writing) {
  const std::lock_guard one(collect_mutex_);
  CollectReport report;
  report.bytes_before = figures().pack_bytes;
  {
    const std::lock_guard lock(mutex_);
    collecting_ = true;
  }
  look_for_missing();
  const auto run = [&]() -> Status {
    if (auto removed = remove_empty_directories(); !removed) return removed;
    auto live = live_by_images(stop, report);
    if (!live) return live.error();
    const Victims victims = choose_victims(*live);
    std::vector<std::shared_ptr<const PackInfo>> gone = victims.dead;
    const Status compacted = compact(victims.sparse, stop_writing, report, gone);
    if (!compacted) report.left_off = compacted.error();
    take_back(victims.sparse, gone);
    report.packs_removed = victims.dead.size();
    report.packs_compacted = gone.size() - victims.dead.size();
    if (auto removed = remove_packs(gone, report); !removed) return removed;
    forget_bad_of_gone_packs();
    return remove_unreadable_packs(report);
  };
  const Status done = run();
  {
    const std::lock_guard lock(mutex_);
    collecting_ = false;
    left_while_collecting_.clear();
  }
  if (!done) return done.error();
  report.bytes_after = figures().pack_bytes;
  return report;
}

}  // namespace stillpoint::node
