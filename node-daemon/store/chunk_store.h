// The chunk store of one host: images as lists of pages, pages once each however many images hold them, compressed and
// sealed in pack files. docs/store-format.md specifies the files:
//
//   DIR/packs/ID.pack                     pages
//   DIR/images/JOB/eEPOCH/guest-G.ram     what an image consists of; without suffix .tmp, it is there whole
//
// A page that is there already, in whatever image of whatever guest, costs a hash; zeros cost nothing. An image lists
// all its pages: no chain is followed to read it. Everything is published by write, fsync, rename, fsync of the
// directory: packs first, then the image that lists them.
//
// One process at a time writes to a store; any number may read it.
// Threads: ChunkStore may be used by any number; calls block. An ingest or a source belongs to one at a time and must
// not outlive its store.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "node-daemon/store/files.h"
#include "node-daemon/store/image_check.h"
#include "node-daemon/store/image_manifest.h"
#include "node-daemon/store/memory_pool.h"
#include "node-daemon/store/site_key.h"
#include "node-daemon/store/unpack_threads.h"

namespace stillpoint::node {

struct ChunkStoreOptions {
  int level = -1;                                    // of zstd; docs/figures.md says why
  std::uint64_t pack_bytes = 128u << 20;             // a pack that has so many is closed and another begun,
  std::uint64_t pack_pages = 128u << 10;             // or so many pages: each takes 16 bytes of memory until then
  std::size_t index_entries = std::size_t{3} << 19;  // see PageIndex
  double compact_below = 0.7;                        // a pack with a smaller share of live pages is written anew
  bool compact = true;                               // collections write packs; without, they only remove them
  bool read_only = false;                            // another host's store
  std::shared_ptr<UnpackThreads> unpack_threads;     // beside those that read memory images; null: none
  std::shared_ptr<MemoryPool> memory;                // for blocks of images that are read; null: a pool of its own
  // Of a store far away: pages that are nearer, for what is written anew. What it does not have is read from the store.
  std::function<Result<std::string>(const BlockSlots&)> pages_at_hand;
};

struct ImageFigures {
  std::uint64_t raw_bytes = 0;
  std::uint64_t pages = 0, zero_pages = 0, known_pages = 0, new_pages = 0;
  std::uint64_t stored_bytes = 0;  // what the new pages take, compressed, and the image's own file
  std::string sha256;              // of the image's own file, which by its seals vouches for all its pages
};

// Takes an image's raw bytes. Nothing is visible before commit(); destroyed without it, nothing is left but pages that
// another image came to share, or that the next collect() takes.
class ImageIngest {
 public:
  virtual ~ImageIngest() = default;
  // An error stays: every later call gives it again.
  virtual Status write(std::string_view raw) = 0;
  // Durable when it returns; once, last.
  virtual Result<ImageFigures> commit() = 0;
};

// Gives an image's raw bytes in order; every page is verified before it is given. A flat image comes back byte for
// byte; a migration stream with its pages in order, each once.
class ImageSource {
 public:
  virtual ~ImageSource() = default;
  virtual Result<std::string> read() = 0;  // empty: the end
};

struct CollectReport {
  std::uint64_t packs_removed = 0, packs_compacted = 0;
  std::uint64_t bytes_before = 0, bytes_after = 0;  // of all packs
  std::vector<Error> problems;                      // packs that had to be left as they are, images not readable
  std::optional<Error> left_off;                    // why packs that have few live pages are still to be written anew
};

struct VerifyReport {
  std::uint64_t packs = 0, images = 0, bytes = 0;
  std::vector<Error> problems;              // empty: all is well
  std::vector<std::string> damaged_images;  // by name: these cannot be restored from here
};

// Of a store that is read only: of the packs that were opened so far.
struct StoreFigures {
  std::uint64_t packs = 0, pack_bytes = 0, pages = 0;
  std::size_t index_bytes = 0;
};

// A pack's file, to be copied; readable even if the store deletes it meanwhile.
struct OpenedPack {
  std::string name;
  std::shared_ptr<const ReadableFile> file;
};

class ChunkStore {
 public:
  virtual ~ChunkStore() = default;
  // Makes the directory if it is not there and removes what an earlier process left half written. Packs that cannot be
  // read are left alone: verify() names them. Another host's store is opened without a look at it: read() opens the
  // packs that it needs, verify() all.
  static Result<std::unique_ptr<ChunkStore>> open(Files& files, const std::filesystem::path& directory, SiteKeys keys,
                                                  const ChunkStoreOptions& options = {});

