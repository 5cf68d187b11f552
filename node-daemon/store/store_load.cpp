// Opening a store, and the images in it by name.
#include <algorithm>
#include <bit>

#include "node-daemon/store/store_state.h"

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;

constexpr int kListings = 16;  // of another host's packs until two are the same

bool is_plain_name(std::string_view name) {
  return !name.empty() && name.size() <= 64 && name.front() != '.' && std::ranges::all_of(name, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
           c == '.';
  });
}

// Names of the files three levels down: job, epoch, image. Only of those that are within: an image, or what begins so
// and ends with '/'; empty: all.
Result<std::vector<std::string>> walk(Files& files, const fs::path& images, const std::string& within = {}) {
  const auto leads_there = [&](const std::string& at) { return at.starts_with(within) || within.starts_with(at); };
  std::vector<std::string> found;
  auto jobs = files.list(images);
  if (!jobs) return jobs;
  for (const std::string& job : *jobs) {
    if (!leads_there(job + "/")) continue;
    auto epochs = files.list(images / job);
    if (!epochs) return epochs;
    for (const std::string& epoch : *epochs) {
      const std::string directory = job + "/" + epoch + "/";
      if (!leads_there(directory)) continue;
      auto names = files.list(images / job / epoch);
      if (!names) return names;
      for (const std::string& name : *names)
        if (within.empty() || directory + name == within || (within.ends_with('/') && directory.starts_with(within)))
          found.push_back(directory + name);
    }
  }
  return found;
}

}  // namespace

bool is_image_name(std::string_view name) {
  unsigned parts = 0;
  for (;; ++parts) {
    const std::size_t slash = name.find('/');
    if (!is_plain_name(name.substr(0, slash))) return false;
    if (slash == name.npos) return parts == 2 && !name.ends_with(kTemporarySuffix);
    name.remove_prefix(slash + 1);
  }
}

bool is_host_directory(std::string_view name) { return is_plain_name(name); }

Status remove_images(Files& files, const fs::path& images, const std::string& name) {
  auto names = walk(files, images, name);
  if (!names) return names.error();
  std::set<fs::path> directories;
  for (const std::string& image : *names) {
    if (image.ends_with(kTemporarySuffix)) continue;
    const fs::path path = images / image;
    if (auto removed = files.remove(path); !removed) return removed;
    directories.insert(path.parent_path());
  }
  // An empty directory goes too; one with another image or something being written stays.
  for (const fs::path& epoch : directories) {
    // Another host may have removed it meanwhile.
    if (auto synced = files.sync_directory(epoch); !synced && synced.error().kind != ErrorKind::not_found)
      return synced;
    for (const fs::path& path : {epoch, epoch.parent_path()})
      if (auto removed = files.remove_directory(path); !removed) return removed;
  }
  return {};
}

Status StoreState::load() {
  if (!options.read_only) {
    const fs::path directory = packs_directory.parent_path();
    for (const fs::path& path : {directory, packs_directory, images_directory})
      if (auto made = files.make_directory(path); !made) return made;
    for (const fs::path& path : {directory.parent_path(), directory})
      if (auto synced = files.sync_directory(path); !synced) return synced;
    auto images = walk(files, images_directory);
    if (!images) return images.error();
    for (const std::string& name : *images)
      if (name.ends_with(kTemporarySuffix))
        if (auto removed = files.remove(images_directory / name); !removed) return removed;
  }
  if (options.read_only) return {};
  load_bad();
  return load_packs();
}

