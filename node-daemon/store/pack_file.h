// Pack files: blocks of pages, compressed and sealed, and at the end an index of them. Written once, from front to
// back, and never changed. docs/store-format.md has the layout.
//
// A block holds some of the pages of one block of an origin: the pack that these pages were first written into. A pack
// that a checkpoint writes is the origin of all its blocks; one that compaction writes takes those of many. So pages
// keep their place (origin, number) for ever, and no image has to be changed when they move.
//
// Threads: an object belongs to one at a time.
#pragma once

#include <zstd.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "node-daemon/store/files.h"
#include "node-daemon/store/page_index.h"
#include "node-daemon/store/ram_stream.h"
#include "node-daemon/store/seal.h"
#include "node-daemon/store/site_key.h"

namespace stillpoint::node {

struct PackBlock {
  std::uint32_t origin = 0;  // index in PackContent::origins
  std::uint32_t number = 0;  // of the block in its origin
  std::uint64_t slots = 0;   // which of its pages are here
  std::uint64_t offset = 0;
  std::uint32_t sealed_bytes = 0;
  std::uint32_t first_fingerprint = 0;
  bool operator==(const PackBlock&) const = default;
};

struct PackContent {
  Id id{};  // its own
  std::uint64_t key = 0;
  std::vector<Id> origins;
  std::vector<PackBlock> blocks;          // in the order in which they lie in the file
  std::vector<Fingerprint> fingerprints;  // of all pages, in that order; not in what PackWriter gives
  std::uint64_t file_bytes = 0;
};

// The index of a pack, opened. end: where the blocks end. damaged when anything in it does not fit.
std::string encode_pack_index(const PackContent& content);
Result<PackContent> decode_pack_index(std::string_view plain, std::uint64_t end);

// Pages of a block, one after the other, compressed. One context per thread.
class PageCompressor {
 public:
  explicit PageCompressor(int level);
  // Valid until the next call; with room for a seal's tag behind it.
  Result<std::span<char>> compress(std::string_view pages);

 private:
  struct Free {
    void operator()(ZSTD_CCtx* context) const { ZSTD_freeCCtx(context); }
  };
  std::unique_ptr<ZSTD_CCtx, Free> context_;
  std::string out_;
};

// Writes a pack under a temporary name; publish() gives it its own. Destroyed without that, nothing is left.
class PackWriter {
 public:
  static Result<std::unique_ptr<PackWriter>> create(Files& files, const std::filesystem::path& directory,
                                                    const SiteKey& key);
  ~PackWriter();
  const Id& id() const { return content_.id; }
  std::uint64_t bytes() const { return content_.file_bytes; }
  std::uint64_t pages() const { return pages_; }
  // compressed: PageCompressor's, which is sealed where it lies. fingerprints: one for each slot.
  Status append(const Id& origin, std::uint32_t number, std::uint64_t slots, std::span<char> compressed,
                const std::vector<Fingerprint>& fingerprints);
  // Nothing is appended from now on. Frees what was kept of each page; publish() does it where it was not done. After
  // an error nothing can be published.
  Status end();
  // Durable when it returns; once, last. Without fingerprints.
  Result<PackContent> publish();

 private:
  PackWriter(Files& files, std::filesystem::path directory, const SiteKey& key, const Id& id);
  Files& files_;
  const std::filesystem::path directory_, temporary_;
  Sealer sealer_;
  const std::string header_;
  PackContent content_;
  std::uint64_t pages_ = 0;
  bool ended_ = false;
  std::unique_ptr<WritableFile> file_;
};

std::string pack_name(const Id& id);  // "<id>.pack"

// Reads a pack's index: every byte of the file that is not in a block is checked.
Result<PackContent> read_pack(const ReadableFile& file, const SiteKeys& keys);

// Reads every block of it: damaged if one is not what was written.
Status check_blocks(const PackContent& content, const SiteKeys& keys, const ReadableFile& file);

// Of the pages of a block that are in `slots`, those of `wanted`, a part of them.
std::string pages_in(std::string_view pages, std::uint64_t slots, std::uint64_t wanted);

// What blocks are unpacked with, some 160 KB.
std::shared_ptr<ZSTD_DCtx> make_unpacker();

// Reads blocks of one pack.
class BlockReader {
 public:
  // unpacker: may serve any number of readers, one at a time.
  BlockReader(std::shared_ptr<const ReadableFile> file, const SiteKey& key, const PackContent& content,
              std::shared_ptr<ZSTD_DCtx> unpacker = make_unpacker());
  // The block's pages one after the other, checked.
  Result<std::string> read(const PackContent& content, const PackBlock& block, std::uint32_t index);

 private:
  const std::shared_ptr<const ReadableFile> file_;
  const std::string header_;
  Sealer sealer_;
  const std::shared_ptr<ZSTD_DCtx> unpacker_;
};

}  // namespace stillpoint::node
