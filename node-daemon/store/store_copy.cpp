#include "node-daemon/store/store_copy.h"

#include <map>

namespace stillpoint::node {
namespace {

constexpr int kAttempts = 3;

// By name, opened: they are there to the end of the copy.
Result<std::map<std::string, std::shared_ptr<const ReadableFile>>> packs_lacking(ChunkStore& from,
                                                                                 const std::string& image,
                                                                                 ChunkStore& there) {
  auto blocks = from.blocks(image);
  if (!blocks) return blocks.error();
  std::map<std::string, std::shared_ptr<const ReadableFile>> packs;
  for (const BlockSlots& block : *blocks) {
    if ((block.slots & ~there.sound_slots(block.origin, block.number)) == 0) continue;
    auto pack = from.pack(block.origin, block.number);
    if (!pack) return pack.error();
    packs.try_emplace(std::move(pack->name), std::move(pack->file));
  }
  return packs;
}

Status copy_once(ChunkStore& from, const std::string& image, ChunkStore& there, BlobStore& to,
                 const std::string& directory, const std::stop_token& stop, Copied& copied) {
  if (auto known = there.refresh(); !known) return known;
  auto packs = packs_lacking(from, image, there);
  if (!packs) return packs.error();
  for (const auto& [name, file] : *packs) {
    if (auto put = to.put(directory + "/packs/" + name, *file, stop); !put) return put;
    ++copied.packs;
    copied.bytes += file->size();
  }
  auto file = from.image_file(image);
  if (!file) return file.error();
  if (auto put = to.put(directory + "/images/" + image, **file, stop); !put) return put;
  copied.bytes += (*file)->size();
  // Somebody may have freed there, meanwhile, what no image had listed yet.
  if (auto known = there.refresh(); !known) return known;
  auto still = packs_lacking(from, image, there);
  if (!still) return still.error();
  if (!still->empty())
    return Error{ErrorKind::damaged, "copy image", image, "pages of it have gone from " + to.where()};
  return {};
}

}  // namespace

Result<Copied> copy_image(ChunkStore& from, const std::string& image, ChunkStore& there, BlobStore& to,
                          const std::string& directory, const std::stop_token& stop) {
  Copied copied;
  for (int attempt = 1;; ++attempt) {
    const Status done = copy_once(from, image, there, to, directory, stop, copied);
    if (done) return copied;
    // A place that looks for itself says so when pages are not there, or no longer.
    if (done.error().kind != ErrorKind::damaged || attempt == kAttempts) return done.error();
  }
}

}  // namespace stillpoint::node
