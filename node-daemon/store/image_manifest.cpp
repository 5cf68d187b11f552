#include "node-daemon/store/image_manifest.h"

#include <zstd.h>

#include <algorithm>
#include <map>

#include "node-daemon/store/bytes.h"

namespace stillpoint::node {
namespace {

constexpr std::string_view kMagic = "stillimg";
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kHeaderBytes = 8 + 4 + 4 + 8 + 16 + 8 + 8;
constexpr std::size_t kKeyAt = 8 + 4 + 4;  // its id
constexpr std::uint64_t kMaxPlainBytes = 2 * kMaxImageFileBytes;
constexpr std::size_t kMaxNameBytes = 1024, kMaxSpaces = kMaxRamBlocks + 1;
// What a run of pages is: these, or 2 + the number of the origin.
constexpr std::uint64_t kAbsentRun = 0, kZeroRun = 1, kFirstOrigin = 2;

Error damaged(std::string cause) { return {ErrorKind::damaged, "read image", "", std::move(cause)}; }

std::uint64_t zigzag(std::int64_t value) {
  return (static_cast<std::uint64_t>(value) << 1) ^ static_cast<std::uint64_t>(value >> 63);
}
std::int64_t unzigzag(std::uint64_t value) {
  return static_cast<std::int64_t>(value >> 1) ^ -static_cast<std::int64_t>(value & 1);
}

// Whether b goes on where a is.
bool follows(const PageRef& a, const PageRef& b) {
  return a.origin == b.origin && (!is_stored(a) || b.page == a.page + 1);
}

void put_pages(std::string& out, const PageList& list, const OriginNumbers& numbers,
               std::vector<std::uint32_t>& expected) {
  PageList::Cursor pages(list);
  for (std::size_t at = 0; at < list.size();) {
    const PageRef first = pages[at];
    PageRef last = first;
    std::size_t end = at + 1;
    for (; end < list.size() && follows(last, pages[end]); ++end) last = pages[end];
    put_varint(out, end - at);
    if (is_stored(first)) {
      const std::uint32_t origin = numbers ? numbers(first.origin) : first.origin;
      put_varint(out, kFirstOrigin + origin);
      put_varint(out, zigzag(std::int64_t{first.page} - std::int64_t{expected[origin]}));
      expected[origin] = last.page + 1;
    } else {
      put_varint(out, first == kZeroPage ? kZeroRun : kAbsentRun);
    }
    at = end;
  }
}

Status take_pages(ByteReader& in, std::size_t count, PageList& pages, std::vector<std::uint32_t>& expected) {
  while (pages.size() < count) {
    const std::uint64_t run = in.varint(), what = in.varint();
    if (!in.ok() || run == 0 || run > count - pages.size()) return damaged("a run of pages that cannot be");
    if (what < kFirstOrigin) {
      pages.append_row(run, what == kZeroRun ? kZeroPage : kAbsentPage);
      continue;
    }
    const std::uint64_t origin = what - kFirstOrigin;
    if (origin >= expected.size()) return damaged("a page of an origin that is not listed");
    const std::int64_t step = unzigzag(in.varint());
    if (step < -std::int64_t{0xffffffff} || step > std::int64_t{0xffffffff}) return damaged("a page that cannot be");
    const std::int64_t first = std::int64_t{expected[origin]} + step;
    const std::int64_t end = first + static_cast<std::int64_t>(run);
    if (!in.ok() || first < 0 || end > 0xffffffff) return damaged("a page that cannot be");
    pages.append_row(run, {static_cast<std::uint32_t>(origin), static_cast<std::uint32_t>(first)});
    expected[origin] = static_cast<std::uint32_t>(end);
  }
  return {};
}

void put_shape(std::string& out, const StreamShape& shape) {
  put_le(out, shape.raw_bytes);
  put_le(out, shape.head_bytes);
  put_le(out, static_cast<std::uint8_t>((shape.has_pages ? 1 : 0) | (shape.footer ? 2 : 0)));
  put_le(out, shape.section_type);
  put_le(out, shape.section_id);
}

StreamShape take_shape(ByteReader& in) {
  StreamShape shape;
  shape.raw_bytes = in.number<std::uint64_t>();
  shape.head_bytes = in.number<std::uint64_t>();
  const auto flags = in.number<std::uint8_t>();
  shape.has_pages = (flags & 1) != 0;
  shape.footer = (flags & 2) != 0;
  shape.section_type = in.number<std::uint8_t>();
  shape.section_id = in.number<std::uint32_t>();
  return shape;
}

std::string header_of(const Id& id, std::uint64_t key, std::uint64_t plain, std::uint64_t sealed) {
  std::string header(kMagic);
  put_le(header, kVersion);
  put_le(header, std::uint32_t{0});
  put_le(header, key);
  header += as_text(id);
  put_le(header, plain);
  put_le(header, sealed);
  return header;
}

}  // namespace

std::string encode_manifest(const ImageManifest& manifest) { return encode_manifest(manifest, manifest.spaces, {}); }

std::string encode_manifest(const ImageManifest& manifest, const std::vector<Space>& spaces,
                            const OriginNumbers& numbers) {
  std::string out;
  put_text(out, manifest.name);
  put_le(out, static_cast<std::uint8_t>(manifest.kind));
  put_le(out, manifest.stored_bytes);
  put_shape(out, manifest.shape);
  put_varint(out, manifest.origins.size());
  for (const Id& id : manifest.origins) out += as_text(id);
  put_varint(out, spaces.size());
  std::vector<std::uint32_t> expected(manifest.origins.size(), 0);
  for (const Space& space : spaces) {
    put_text(out, space.name);
    put_varint(out, space.bytes);
    put_pages(out, space.pages, numbers, expected);
  }
  return out;
}

Result<ImageManifest> decode_manifest(std::string_view plain, std::uint64_t max_pages) {
  ByteReader in(plain);
  ImageManifest manifest;
  manifest.name = in.text();
  const auto kind = in.number<std::uint8_t>();
  manifest.stored_bytes = in.number<std::uint64_t>();
  manifest.shape = take_shape(in);
  const std::uint64_t origins = in.varint();
  if (!in.ok() || manifest.name.size() > kMaxNameBytes || kind > 1 || origins > in.left() / sizeof(Id))
    return damaged("its head does not fit together");
  manifest.kind = static_cast<ImageKind>(kind);
  for (std::uint64_t i = 0; i < origins; ++i) {
    const std::string_view bytes = in.bytes(sizeof(Id));
    std::copy(bytes.begin(), bytes.end(), manifest.origins.emplace_back().begin());
  }
  const std::uint64_t spaces = in.varint();
  if (!in.ok() || spaces > kMaxSpaces) return damaged("its number of spaces cannot be");
  std::vector<std::uint32_t> expected(manifest.origins.size(), 0);
  for (std::uint64_t i = 0; i < spaces; ++i) {
    Space space;
    space.name = in.text();
    space.bytes = in.varint();
    const std::uint64_t pages = space.bytes / kPageBytes + (space.bytes % kPageBytes == 0 ? 0 : 1);
    if (!in.ok() || space.name.size() > 255 || pages > max_pages) return damaged("a space that cannot be");
    max_pages -= pages;
    if (auto taken = take_pages(in, pages, space.pages, expected); !taken) return taken.error();
    manifest.spaces.push_back(std::move(space));
  }
  if (!in.at_end()) return damaged("it goes on after its end");
  const bool others = manifest.kind == ImageKind::memory
                          ? spaces > 0 && manifest.shape.head_bytes <= manifest.spaces.back().bytes
                          : spaces == 1 && manifest.shape.raw_bytes == manifest.spaces[0].bytes;
  if (!others) return damaged("its spaces do not fit its kind");
  return manifest;
}

Result<std::string> seal_manifest(const ImageManifest& manifest, const SiteKey& key) {
  return seal_manifest(manifest, manifest.spaces, {}, key);
}

Result<std::string> seal_manifest(const ImageManifest& manifest, const std::vector<Space>& spaces,
                                  const OriginNumbers& numbers, const SiteKey& key) {
  const Error too_large{ErrorKind::permanent, "write image", manifest.name,
                        "the list of its pages is longer than " + std::to_string(kMaxImageFileBytes >> 20) +
                            " MiB: the machine has more memory than this version can store"};
  const std::string plain = encode_manifest(manifest, spaces, numbers);
  if (plain.size() > kMaxPlainBytes) return too_large;
  // Compressed and sealed where it is to lie: of many pages the list is long.
  std::string file(kHeaderBytes + ZSTD_compressBound(plain.size()) + kTagBytes, '\0');
  char* const body = file.data() + kHeaderBytes;
  const std::size_t size = ZSTD_compress(body, file.size() - kHeaderBytes - kTagBytes, plain.data(), plain.size(), 1);
  if (ZSTD_isError(size)) return Error{ErrorKind::permanent, "compress", manifest.name, ZSTD_getErrorName(size)};
  auto id = random_id();
  if (!id) return id.error();
  if (kHeaderBytes + size + kTagBytes > kMaxImageFileBytes) return too_large;
  const std::string header = header_of(*id, key.id, plain.size(), size + kTagBytes);
  std::ranges::copy(header, file.begin());
  if (auto done = Sealer(derive(key.key, "image", as_text(*id))).seal_to(0, header, {body, size}, body); !done)
    return done.error();
  file.resize(kHeaderBytes + size + kTagBytes);
  return file;
}

namespace {

// None of the keys has that number. Where one of them opens the file, it is the number that is not what was written.
Error not_of_these(std::uint64_t number, std::string_view header, std::string_view sealed, const SiteKeys& keys) {
  for (const SiteKey& key : keys.all()) {
    std::string written(header.substr(0, kKeyAt));
    put_le(written, key.id);
    written += header.substr(written.size());
    const std::string_view id = header.substr(kKeyAt + sizeof key.id, sizeof(Id));
    if (Sealer(derive(key.key, "image", id)).open(0, written, sealed)) return damaged("its key's id is another one");
  }
  return missing_key(number, keys);
}

}  // namespace

Result<ImageManifest> open_manifest(std::string_view file, const SiteKeys& keys) {
  if (file.size() < kHeaderBytes) return damaged("it ends too early");
  const std::string_view header = file.substr(0, kHeaderBytes);
  ByteReader in(header);
  if (in.bytes(kMagic.size()) != kMagic) return damaged("it does not begin like an image");
  if (in.number<std::uint32_t>() != kVersion) return damaged("its version is not known here");
  if (in.number<std::uint32_t>() != 0) return damaged("a field of its head is not zero");
  const auto number = in.number<std::uint64_t>();
  const std::string_view id = in.bytes(sizeof(Id));
  const auto plain_bytes = in.number<std::uint64_t>(), sealed_bytes = in.number<std::uint64_t>();
  if (plain_bytes > kMaxPlainBytes || sealed_bytes != file.size() - kHeaderBytes)
    return damaged("its length is not the one that its head says");
  const SiteKey* key = keys.find(number);
  if (key == nullptr) return not_of_these(number, header, file.substr(kHeaderBytes), keys);
  std::string plain(plain_bytes, '\0');
  {
    auto compressed = Sealer(derive(key->key, "image", id)).open(0, header, file.substr(kHeaderBytes));
    if (!compressed) return damaged("it is not what was written");
    const std::size_t size = ZSTD_decompress(plain.data(), plain.size(), compressed->data(), compressed->size());
    if (ZSTD_isError(size) || size != plain.size()) return damaged("it does not unpack");
  }
  return decode_manifest(plain);
}

std::vector<BlockSlots> blocks_of(const ImageManifest& manifest) {
  std::map<std::pair<std::uint32_t, std::uint32_t>, std::uint64_t> found;
  for (const Space& space : manifest.spaces)
    for (const PageRef ref : space.pages)
      if (is_stored(ref))
        found[{ref.origin, ref.page / kPagesPerBlock}] |= std::uint64_t{1} << (ref.page % kPagesPerBlock);
  std::vector<BlockSlots> blocks;
  blocks.reserve(found.size());
  for (const auto& [place, slots] : found) blocks.push_back({manifest.origins[place.first], place.second, slots});
  return blocks;
}

}  // namespace stillpoint::node
