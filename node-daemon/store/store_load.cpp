// Opening a store, the images in it by name, and the check of all of it.
#include <algorithm>
#include <bit>

#include "node-daemon/store/store_state.h"

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kMaxImageFile = std::uint64_t{1} << 30;

bool is_plain_name(std::string_view name) {
  return !name.empty() && name.size() <= 64 && name.front() != '.' && std::ranges::all_of(name, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
           c == '.';
  });
}

// Names of the files three levels down: job, epoch, image.
Result<std::vector<std::string>> walk(Files& files, const fs::path& images) {
  std::vector<std::string> found;
  auto jobs = files.list(images);
  if (!jobs) return jobs;
  for (const std::string& job : *jobs) {
    auto epochs = files.list(images / job);
    if (!epochs) return epochs;
    for (const std::string& epoch : *epochs) {
      auto names = files.list(images / job / epoch);
      if (!names) return names;
      for (const std::string& name : *names) found.push_back(job + "/" + epoch + "/" + name);
    }
  }
  return found;
}

Error about(Error error, const std::string& object) {
  if (error.object.empty() || error.kind == ErrorKind::damaged) error.object = object;
  return error;
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
  auto names = files.list(packs_directory);
  if (!names) return names.error();
  for (const std::string& name : *names) {
    if (name.ends_with(kTemporarySuffix) && !options.read_only)
      if (auto removed = files.remove(packs_directory / name); !removed) return removed;
    if (!name.ends_with(".pack")) continue;
    auto file = files.open(packs_directory / name);
    if (!file) continue;
    const auto content = read_pack(**file, keys);
    if (!content || pack_name(content->id) != name) continue;
    add_pack(*content, false);
    // A fingerprint means the same only while the secret that it was made with is the site's.
    if (content->key != keys.active().id) continue;
    for (const PackBlock& block : content->blocks) {
      const std::uint32_t origin = number_of(content->origins[block.origin]);
      std::uint32_t fingerprint = block.first_fingerprint;
      for (std::uint64_t slots = block.slots; slots != 0; slots &= slots - 1)
        index_.put(content->fingerprints[fingerprint++],
                   {origin, block.number * kPagesPerBlock + static_cast<std::uint32_t>(std::countr_zero(slots))});
    }
  }
  return {};
}

Result<std::vector<std::string>> StoreState::image_names() {
  auto names = walk(files, images_directory);
  if (names) std::erase_if(*names, [](const std::string& name) { return name.ends_with(kTemporarySuffix); });
  return names;
}

Result<std::string> StoreState::read_image_file(const std::string& name) {
  auto file = files.open(images_directory / name);
  if (!file) return file.error();
  if ((*file)->size() > kMaxImageFile) return Error{ErrorKind::damaged, "read image", name, "it is too large"};
  return (*file)->read(0, (*file)->size());
}

Result<ImageManifest> StoreState::read_manifest(const std::string& name) {
  auto bytes = read_image_file(name);
  if (!bytes) return bytes.error();
  auto manifest = open_manifest(*bytes, keys);
  if (!manifest) return about(manifest.error(), name);
  if (manifest->name != name) return Error{ErrorKind::damaged, "read image", name, "it is " + manifest->name};
  return manifest;
}

Result<VerifyReport> StoreState::verify(const std::vector<std::string>& expected) {
  const std::lock_guard one(collect_mutex_);
  VerifyReport report;
  std::set<std::pair<Id, std::uint32_t>> bad_blocks;
  PageHasher hasher(derive(keys.active().key, "pages", ""));
  std::vector<std::shared_ptr<const PackInfo>> known;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [id, pack] : packs_) known.push_back(pack);
  }
  auto names = files.list(packs_directory);
  if (!names) return names.error();

  std::set<std::string> good;
  for (const std::string& name : *names) {
    if (!name.ends_with(".pack")) continue;
    ++report.packs;
    const std::string path = (packs_directory / name).string();
    auto file = files.open(path);
    if (!file) {
      report.problems.push_back(file.error());
      continue;
    }
    report.bytes += (*file)->size();
    const auto content = read_pack(**file, keys);
    if (!content || pack_name(content->id) != name) {
      report.problems.push_back(
          about(content ? Error{ErrorKind::damaged, "read pack", "", "it has another's name"} : content.error(), path));
      continue;
    }
    good.insert(name);
    BlockReader reader(*file, *keys.find(content->key), *content);
    for (std::uint32_t index = 0; index < content->blocks.size(); ++index) {
      const PackBlock& block = content->blocks[index];
      auto pages = reader.read(*content, block, index);
      bool same = pages.has_value();
      // The fingerprints of an old key's packs were made with that key.
      for (std::size_t i = 0; same && content->key == keys.active().id && i * kPageBytes < pages->size(); ++i)
        same = hasher(std::string_view(*pages).substr(i * kPageBytes, kPageBytes)) ==
               content->fingerprints[block.first_fingerprint + i];
      if (same) continue;
      bad_blocks.insert({content->id, index});
      report.problems.push_back(
          about(pages ? Error{ErrorKind::damaged, "read pack", "", "a page is not the one of its fingerprint"}
                      : pages.error(),
                path));
    }
  }
  std::set<Id> bad_packs;
  for (const auto& pack : known) {
    if (good.contains(pack->path.filename().string())) continue;
    bad_packs.insert(pack->content.id);
    if (std::ranges::find(*names, pack->path.filename().string()) == names->end())
      report.problems.push_back({ErrorKind::damaged, "read pack", pack->path.string(), "it is gone"});
  }

  auto images = image_names();
  if (!images) return images.error();
  for (const std::string& name : expected)
    if (std::ranges::find(*images, name) == images->end()) images->push_back(name);
  for (const std::string& name : *images) {
    ++report.images;
    auto manifest = read_manifest(name);
    std::optional<Error> problem;
    if (!manifest) {
      const bool gone = manifest.error().kind == ErrorKind::not_found;
      const bool wanted = std::ranges::find(expected, name) != expected.end();
      if (gone && !wanted) continue;  // removed meanwhile
      problem = gone ? Error{ErrorKind::damaged, "read image", name, "it is gone"} : manifest.error();
    } else {
      std::vector<std::optional<std::uint32_t>> numbers;
      for (const Id& id : manifest->origins) numbers.push_back(origin_number(id));
      for (const Space& space : manifest->spaces)
        for (const PageRef& ref : space.pages) {
          if (problem || !is_stored(ref)) continue;
          const auto number = numbers[ref.origin];
          const BlockPlace at = number ? place({*number, ref.page}) : BlockPlace{};
          if (!at.pack || bad_packs.contains(at.pack->content.id) ||
              bad_blocks.contains({at.pack->content.id, at.index}))
            problem = Error{ErrorKind::damaged, "read image", name, "a pack that it needs is damaged or missing"};
        }
    }
    if (!problem) continue;
    report.problems.push_back(*problem);
    report.damaged_images.push_back(name);
  }
  return report;
}

}  // namespace stillpoint::node