  // name: "j7/e12/guest-0.ram", plain names between slashes. An image of that name is replaced at commit().
  virtual Result<std::unique_ptr<ImageIngest>> begin(const std::string& name, ImageKind kind) = 0;
  // damaged if the image, or a pack that it needs, is not there or not what was written.
  virtual Result<std::unique_ptr<ImageSource>> read(const std::string& name) = 0;
  // An image, or with a name that ends in '/' all below it. Its pages go at the next collect().
  virtual Status remove(const std::string& name) = 0;
  virtual Result<std::vector<std::string>> images() = 0;

  // Removes packs without a live page and writes those anew that have few. Beside ingests and reads; a crash at any
  // point leaves every image readable. While an image is there that cannot be read, and may be put right, every page
  // is kept that was there when a collection first met it; what came later it cannot need. remove() of it ends that.
  // stop: may be requested from any thread; the collection then ends within a block's time, with an error of kind
  // refused, and nothing is lost but the pack that it was writing.
  virtual Result<CollectReport> collect(std::stop_token stop = {}) = 0;
  // The same, where to write packs anew is a thing for another time: stop_writing ends that alone, and what ends it is
  // no error but in the report.
  virtual Result<CollectReport> collect_giving_way(const std::stop_token& stop,
                                                   const std::stop_token& stop_writing) = 0;
  // Reads and checks every byte of the store. expected: images that must be there.
  virtual Result<VerifyReport> verify(const std::vector<std::string>& expected = {}) = 0;
  // Reads and checks all that one image needs, beside everything else. An error: it is not known whether it is whole;
  // transient when `stop` was requested.
  virtual Result<ImageCheck> verify_image(const std::string& name, const std::stop_token& stop) = 0;
  virtual StoreFigures figures() = 0;

  // For copies in other places (store_copy.h).
  // What packs others have put here, or taken away, since it was opened.
  virtual Status refresh() = 0;
  // The blocks that an image's pages are in, in order.
  virtual Result<std::vector<BlockSlots>> blocks(const std::string& image) = 0;
  // Which pages of a block are here; 0: none.
  virtual std::uint64_t slots(const Id& origin, std::uint32_t block) = 0;
  // The same; 0 if the block is known to be damaged. Of a store in another place: as that one knew at the last
  // refresh().
  virtual std::uint64_t sound_slots(const Id& origin, std::uint32_t block) = 0;
  // The pack that has the block. damaged: there is none.
  virtual Result<OpenedPack> pack(const Id& origin, std::uint32_t block) = 0;
  virtual Result<std::shared_ptr<const ReadableFile>> image_file(const std::string& image) = 0;
  // Pages of a block, one after the other, checked. An error: not all of these slots can be read here.
  virtual Result<std::string> pages(const BlockSlots& block) = 0;
  // A pack's file from elsewhere, every block of it checked; durable when it returns. It becomes the place of blocks
  // that are nowhere, and of those in `instead` whatever was. damaged, and nothing is changed, if it is not whole.
  virtual Status put_pack(const ReadableFile& content, const std::vector<BlockSlots>& instead) = 0;
  // The same of a file that lies in the store already, under a name that ends with kTemporarySuffix; name: the pack's.
  virtual Status take_pack(const std::filesystem::path& temporary, const std::string& name) = 0;
  // To be called when put_pack() has put right what was to be put right. What was whole in the packs whose blocks were
  // replaced is written anew, and those packs go; one with further damage stays. Crash at any point: nothing is lost.
  virtual Status retire_mended() = 0;
  // An image's file from elsewhere; durable when it returns. damaged, and nothing is there, if it is not the file of an
  // image of that name, or a page that it lists is not here, or in a block that is known to be damaged.
  virtual Status put_image(const std::string& image, std::string_view file) = 0;
};

// "j7/e12/guest-0.ram": three plain names.
bool is_image_name(std::string_view name);
// A name that may be a directory's beside others: letters, digits, "-", "_", ".", not first.
bool is_host_directory(std::string_view name);
// ChunkStore::remove() of a store that another process may have open.
Status remove_images(Files& files, const std::filesystem::path& images, const std::string& name);

}  // namespace stillpoint::node
