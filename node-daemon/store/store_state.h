// What the parts of the chunk store share: packs, where blocks lie, the pack being filled. Not for use outside.
//
// Threads: everything below is guarded by mutex, but what says otherwise. No file is read or written under it, except
// that a pack's file is created.
#pragma once

#include <condition_variable>
#include <functional>
#include <list>
#include <map>
#include <mutex>
#include <optional>
#include <set>

#include "node-daemon/store/bad_blocks.h"
#include "node-daemon/store/chunk_store.h"
#include "node-daemon/store/pack_file.h"

namespace stillpoint::node {

// A pack file that is there. Never changes; without the fingerprints.
struct PackInfo {
  PackContent content;
  std::filesystem::path path;
  std::uint64_t pages = 0;
};

// Where the pages of a block lie now, and which of them are to be had. A bit goes when garbage collection has found the
// page dead, and never comes back: who has the same content again stores it anew.
struct BlockPlace {
  std::shared_ptr<const PackInfo> pack;  // null: nowhere
  std::uint32_t index = 0;               // in pack->content.blocks
  std::uint64_t slots = 0;
};

struct OpenPack {
  std::uint32_t origin = 0;
  std::unique_ptr<PackWriter> writer;  // guarded by io; given up when finished or failed
  std::mutex io;                       // taken without the state's mutex, or after it
  std::uint64_t bytes = 0;             // written or about to be
  unsigned users = 0;                  // ingests that need it
  unsigned in_flight = 0;              // full blocks that their ingests compress or write
  bool full = false;                   // nobody puts a page into it any more
  bool sealing = false, done = false;  // done: published, or failed
  std::optional<Error> failed;
  // The block being filled.
  std::uint32_t number = 0;
  std::string pages;
  std::vector<Fingerprint> fingerprints;
};

struct Origin {
  Id id{};
  std::shared_ptr<OpenPack> open;  // until it is published; stays if it failed
  std::vector<BlockPlace> blocks;
};

// An ingest or a source: what it refers to is alive whether or not an image lists it.
struct Holder {
  std::vector<Space> spaces;                  // changed and read under the mutex; PageRef::origin is the state's
  std::set<std::shared_ptr<OpenPack>> packs;  // the owner's alone
  std::uint64_t stored_bytes = 0;             // the owner's alone
};

class StoreState {
 public:
  StoreState(Files& store_files, std::filesystem::path directory, SiteKeys site_keys, const ChunkStoreOptions& opts)
      : files(store_files),
        packs_directory(directory / "packs"),
        images_directory(directory / "images"),
        keys(std::move(site_keys)),
        options(opts),
        memory(opts.memory ? opts.memory : std::make_shared<MemoryPool>(kImageMemoryBytes)),
        index_(opts.index_entries) {}

  Status load();
  // What is known of packs becomes what is in the directory. Of another host's store: again when a pack has moved.
  Status load_packs();
  // The same of what is there at this moment, beside others that put packs there.
  Status refresh_packs();
  // Of another host's store: packs that the image's pages were first written into, which is most often where they are;
  // all packs only if some page is not there.
  Status load_packs_for(const ImageManifest& manifest);

  // Of ChunkStore.
  Status put_pack(const ReadableFile& file, const std::vector<BlockSlots>& instead);
  Status take_pack(const std::filesystem::path& temporary, const std::string& name);
  void place_around_bad();
  std::uint64_t sound_slots(const Id& origin, std::uint32_t block);

  // A block of a pack was found damaged: it is the place of no page that is anywhere else, and no new image relies on
  // it, also in the next process (store_bad.cpp).
  void note_bad(const BlockPlace& at);
  // The file of that pack was not there when it was to be opened. Unless a collection had moved what is in it: no new
  // image relies on the pack, until its file is there again. Nothing is known of it in the next process anyway.
  void note_missing(const BlockPlace& at);
  // Packs with damaged blocks in whose place others came: what is whole in them is written anew, and they go.
  Status retire_mended();

