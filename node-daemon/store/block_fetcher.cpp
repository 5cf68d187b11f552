#include "node-daemon/store/block_fetcher.h"

#include <bit>
#include <system_error>

namespace stillpoint::node {
namespace {

constexpr std::size_t kOpenPacks = 32;       // by one fetcher
constexpr std::size_t kBlocksOfAThread = 3;  // asked for ahead: the one that it reads and those that it is to read next

}  // namespace

std::string_view UnpackedBlock::page(std::uint32_t slot) const {
  const std::uint64_t before = slots & ((std::uint64_t{1} << slot) - 1);
  return std::string_view(pages).substr(static_cast<unsigned>(std::popcount(before)) * kPageBytes, kPageBytes);
}

// ---- BlockFetcher

Result<UnpackedBlock> BlockFetcher::fetch(const PageRef& ref) {
  // A collection may move the block between the question where it is and the opening of the file; another host's does
  // so without our knowing.
  for (int attempt = 0; attempt < 3; ++attempt) {
    const BlockPlace at = state_.place(ref);
    if (at.pack) {
      auto pages = read_there(at);
      if (pages) return UnpackedBlock{at.pack->content.blocks[at.index].slots, std::move(*pages)};
      if (pages.error().kind == ErrorKind::damaged) state_.note_bad(at);
      if (pages.error().kind != ErrorKind::not_found)
        return Error{pages.error().kind, "read image", image_, at.pack->path.string() + ": " + pages.error().cause};
      state_.note_missing(at);
      readers_.erase(at.pack->content.id);  // a file that lies elsewhere does not stay because it was opened
    }
    if (!at.pack && !state_.options.read_only) return nowhere(ref, "a page of it is missing");
    if (state_.options.read_only)
      if (auto again = state_.load_packs(); !again) return again.error();
  }
  return nowhere(ref, "a pack that it needs is gone");
}

Result<std::string> BlockFetcher::read_there(const BlockPlace& at) {
  const PackContent& content = at.pack->content;
  auto known = readers_.find(content.id);
  if (known == readers_.end()) {
    auto file = state_.files.open(at.pack->path);
    if (!file) return file.error();
    if (readers_.size() == kOpenPacks) readers_.clear();
    known = readers_.try_emplace(content.id, *file, *state_.keys.find(content.key), content, unpacker_).first;
  }
  return known->second.read(content, content.blocks[at.index], at.index);
}

// ---- BlocksAhead

BlocksAhead::BlocksAhead(StoreState& state, const std::string& image)
    : threads_of_all_(state.options.unpack_threads), taken_(threads_of_all_->take()) {
  try {
    for (unsigned i = 0; i < taken_; ++i) {
      BlockFetcher& fetcher = fetchers_.emplace_back(state, image);
      threads_.emplace_back([this, &fetcher](const std::stop_token& stop) { run(stop, fetcher); });
    }
  } catch (const std::system_error&) {
    // They are but for speed: who reads does it with those that there are, or by itself.
  }
  most_ = threads_.size() * kBlocksOfAThread;
}

BlocksAhead::~BlocksAhead() {
  for (auto& thread : threads_) thread.request_stop();
  threads_.clear();
  threads_of_all_->give(taken_);
}

bool BlocksAhead::is_asked(std::uint64_t key) const {
  const std::lock_guard lock(mutex_);
  return asked_.contains(key);
}

bool BlocksAhead::has_room() const {
  const std::lock_guard lock(mutex_);
  return asked_.size() < most_;
}

void BlocksAhead::ask(const PageRef& ref) {
  const std::lock_guard lock(mutex_);
  if (!asked_.try_emplace(block_key(ref)).second) return;
  wanted_.push_back(ref);
  changed_.notify_all();
}

Result<UnpackedBlock> BlocksAhead::take(std::uint64_t key) {
  std::unique_lock lock(mutex_);
  const auto found = asked_.find(key);
  changed_.wait(lock, [&] { return found->second.has_value(); });
  auto block = std::move(*found->second);
  asked_.erase(found);
  return block;
}

void BlocksAhead::run(const std::stop_token& stop, BlockFetcher& fetcher) {
  std::unique_lock lock(mutex_);
  while (changed_.wait(lock, stop, [this] { return !wanted_.empty(); }) && !stop.stop_requested()) {
    const PageRef ref = wanted_.front();
    wanted_.pop_front();
    lock.unlock();
    auto block = fetcher.fetch(ref);
    lock.lock();
    asked_[block_key(ref)] = std::move(block);
    changed_.notify_all();
  }
}

}  // namespace stillpoint::node
