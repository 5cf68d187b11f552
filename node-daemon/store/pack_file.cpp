#include "node-daemon/store/pack_file.h"

#include <algorithm>
#include <bit>

#include "node-daemon/store/bytes.h"

namespace stillpoint::node {
namespace {

constexpr std::string_view kMagic = "stillpak", kEndMagic = "stillend";
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kHeaderBytes = 40, kTrailerBytes = 24, kBlockEntryBytes = 20, kFingerprintBytes = 16;
constexpr std::uint64_t kIndexNonce = ~std::uint64_t{0};
constexpr std::uint64_t kMaxIndexBytes = std::uint64_t{1} << 30;

Error damaged(std::string cause) { return {ErrorKind::damaged, "read pack", "", std::move(cause)}; }

std::string header_of(const Id& id, std::uint64_t key) {
  std::string header(kMagic);
  put_le(header, kVersion);
  put_le(header, static_cast<std::uint32_t>(kPageBytes));
  put_le(header, key);
  header += as_text(id);
  return header;
}

std::string trailer_of(std::uint64_t index_offset, std::uint64_t index_bytes) {
  std::string trailer;
  put_le(trailer, index_offset);
  put_le(trailer, index_bytes);
  return trailer += kEndMagic;
}

// What a block is sealed with, so that it is of use in its place only.
std::string block_context(const std::string& header, const Id& origin, std::uint32_t number, std::uint64_t slots) {
  std::string context = header + std::string(as_text(origin));
  put_le(context, number);
  put_le(context, slots);
  return context;
}

Id take_id(ByteReader& in) {
  Id id{};
  const std::string_view bytes = in.bytes(id.size());
  std::copy(bytes.begin(), bytes.end(), id.begin());
  return id;
}

}  // namespace

std::string pack_name(const Id& id) { return hex(as_text(id)) + ".pack"; }

std::string encode_pack_index(const PackContent& content) {
  std::string out;
  out.reserve(8 + content.origins.size() * sizeof(Id) + content.blocks.size() * kBlockEntryBytes +
              content.fingerprints.size() * kFingerprintBytes + kTagBytes + kTrailerBytes);
  put_le(out, static_cast<std::uint32_t>(content.origins.size()));
  for (const Id& id : content.origins) out += as_text(id);
  put_le(out, static_cast<std::uint32_t>(content.blocks.size()));
  for (const PackBlock& block : content.blocks) {
    put_le(out, block.origin);
    put_le(out, block.number);
    put_le(out, block.slots);
    put_le(out, block.sealed_bytes);
  }
  for (const Fingerprint& fingerprint : content.fingerprints) {
    put_le(out, fingerprint.high);
    put_le(out, fingerprint.low);
  }
  return out;
}

Result<PackContent> decode_pack_index(std::string_view plain, std::uint64_t end) {
  PackContent content;
  ByteReader in(plain);
  const auto origins = in.number<std::uint32_t>();
  if (origins > in.left() / sizeof(Id)) return damaged("more origins than the index has room for");
  for (std::uint32_t i = 0; i < origins; ++i) content.origins.push_back(take_id(in));
  const auto blocks = in.number<std::uint32_t>();
  if (!in.ok() || blocks > in.left() / kBlockEntryBytes) return damaged("more blocks than the index has room for");
  content.blocks.reserve(blocks);
  std::uint64_t offset = kHeaderBytes, pages = 0;
  for (std::uint32_t i = 0; i < blocks; ++i) {
    PackBlock block;
    block.origin = in.number<std::uint32_t>();
    block.number = in.number<std::uint32_t>();
    block.slots = in.number<std::uint64_t>();
    block.sealed_bytes = in.number<std::uint32_t>();
    block.offset = offset;
    block.first_fingerprint = static_cast<std::uint32_t>(pages);
    offset += block.sealed_bytes;
    pages += static_cast<unsigned>(std::popcount(block.slots));
    if (block.origin >= origins || block.slots == 0 || block.number > kZeroPage.origin / kPagesPerBlock ||
        block.sealed_bytes < kTagBytes || offset > end)
      return damaged("a block that cannot be");
    content.blocks.push_back(block);
  }
  if (offset != end || in.left() != pages * kFingerprintBytes) return damaged("its index does not fit its blocks");
  content.fingerprints.resize(pages);
  for (Fingerprint& fingerprint : content.fingerprints) {
    fingerprint.high = in.number<std::uint64_t>();
    fingerprint.low = in.number<std::uint64_t>();
  }
  return content;
}

PageCompressor::PageCompressor(int level) : context_(ZSTD_createCCtx()) {
  ZSTD_CCtx_setParameter(context_.get(), ZSTD_c_compressionLevel, level);
}

Result<std::span<char>> PageCompressor::compress(std::string_view pages) {
  const std::size_t bound = ZSTD_compressBound(pages.size());
  if (out_.size() < bound + kTagBytes) out_.resize(bound + kTagBytes);
  const std::size_t size = ZSTD_compress2(context_.get(), out_.data(), bound, pages.data(), pages.size());
  if (ZSTD_isError(size)) return Error{ErrorKind::permanent, "compress", "pages", ZSTD_getErrorName(size)};
  return std::span(out_.data(), size);
}

PackWriter::PackWriter(Files& files, std::filesystem::path directory, const SiteKey& key, const Id& id)
    : files_(files),
      directory_(std::move(directory)),
      temporary_(directory_ / (pack_name(id) + std::string(kTemporarySuffix))),
      sealer_(derive(key.key, "pack", as_text(id))),
      header_(header_of(id, key.id)) {
  content_.id = id;
  content_.key = key.id;
}

Result<std::unique_ptr<PackWriter>> PackWriter::create(Files& files, const std::filesystem::path& directory,
                                                       const SiteKey& key) {
  auto id = random_id();
  if (!id) return id.error();
  std::unique_ptr<PackWriter> writer(new PackWriter(files, directory, key, *id));
  auto file = files.create(writer->temporary_);
  if (!file) return file.error();
  writer->file_ = std::move(*file);
  if (auto written = writer->file_->append(writer->header_); !written) return written.error();
  writer->content_.file_bytes = writer->header_.size();
  return writer;
}

PackWriter::~PackWriter() {
  if (!file_) return;
  file_.reset();
  (void)files_.remove(temporary_);
}

Status PackWriter::append(const Id& origin, std::uint32_t number, std::uint64_t slots, std::span<char> compressed,
                          const std::vector<Fingerprint>& fingerprints) {
  PackBlock block;
  const auto known = std::ranges::find(content_.origins, origin);
  block.origin = static_cast<std::uint32_t>(known - content_.origins.begin());
  if (known == content_.origins.end()) content_.origins.push_back(origin);
  block.number = number;
  block.slots = slots;
  block.offset = content_.file_bytes;
  block.first_fingerprint = static_cast<std::uint32_t>(content_.fingerprints.size());
  block.sealed_bytes = static_cast<std::uint32_t>(compressed.size() + kTagBytes);
  const std::string context = block_context(header_, origin, number, slots);
  const std::string_view plain(compressed.data(), compressed.size());
  if (auto done = sealer_.seal_to(content_.blocks.size(), context, plain, compressed.data()); !done) return done;
  if (auto written = file_->append({compressed.data(), block.sealed_bytes}); !written) return written;
  content_.file_bytes += block.sealed_bytes;
  content_.blocks.push_back(block);
  content_.fingerprints.insert(content_.fingerprints.end(), fingerprints.begin(), fingerprints.end());
  pages_ += fingerprints.size();
  return {};
}

Status PackWriter::end() {
  if (ended_) return {};
  std::string index = encode_pack_index(content_);
  std::vector<Fingerprint>().swap(content_.fingerprints);
  const std::size_t plain = index.size();
  const std::string trailer = trailer_of(content_.file_bytes, plain + kTagBytes);
  index.resize(plain + kTagBytes);
  if (auto done =
          sealer_.seal_to(kIndexNonce, header_ + trailer, std::string_view(index).substr(0, plain), index.data());
      !done)
    return done;
  index += trailer;
  if (auto written = file_->append(index); !written) return written;
  content_.file_bytes += index.size();
  ended_ = true;
  return {};
}

Result<PackContent> PackWriter::publish() {
  if (auto ended = end(); !ended) return ended.error();
  if (auto synced = file_->sync(); !synced) return synced.error();
  const std::filesystem::path target = directory_ / pack_name(content_.id);
  if (auto named = files_.rename(temporary_, target); !named) return named.error();
  file_.reset();
  if (auto synced = files_.sync_directory(directory_); !synced) {
    (void)files_.remove(target);
    return synced.error();
  }
  return std::move(content_);
}

namespace {

// None of the keys has the number that the header names. Where one of them opens the index, it is the number that is
// not what was written.
Error not_of_these(std::uint64_t number, const Id& id, const std::string& trailer, const std::string& sealed,
                   const SiteKeys& keys) {
  for (const SiteKey& key : keys.all())
    if (Sealer(derive(key.key, "pack", as_text(id))).open(kIndexNonce, header_of(id, key.id) + trailer, sealed))
      return damaged("its key's id is another one");
  return missing_key(number, keys);
}

}  // namespace

Result<PackContent> read_pack(const ReadableFile& file, const SiteKeys& keys) {
  auto header = file.read(0, kHeaderBytes);
  if (!header) return header.error();
  ByteReader in(*header);
  if (in.bytes(kMagic.size()) != kMagic) return damaged("it does not begin like a pack");
  if (in.number<std::uint32_t>() != kVersion) return damaged("its version is not known here");
  if (in.number<std::uint32_t>() != kPageBytes) return damaged("its pages are of another size");
  const auto number = in.number<std::uint64_t>();
  const Id id = take_id(in);

  if (file.size() < kHeaderBytes + kTrailerBytes) return damaged("it ends too early");
  const std::uint64_t end = file.size() - kTrailerBytes;
  auto trailer = file.read(end, kTrailerBytes);
  if (!trailer) return trailer.error();
  ByteReader last(*trailer);
  const auto offset = last.number<std::uint64_t>(), size = last.number<std::uint64_t>();
  if (last.bytes(kEndMagic.size()) != kEndMagic) return damaged("it does not end like a pack");
  if (size > kMaxIndexBytes || offset < kHeaderBytes || offset > end || end - offset != size)
    return damaged("its index is not where its end says");
  auto sealed = file.read(offset, size);
  if (!sealed) return sealed.error();
  const SiteKey* key = keys.find(number);
  if (key == nullptr) return not_of_these(number, id, *trailer, *sealed, keys);
  auto plain = Sealer(derive(key->key, "pack", as_text(id))).open(kIndexNonce, *header + *trailer, *sealed);
  if (!plain) return damaged("its index is not what was written");
  auto content = decode_pack_index(*plain, offset);
  if (!content) return content;
  content->id = id;
  content->key = key->id;
  content->file_bytes = file.size();
  return content;
}

std::string pages_in(std::string_view pages, std::uint64_t slots, std::uint64_t wanted) {
  std::string found;
  std::size_t position = 0;
  for (; slots != 0; slots &= slots - 1, ++position)
    if ((wanted & slots & -slots) != 0) found += pages.substr(kPageBytes * position, kPageBytes);
  return found;
}

std::shared_ptr<ZSTD_DCtx> make_unpacker() { return {ZSTD_createDCtx(), ZSTD_freeDCtx}; }

BlockReader::BlockReader(std::shared_ptr<const ReadableFile> file, const SiteKey& key, const PackContent& content,
                         std::shared_ptr<ZSTD_DCtx> unpacker)
    : file_(std::move(file)),
      header_(header_of(content.id, content.key)),
      sealer_(derive(key.key, "pack", as_text(content.id))),
      unpacker_(std::move(unpacker)) {}

Result<std::string> BlockReader::read(const PackContent& content, const PackBlock& block, std::uint32_t index) {
  auto sealed = file_->read(block.offset, block.sealed_bytes);
  if (!sealed) return sealed.error();
  const std::string context = block_context(header_, content.origins[block.origin], block.number, block.slots);
  auto compressed = sealer_.open_in_place(index, context, *sealed);
  if (!compressed) return damaged("a block is not what was written");
  std::string pages(static_cast<unsigned>(std::popcount(block.slots)) * kPageBytes, '\0');
  const std::size_t size =
      ZSTD_decompressDCtx(unpacker_.get(), pages.data(), pages.size(), compressed->data(), compressed->size());
  if (ZSTD_isError(size) || size != pages.size()) return damaged("a block does not hold its pages");
  return pages;
}

Status check_blocks(const PackContent& content, const SiteKeys& keys, const ReadableFile& file) {
  // Borrowed for as long as the reader lives.
  const std::shared_ptr<const ReadableFile> borrowed(&file, [](const ReadableFile*) {});
  BlockReader reader(borrowed, *keys.find(content.key), content);
  for (std::uint32_t index = 0; index < content.blocks.size(); ++index)
    if (auto pages = reader.read(content, content.blocks[index], index); !pages) return pages.error();
  return {};
}

}  // namespace stillpoint::node
