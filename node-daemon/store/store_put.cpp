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
  // Written and checked without a lock: it may come from far away, and collections go on meanwhile.
  auto unique = random_id();
  if (!unique) return unique.error();
  const fs::path temporary = packs_directory / (hex(as_text(*unique)) + std::string(kTemporarySuffix));
  auto content = write_checked(temporary, file);
  Status done = content ? adopt_pack(temporary, *content, instead) : Status(content.error());
  if (!done) (void)files.remove(temporary);  // else the next opening of the store does it
  return done;
}

Status StoreState::take_pack(const fs::path& temporary, const std::string& name) {
  auto content = check_pack(temporary);
  if (!content) {
    const Error& error = content.error();
    return Error{is_missing_key(error) ? kind_for_sender(error) : error.kind, "keep a copy", name, error.cause};
  }
  if (pack_name(content->id) != name) return Error{ErrorKind::damaged, "keep a copy", name, "it has another's name"};
  return adopt_pack(temporary, *content, {});
}

Result<PackContent> StoreState::write_checked(const fs::path& temporary, const ReadableFile& file) {
  if (auto written = write_as(files, temporary, file); !written) return written.error();
  auto content = check_pack(temporary);
  return content ? std::move(content) : named(content.error(), "elsewhere");
}

Result<PackContent> StoreState::check_pack(const fs::path& path) {
  auto file = files.open(path);
  if (!file) return file.error();
  auto content = read_pack(**file, keys);
  if (!content) return content;
  if (auto whole = check_blocks(*content, keys, **file); !whole) return whole.error();
  return content;
}

Status StoreState::adopt_pack(const fs::path& temporary, const PackContent& content,
                              const std::vector<BlockSlots>& instead) {
  const std::string name = pack_name(content.id);
  bool was_bad = false;
  {
    const std::lock_guard one(collect_mutex_);  // no collection, and no other copy of the same pack
    if (auto renamed = files.rename(temporary, packs_directory / name); !renamed) return renamed;
    if (auto synced = files.sync_directory(packs_directory); !synced) return synced;
    const std::lock_guard lock(mutex_);
    looked_at_.insert(name);
    left_out_.erase(name);
    // What was there by that name is replaced.
    was_bad = std::erase_if(bad_, [&](const auto& bad) { return bad.first == content.id; }) > 0;
    missing_.erase(content.id);
    add_pack(content, false);
    put_in_place(packs_.at(content.id), instead);
  }
  if (was_bad) store_bad();
  return {};
}

void StoreState::put_in_place(const std::shared_ptr<const PackInfo>& pack, const std::vector<BlockSlots>& instead) {
  const PackContent& content = pack->content;
  std::set<std::pair<Id, std::uint32_t>> replaced;
  for (const BlockSlots& bad : instead)
    for (std::uint32_t index = 0; index < content.blocks.size(); ++index) {
      const PackBlock& block = content.blocks[index];
      if (content.origins[block.origin] != bad.origin || block.number != bad.number) continue;
      if ((bad.slots & ~block.slots) != 0) continue;  // another one of the packs that came has more of it
      origins_[number_of(bad.origin)].blocks[bad.number] = {pack, index, block.slots};
      replaced.emplace(bad.origin, bad.number);
    }
  if (replaced.empty()) return;
  // Where such a block is in several packs, whoever found it damaged may have read any of them.
  for (const auto& entry : packs_) {
    const auto& other = entry.second;
    if (other != pack && std::ranges::any_of(other->content.blocks, [&](const PackBlock& block) {
          return replaced.contains({other->content.origins[block.origin], block.number});
        }))
      mended_.insert(entry.first);
  }
}

}  // namespace stillpoint::node