// A store that nobody else writes to is read in one go. Another host's may have a pack moved meanwhile, and a directory
// that changes while it is listed may miss both the old and the new one: what is known counts when the next listing
// says the same.
Status StoreState::load_packs() {
  const std::lock_guard one(collect_mutex_);  // nobody looks through all packs meanwhile
  for (int attempt = 0; attempt < kListings; ++attempt) {
    auto names = files.list(packs_directory);
    if (!names) return names.error();
    if (!options.read_only)
      for (const std::string& name : *names)
        if (name.ends_with(kTemporarySuffix))
          if (auto removed = files.remove(packs_directory / name); !removed) return removed;
    std::erase_if(*names, [](const std::string& name) { return !name.ends_with(".pack"); });
    auto changed = take_up(*names);
    if (!changed) return changed.error();
    if (!options.read_only || !*changed) return {};
  }
  return Error{ErrorKind::transient, "open store", packs_directory.string(), "it changes all the time; try again"};
}

Status StoreState::refresh_packs() {
  const std::lock_guard one(collect_mutex_);
  auto names = files.list(packs_directory);
  if (!names) return names.error();
  std::erase_if(*names, [](const std::string& name) { return !name.ends_with(".pack"); });
  if (options.read_only)
    if (auto known = look_at_bad_there(); !known) return known;
  {
    // In place of what is damaged another one may have come.
    const std::lock_guard lock(mutex_);
    for (const auto& [name, error] : left_out_)
      if (!is_missing_key(error)) looked_at_.erase(name);
  }
  auto changed = take_up(*names);
  look_for_missing();
  return changed ? Status{} : Status(changed.error());
}

Result<bool> StoreState::take_up(const std::vector<std::string>& names) {
  bool changed = forget_packs_but(names);
  for (const std::string& name : names) {
    if (looked_at_.contains(name)) continue;
    changed = true;
    if (auto taken = take_up_pack(name); !taken) return taken.error();
  }
  return changed;
}

Status StoreState::take_up_pack(const std::string& name) {
  // Where the store lies elsewhere a pack that cannot be asked for now may be whole.
  const auto says_nothing = [&](const Error& error) {
    return error.kind == ErrorKind::transient || (options.read_only && error.kind != ErrorKind::damaged);
  };
  auto file = files.open(packs_directory / name);
  if (!file && file.error().kind == ErrorKind::not_found) return {};  // moved: the next listing tells
  if (!file && says_nothing(file.error())) return file.error();
  looked_at_.insert(name);
  if (!file) return {};
  const auto content = read_pack(**file, keys);
  if (!content && content.error().kind == ErrorKind::not_found) {
    looked_at_.erase(name);
  } else if (!content && (content.error().kind == ErrorKind::damaged || is_missing_key(content.error()))) {
    const std::lock_guard lock(mutex_);
    left_out_.insert_or_assign(name, content.error());
  } else if (!content && says_nothing(content.error())) {
    looked_at_.erase(name);
    return content.error();
  }
  if (!content || pack_name(content->id) != name) return {};
  const std::lock_guard lock(mutex_);
  left_out_.erase(name);
  add_pack(*content, false);
  if (!options.read_only) index_pages(*content);
  return {};
}

Status StoreState::load_packs_for(const ImageManifest& manifest) {
  {
    const std::lock_guard one(collect_mutex_);
    auto names = files.list(packs_directory);
    if (!names) return names.error();
    for (const Id& id : manifest.origins)
      if (const std::string name = pack_name(id);
          !looked_at_.contains(name) && std::ranges::binary_search(*names, name))
        if (auto taken = take_up_pack(name); !taken) return taken;
  }
  return has_pages_of(manifest) ? Status() : load_packs();
}

bool StoreState::has_pages_of(const ImageManifest& manifest) {
  const std::lock_guard lock(mutex_);
  std::vector<std::uint32_t> numbers;
  for (const Id& id : manifest.origins) {
    const auto known = origin_numbers_.find(id);
    if (known == origin_numbers_.end()) return false;
    numbers.push_back(known->second);
  }
  return std::ranges::all_of(manifest.spaces, [&](const Space& space) {
    return std::ranges::all_of(space.pages, [&](const PageRef ref) {
      return !is_stored(ref) || usable({numbers[ref.origin], ref.page});
    });
  });
}

