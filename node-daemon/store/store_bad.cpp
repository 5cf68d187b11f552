// What is known to be damaged: kept in a file, so that a process that comes after this one need not meet it again.
#include <algorithm>

#include "node-daemon/store/store_state.h"

namespace stillpoint::node {
namespace {

std::filesystem::path bad_file(const StoreState& state) { return state.packs_directory.parent_path() / "bad-blocks"; }

}  // namespace

bool StoreState::is_bad(const BlockPlace& at) const {
  if ((bad_.empty() && missing_.empty()) || !at.pack) return false;
  const Id& id = at.pack->content.id;
  return missing_.contains(id) || bad_.contains({id, at.index});
}

// Of a block that lies in several packs another one serves.
void StoreState::place_around_bad() {
  const std::lock_guard lock(mutex_);
  if (bad_.empty() && missing_.empty()) return;
  for (const auto& entry : packs_) place_blocks(entry.second, false);
}

std::uint64_t StoreState::sound_slots(const Id& origin, std::uint32_t block) {
  const BlockPlace at = place_of(origin, block);
  const std::lock_guard lock(mutex_);
  return is_bad(at) ? 0 : at.slots;
}

void StoreState::note_bad(const BlockPlace& at) {
  {
    const std::lock_guard lock(mutex_);
    if (!bad_.emplace(at.pack->content.id, at.index).second) return;
  }
  store_bad();
}

void StoreState::note_missing(const BlockPlace& at) {
  if (options.read_only) return;
  {
    const std::lock_guard lock(mutex_);
    const Id& id = at.pack->content.id;
    // A collection forgets a pack before it removes the file.
    if (const auto known = packs_.find(id); known == packs_.end() || known->second != at.pack) return;
    if (!missing_.insert(id).second) return;
  }
  look_for_missing();  // it may have been put here again meanwhile
}

void StoreState::look_for_missing() {
  std::set<Id> missing;
  {
    const std::lock_guard lock(mutex_);
    std::erase_if(missing_, [this](const Id& id) { return !packs_.contains(id); });
    missing = missing_;
  }
  std::erase_if(missing, [this](const Id& id) { return !files.open(packs_directory / pack_name(id)); });
  const std::lock_guard lock(mutex_);
  for (const Id& id : missing) missing_.erase(id);
}

// What cannot be written is known to this process all the same.
void StoreState::store_bad() {
  if (options.read_only) return;
  const std::lock_guard one(bad_file_mutex_);
  std::string file;
  {
    const std::lock_guard lock(mutex_);
    if (!bad_.empty()) file = encode_bad_blocks(bad_);
  }
  if (!file.empty()) {
    (void)publish(files, bad_file(*this), file);
    return;
  }
  if (files.remove(bad_file(*this))) (void)files.sync_directory(bad_file(*this).parent_path());
}

// One that is damaged itself says nothing; verify() names it.
void StoreState::load_bad() {
  auto file = files.open(bad_file(*this));
  if (!file || (*file)->size() > kMaxBadBlocksFile) return;
  auto bytes = (*file)->read(0, (*file)->size());
  auto blocks = bytes ? decode_bad_blocks(*bytes) : bytes.error();
  if (!blocks) return;
  const std::lock_guard lock(mutex_);
  bad_ = std::move(*blocks);
}

// Others note there what they find. A place that does not show that file, or a damaged one, says nothing.
Status StoreState::look_at_bad_there() {
  auto file = files.open(bad_file(*this));
  Result<std::string> bytes = file ? (*file)->read(0, std::min<std::uint64_t>((*file)->size(), kMaxBadBlocksFile))
                                   : Result<std::string>(file.error());
  if (!bytes && bytes.error().kind == ErrorKind::transient) return bytes.error();
  auto blocks = bytes ? decode_bad_blocks(*bytes) : bytes.error();
  {
    const std::lock_guard lock(mutex_);
    bad_ = blocks ? std::move(*blocks) : BadBlocks();
  }
  place_around_bad();
  return {};
}

std::optional<Error> StoreState::bad_file_problem() {
  auto file = files.open(bad_file(*this));
  if (!file) return file.error().kind == ErrorKind::not_found ? std::nullopt : std::optional(file.error());
  auto bytes = (*file)->read(0, std::min<std::uint64_t>((*file)->size(), kMaxBadBlocksFile));
  auto blocks = bytes ? decode_bad_blocks(*bytes) : bytes.error();
  if (blocks) return std::nullopt;
  return Error{ErrorKind::damaged, "verify", bad_file(*this).string(), blocks.error().cause};
}

void StoreState::forget_bad_of_gone_packs() {
  {
    const std::lock_guard lock(mutex_);
    if (std::erase_if(bad_, [this](const auto& bad) { return !packs_.contains(bad.first); }) == 0) return;
  }
  store_bad();
}

Status StoreState::remove_unreadable_packs(CollectReport& report) {
  std::vector<std::string> names;
  {
    const std::lock_guard lock(mutex_);
    // Another damage may be put right by hand from what is left of it.
    if (!lacks_nothing_ || !bad_.empty() || !missing_.empty()) return {};
    for (const auto& [name, error] : left_out_)
      if (!is_missing_key(error)) names.push_back(name);
    for (const std::string& name : names) left_out_.erase(name);
  }
  for (const std::string& name : names) {
    looked_at_.erase(name);
    if (auto removed = files.remove(packs_directory / name); !removed) report.problems.push_back(removed.error());
    else ++report.packs_removed;
  }
  return names.empty() ? Status() : files.sync_directory(packs_directory);
}

Status StoreState::retire_mended() {
  const std::lock_guard one(collect_mutex_);
  std::vector<std::shared_ptr<const PackInfo>> packs;
  {
    const std::lock_guard lock(mutex_);
    for (const Id& id : mended_)
      if (const auto known = packs_.find(id); known != packs_.end()) packs.push_back(known->second);
  }
  CollectReport report;
  auto gone = without_places(packs);
  if (auto compacted = compact(packs, {}, report, gone); !compacted) return compacted;
  if (auto removed = remove_packs(gone, report); !removed) return removed;
  forget_bad_of_gone_packs();
  return {};
}

}  // namespace stillpoint::node
