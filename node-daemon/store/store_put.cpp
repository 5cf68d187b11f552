// Packs that come from elsewhere.
#include <algorithm>

#include "node-daemon/store/store_state.h"

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kPiece = 1u << 20;

Error named(const Error& error, const std::string& pack) { return {error.kind, "copy pack", pack, error.cause}; }

Status write_as(Files& files, const fs::path& path, const ReadableFile& content) {
  auto file = files.create(path);
  if (!file) return file.error();
  for (std::uint64_t at = 0; at < content.size(); at += kPiece) {
    auto piece = content.read(at, static_cast<std::size_t>(std::min<std::uint64_t>(kPiece, content.size() - at)));
    if (!piece) return piece.error();
    if (auto written = (*file)->append(*piece); !written) return written;
  }
  return (*file)->sync();
}

}  // namespace

Status StoreState::put_pack(const ReadableFile& file, const std::vector<BlockSlots>& instead) {
  const auto content = read_pack(file, keys);
  if (!content) return named(content.error(), "elsewhere");
  const std::string name = pack_name(content->id);
  if (auto whole = check_blocks(*content, keys, file); !whole) return named(whole.error(), name);

  const std::lock_guard one(collect_mutex_);  // no collection, and no other copy of the same pack
  const fs::path path = packs_directory / name;
  fs::path temporary = path;
  temporary += kTemporarySuffix;
  if (auto removed = files.remove(temporary); !removed) return removed;
  Status done = write_as(files, temporary, file);
  if (done) done = files.rename(temporary, path);
  if (!done) {
    (void)files.remove(temporary);  // else the next opening of the store does it
    return done;
  }
  if (auto synced = files.sync_directory(packs_directory); !synced) return synced;

  const std::lock_guard lock(mutex_);
  looked_at_.insert(name);
  add_pack(*content, false);
  const auto pack = packs_.at(content->id);
  for (const BlockSlots& bad : instead)
    for (std::uint32_t index = 0; index < content->blocks.size(); ++index) {
      const PackBlock& block = content->blocks[index];
      if (content->origins[block.origin] != bad.origin || block.number != bad.number) continue;
      origins_[number_of(bad.origin)].blocks[bad.number] = {pack, index, block.slots};
      bad_.erase({number_of(bad.origin), bad.number});
    }
  return {};
}

}  // namespace stillpoint::node