bool StoreState::forget_packs_but(const std::vector<std::string>& names) {
  const auto gone = [&](const std::string& name) { return !std::ranges::binary_search(names, name); };
  if (std::erase_if(looked_at_, gone) == 0) return false;
  const std::lock_guard lock(mutex_);
  std::erase_if(left_out_, [&](const auto& entry) { return gone(entry.first); });
  std::erase_if(packs_, [&](const auto& entry) { return gone(entry.second->path.filename().string()); });
  for (Origin& origin : origins_) origin.blocks.clear();
  for (const auto& [id, pack] : packs_) place_blocks(pack, false);
  return true;
}

Error StoreState::nowhere(const Id& origin, std::string step, std::string object, std::string cause) {
  const std::lock_guard lock(mutex_);
  // Where they were first written, or, if that pack is gone, in any that another one's pages were moved to.
  auto left_out = left_out_.find(pack_name(origin));
  if (left_out == left_out_.end())
    left_out = std::ranges::find_if(left_out_, [](const auto& entry) { return is_missing_key(entry.second); });
  if (left_out == left_out_.end() || !is_missing_key(left_out->second))
    return {ErrorKind::damaged, std::move(step), std::move(object), std::move(cause)};
  return {left_out->second.kind, std::move(step), std::move(object),
          "pack " + left_out->first + " cannot be read here: " + left_out->second.cause};
}

void StoreState::index_pages(const PackContent& content) {
  // A fingerprint means the same only while the secret that it was made with is the site's.
  if (content.key != keys.active().id) return;
  for (const PackBlock& block : content.blocks) {
    const std::uint32_t origin = number_of(content.origins[block.origin]);
    std::uint32_t fingerprint = block.first_fingerprint;
    for (std::uint64_t slots = block.slots; slots != 0; slots &= slots - 1)
      index_.put(content.fingerprints[fingerprint++],
                 {origin, block.number * kPagesPerBlock + static_cast<std::uint32_t>(std::countr_zero(slots))});
  }
}

Result<std::vector<std::string>> StoreState::image_names() {
  auto names = walk(files, images_directory);
  if (names) std::erase_if(*names, [](const std::string& name) { return name.ends_with(kTemporarySuffix); });
  return names;
}

// Left by whoever died, or had no room, between making a directory and what was to be in it, or between removing both.
// An ingest that is just going to use one makes it again.
Status StoreState::remove_empty_directories() {
  auto jobs = files.list(images_directory);
  if (!jobs) return jobs.error();
  for (const std::string& job : *jobs) {
    auto epochs = files.list(images_directory / job);
    if (!epochs) return epochs.error();
    bool empty = true;
    for (const std::string& epoch : *epochs) {
      auto names = files.list(images_directory / job / epoch);
      if (!names) return names.error();
      empty = empty && names->empty();
      if (!names->empty()) continue;
      if (auto removed = files.remove_directory(images_directory / job / epoch); !removed) return removed;
    }
    if (!empty) continue;
    if (auto removed = files.remove_directory(images_directory / job); !removed) return removed;
  }
  return {};
}

Result<std::string> StoreState::read_image_file(const std::string& name) {
  auto file = files.open(images_directory / name);
  if (!file) return file.error();
  if ((*file)->size() > kMaxImageFileBytes) return Error{ErrorKind::damaged, "read image", name, "it is too large"};
  return (*file)->read(0, (*file)->size());
}

Result<ImageManifest> StoreState::read_manifest(const std::string& name) {
  auto bytes = read_image_file(name);
  if (!bytes) return bytes.error();
  auto manifest = open_manifest(*bytes, keys);
  if (!manifest) return Error{manifest.error().kind, "read image", name, manifest.error().cause};
  if (manifest->name != name) return Error{ErrorKind::damaged, "read image", name, "it is " + manifest->name};
  return manifest;
}

}  // namespace stillpoint::node