  std::shared_ptr<Holder> hold();
  void release(const std::shared_ptr<Holder>& holder);

  // Before the last space, if there is one.
  void add_spaces(Holder& holder, std::vector<Space> spaces);
  void end_spaces(Holder& holder, std::uint64_t bytes);  // of the last one
  // Puts the page's place into the list, one of the holder's: where it is already or in the pack being filled.
  Status put_page(Holder& holder, PageList& list, std::size_t at, const Fingerprint& fingerprint, std::string_view page,
                  bool& is_new, PageCompressor& compressor);
  void put_unstored(PageList& list, std::size_t at, PageRef what);
  // All packs that the holder put pages into are durable when it returns.
  Status seal_packs(Holder& holder, PageCompressor& compressor);

  std::optional<std::uint32_t> origin_number(const Id& id);
  Id origin_id(std::uint32_t number);
  // Of the block that a page is in; no pack if the page is not to be had.
  BlockPlace place(const PageRef& ref);
  BlockPlace place_of(const Id& origin, std::uint32_t block);  // by the block
  // Why pages of that origin are nowhere: damaged; transient where they may be in a pack whose key is not known here.
  Error nowhere(const Id& origin, std::string step, std::string object, std::string cause);

  Result<std::string> read_image_file(const std::string& name);
  Result<ImageManifest> read_manifest(const std::string& name);
  Result<std::vector<std::string>> image_names();

  Result<CollectReport> collect(const std::stop_token& stop, const std::stop_token& stop_writing);
  // What was known of an image of that name is so no more.
  void image_replaced(const std::string& name);
  Result<VerifyReport> verify(const std::vector<std::string>& expected);
  StoreFigures figures();

  Files& files;
  const std::filesystem::path packs_directory, images_directory;
  const SiteKeys keys;
  const ChunkStoreOptions options;
  const std::shared_ptr<MemoryPool> memory;

 private:
  using Live = std::vector<std::vector<std::uint64_t>>;  // by origin, by block: slots

  bool let_go(const std::shared_ptr<Holder>& holder);  // whether it was the last one
  Result<PackContent> check_pack(const std::filesystem::path& path);
  Result<PackContent> write_checked(const std::filesystem::path& temporary, const ReadableFile& file);
  Status adopt_pack(const std::filesystem::path& temporary, const PackContent& content,
                    const std::vector<BlockSlots>& instead);
  void put_in_place(const std::shared_ptr<const PackInfo>& pack, const std::vector<BlockSlots>& instead);
  std::uint32_t number_of(const Id& id);
  // replace: this is where its blocks are from now on, even if they are elsewhere too.
  void add_pack(const PackContent& content, bool replace);
  void place_blocks(const std::shared_ptr<const PackInfo>& pack, bool replace);
  // store_bad.cpp
  bool is_bad(const BlockPlace& at) const;
  void load_bad();
  Status look_at_bad_there();  // of a store that is read only
  void store_bad();            // without the mutex
  void forget_bad_of_gone_packs();
  void look_for_missing();  // without the mutex
  std::optional<Error> bad_file_problem();
  // Parts of load_packs(), under collect_mutex_. The first two: whether anything was new, or gone. names: in order.
  Result<bool> take_up(const std::vector<std::string>& names);
  bool forget_packs_but(const std::vector<std::string>& names);
  // A pack that is damaged, gone since, or of a key that is not here, is left out. An error: it could not be read,
  // which says nothing of it.
  Status take_up_pack(const std::string& name);
  bool has_pages_of(const ImageManifest& manifest);
  void index_pages(const PackContent& content);
  const OpenPack* unpublished(std::uint32_t origin) const { return origins_[origin].open.get(); }
  bool usable(const PageRef& ref) const;
  bool is_in_bad_block(const PageRef& ref) const;  // of one that is usable
  Status open_pack();
  Status write_block(OpenPack& pack, std::uint32_t number, const std::string& pages,
                     const std::vector<Fingerprint>& fingerprints, PageCompressor& compressor, std::uint64_t& written);
  Status end_pack(OpenPack& pack);
  Status seal(const std::shared_ptr<OpenPack>& pack, Holder& holder, PageCompressor& compressor);
  void fail(OpenPack& pack, const Error& error);

