// The check of a whole store: every pack, every image, byte by byte.
#include <algorithm>

#include "node-daemon/store/store_state.h"

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;

Error damaged(const std::string& object, std::string cause) {
  return {ErrorKind::damaged, "verify", object, std::move(cause)};
}

// What must not be used.
struct Bad {
  std::set<Id> packs;
  std::set<std::pair<Id, std::uint32_t>> blocks;
  bool has(const BlockPlace& at) const {
    return packs.contains(at.pack->content.id) || blocks.contains({at.pack->content.id, at.index});
  }
};

bool pages_match(PageHasher& hasher, std::string_view pages, const PackContent& content, const PackBlock& block) {
  for (std::size_t i = 0; i * kPageBytes < pages.size(); ++i)
    if (hasher(pages.substr(i * kPageBytes, kPageBytes)) != content.fingerprints[block.first_fingerprint + i])
      return false;
  return true;
}

// Whether the pack can be used at all; blocks of it that cannot are noted.
bool verify_pack(Files& files, const fs::path& path, const SiteKeys& keys, VerifyReport& report, Bad& bad) {
  ++report.packs;
  auto file = files.open(path);
  if (!file) {
    report.problems.push_back(file.error());
    return false;
  }
  report.bytes += (*file)->size();
  const auto content = read_pack(**file, keys);
  if (!content) {
    report.problems.push_back({content.error().kind, "verify", path.string(), content.error().cause});
    return false;
  }
  if (pack_name(content->id) != path.filename()) {
    report.problems.push_back(damaged(path.string(), "it has another's name"));
    return false;
  }
  const SiteKey& key = *keys.find(content->key);
  PageHasher hasher(derive(key.key, "pages", ""));
  BlockReader reader(*file, key, *content);
  for (std::uint32_t index = 0; index < content->blocks.size(); ++index) {
    const PackBlock& block = content->blocks[index];
    const auto pages = reader.read(*content, block, index);
    if (pages && pages_match(hasher, *pages, *content, block)) continue;
    bad.blocks.insert({content->id, index});
    report.problems.push_back(
        damaged(path.string(), pages ? "a page is not the one of its fingerprint" : pages.error().cause));
  }
  return true;
}

}  // namespace

std::optional<Error> StoreState::image_problem(const std::string& name,
                                               const std::function<bool(const BlockPlace&)>& is_bad) {
  auto manifest = read_manifest(name);
  if (!manifest) return manifest.error();
  std::vector<std::optional<std::uint32_t>> numbers;
  for (const Id& id : manifest->origins) numbers.push_back(origin_number(id));
  for (const Space& space : manifest->spaces)
    for (const PageRef ref : space.pages) {
      if (!is_stored(ref)) continue;
      const auto number = numbers[ref.origin];
      const BlockPlace at = number ? place({*number, ref.page}) : BlockPlace{};
      if (at.pack && !is_bad(at)) continue;
      const std::string cause = "a pack that it needs is damaged or missing";
      return at.pack ? damaged(name, cause) : nowhere(manifest->origins[ref.origin], "verify", name, cause);
    }
  return std::nullopt;
}

Result<VerifyReport> StoreState::verify(const std::vector<std::string>& expected) {
  if (options.read_only)
    if (auto loaded = load_packs(); !loaded) return loaded.error();
  const std::lock_guard one(collect_mutex_);  // so that nothing moves
  VerifyReport report;
  Bad bad;
  std::vector<std::shared_ptr<const PackInfo>> known;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [id, pack] : packs_) known.push_back(pack);
  }
  auto names = files.list(packs_directory);
  if (!names) return names.error();
  std::set<std::string> good;
  for (const std::string& name : *names)
    if (name.ends_with(".pack") && verify_pack(files, packs_directory / name, keys, report, bad)) good.insert(name);
  for (const auto& pack : known) {
    if (good.contains(pack->path.filename().string())) continue;
    bad.packs.insert(pack->content.id);
    if (std::ranges::find(*names, pack->path.filename().string()) == names->end())
      report.problems.push_back(damaged(pack->path.string(), "it is gone"));
  }

  if (auto problem = bad_file_problem()) report.problems.push_back(*problem);
  auto images = image_names();
  if (!images) return images.error();
  for (const std::string& name : expected)
    if (std::ranges::find(*images, name) == images->end()) images->push_back(name);
  for (const std::string& name : *images) {
    ++report.images;
    auto problem = image_problem(name, [&](const BlockPlace& at) { return bad.has(at); });
    if (!problem) continue;
    if (problem->kind == ErrorKind::not_found) {
      if (std::ranges::find(expected, name) == expected.end()) continue;  // removed meanwhile
      problem = damaged(name, "it is gone");
    }
    report.problems.push_back(*problem);
    report.damaged_images.push_back(name);
  }
  return report;
}

}  // namespace stillpoint::node
