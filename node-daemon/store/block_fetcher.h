// Blocks of pages out of a store's packs: by who needs them, or by threads ahead of that. Not for use outside.
#pragma once

#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <thread>

#include "node-daemon/store/store_state.h"

namespace stillpoint::node {

struct UnpackedBlock {
  std::uint64_t slots = 0;
  std::string pages;  // of these slots, one after the other
  std::string_view page(std::uint32_t slot) const;
};

// The same for all pages of a block, wherever it lies.
inline std::uint64_t block_key(const PageRef& ref) {
  return (std::uint64_t{ref.origin} << 32) | (ref.page / kPagesPerBlock);
}

// Threads: one at a time.
class BlockFetcher {
 public:
  // The state stays while it is used; image: for what is said of errors.
  BlockFetcher(StoreState& state, std::string image) : state_(state), image_(std::move(image)) {}
  // The block of that page, every page of it checked. damaged: it is not what was written, or StoreState::nowhere().
  Result<UnpackedBlock> fetch(const PageRef& ref);

 private:
  // not_found: the pack has moved.
  Result<std::string> read_there(const BlockPlace& at);
  Error nowhere(const PageRef& ref, std::string cause) const {
    return state_.nowhere(state_.origin_id(ref.origin), "read image", image_, std::move(cause));
  }

  StoreState& state_;
  const std::string image_;
  const std::shared_ptr<ZSTD_DCtx> unpacker_ = make_unpacker();
  std::map<Id, BlockReader> readers_;
};

// Fetches blocks on threads of its own, in the order in which they were asked for.
// Threads: one asks and takes. Destroyed, it waits for the blocks that are being read. Memory: 256 KiB for each block.
class BlocksAhead {
 public:
  // With the idle ones of options.unpack_threads, which is not null; with fewer of them, or none, where the system has
  // no more: then nothing has room.
  BlocksAhead(StoreState& state, const std::string& image);
  BlocksAhead(const BlocksAhead&) = delete;
  BlocksAhead& operator=(const BlocksAhead&) = delete;
  ~BlocksAhead();
  // Asked for and not taken.
  bool is_asked(std::uint64_t key) const;
  bool has_room() const;
  void ask(const PageRef& ref);                   // of a block that is not asked
  Result<UnpackedBlock> take(std::uint64_t key);  // of one that is; waits for it

 private:
  void run(const std::stop_token& stop, BlockFetcher& fetcher);

  const std::shared_ptr<UnpackThreads> threads_of_all_;
  const unsigned taken_;  // of them
  std::size_t most_ = 0;
  mutable std::mutex mutex_;
  std::condition_variable_any changed_;
  std::deque<PageRef> wanted_;
  std::map<std::uint64_t, std::optional<Result<UnpackedBlock>>> asked_;  // by block_key()
  std::deque<BlockFetcher> fetchers_;                                    // one for each thread
  std::vector<std::jthread> threads_;                                    // last: they end before what they use
};

}  // namespace stillpoint::node