  // What is wrong with an image, if something is; an error of kind not_found if there is no such image.
  std::optional<Error> image_problem(const std::string& name, const std::function<bool(const BlockPlace&)>& is_bad);

  void mark(Live& live, const PageRef& ref) const;
  void mark(Live& live, const std::vector<Space>& spaces) const;
  Result<Live> live_by_images(const std::stop_token& stop, CollectReport& report);
  Status remove_empty_directories();
  void note_unreadable(const std::set<std::string>& names);
  struct Victims {
    std::vector<std::shared_ptr<const PackInfo>> dead, sparse;
  };
  bool has_live_pages(const PackInfo& pack, const Live& live) const;
  Victims choose_victims(Live& live);
  std::vector<std::shared_ptr<const PackInfo>> without_places(std::vector<std::shared_ptr<const PackInfo>>& packs);
  // Packs that were to be written anew and are not: what they hold is there as before.
  void take_back(const std::vector<std::shared_ptr<const PackInfo>>& sparse,
                 const std::vector<std::shared_ptr<const PackInfo>>& replaced);
  // Those whose index is damaged, once every page of every image is known to be elsewhere.
  Status remove_unreadable_packs(CollectReport& report);
  Status remove_packs(const std::vector<std::shared_ptr<const PackInfo>>& gone, CollectReport& report);
  Status compact(const std::vector<std::shared_ptr<const PackInfo>>& sparse, const std::stop_token& stop,
                 CollectReport& report, std::vector<std::shared_ptr<const PackInfo>>& replaced);
  Status copy_live(const PackInfo& pack, const std::stop_token& stop, PackWriter& writer, PageCompressor& compressor);
  // Of the pack's block with that index. reader: of the pack, made when it is needed.
  Result<std::string> live_pages(const PackInfo& pack, std::uint32_t index, std::uint64_t slots,
                                 std::optional<BlockReader>& reader);

  std::mutex mutex_;
  std::condition_variable changed_;
  PageIndex index_;
  std::vector<Origin> origins_;
  std::map<Id, std::uint32_t> origin_numbers_;
  std::map<Id, std::shared_ptr<const PackInfo>> packs_;
  std::set<std::string> looked_at_;  // guarded by collect_mutex_: names of packs, also of those that cannot be read
  std::map<std::string, Error> left_out_;  // of these: the damaged ones, and those whose key is not here
  BadBlocks bad_;
  std::set<Id> missing_;  // packs that are known, and whose files were not there
  std::set<Id> mended_;   // packs that retire_mended() or the next collection takes
  std::shared_ptr<OpenPack> open_;
  std::list<std::shared_ptr<Holder>> holders_;

  std::mutex bad_file_mutex_;  // one writes it at a time; taken before mutex_
  std::mutex collect_mutex_;   // one collection, verification or look at all packs at a time; taken before mutex_
  bool collecting_ = false;
  bool lacks_nothing_ = false;  // guarded by collect_mutex_: every page of every image was in a pack that can be read
  // Images that could not be read when they were last looked at. How many origins there were at the first time: what
  // the image lists was there before it was, so it needs none that came after.
  std::map<std::string, std::size_t> unreadable_;
  std::list<std::shared_ptr<Holder>> left_while_collecting_;
};

// ChunkStore::verify_image(). Blocks; any thread.
Result<ImageCheck> verify_image(StoreState& state, const std::string& name, const std::stop_token& stop);

}  // namespace stillpoint::node
