// What an image consists of: for every page its place in the store. Complete in itself: no other image is needed to
// read it. docs/store-format.md has the layout. Values; any thread.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "node-daemon/store/image_check.h"
#include "node-daemon/store/page_list.h"
#include "node-daemon/store/ram_stream.h"
#include "node-daemon/store/seal.h"
#include "node-daemon/store/site_key.h"

namespace stillpoint::node {

enum class ImageKind : std::uint8_t {
  flat = 0,    // bytes as they are: one space
  memory = 1,  // a migration stream: a space for each RAM block, then one for its other bytes
};

// Bytes that are addressed by page: a RAM block, a disk. PageRef::origin counts in ImageManifest::origins.
struct Space {
  std::string name;
  std::uint64_t bytes = 0;  // the last page may go beyond them: with zeros
  PageList pages;
};

struct ImageManifest {
  std::string name;  // where it lies below the images, so that no image can stand in for another
  ImageKind kind = ImageKind::flat;
  std::uint64_t stored_bytes = 0;  // what it added to the store when it was taken
  StreamShape shape;               // raw_bytes counts for both kinds
  std::vector<Id> origins;
  std::vector<Space> spaces;
};

// The blocks that its pages are in, in order.
std::vector<BlockSlots> blocks_of(const ImageManifest& manifest);

// What the origins of `spaces` are in the manifest's list of them; null: they are that.
using OriginNumbers = std::function<std::uint32_t(std::uint32_t)>;
// spaces: in the place of the manifest's own, which are left out of account; so that no copy need be made of long
// lists.
std::string encode_manifest(const ImageManifest& manifest, const std::vector<Space>& spaces,
                            const OriginNumbers& numbers);
std::string encode_manifest(const ImageManifest& manifest);
// max_pages: an image of more is refused before anything is allocated for it.
Result<ImageManifest> decode_manifest(std::string_view plain, std::uint64_t max_pages = std::uint64_t{1} << 28);

// Longer files are neither written nor read: they are in memory as a whole, on every side. Enough for 32 GiB of which
// no page lies beside another one, and for a multiple of that as memory is.
inline constexpr std::uint64_t kMaxImageFileBytes = 64u << 20;

// The file's content: header, then the manifest compressed and sealed. Every bit of it is checked.
Result<std::string> seal_manifest(const ImageManifest& manifest, const std::vector<Space>& spaces,
                                  const OriginNumbers& numbers, const SiteKey& key);
Result<std::string> seal_manifest(const ImageManifest& manifest, const SiteKey& key);
// damaged, or missing_key().
Result<ImageManifest> open_manifest(std::string_view file, const SiteKeys& keys);

}  // namespace stillpoint::node
