// The check of one image: every page that it needs is read back where it lies now, and given to nobody.
#include <algorithm>
#include <bit>

#include "node-daemon/store/store_state.h"

namespace stillpoint::node {
namespace {

constexpr std::size_t kOpenPacks = 4;      // the pages of an origin lie in few packs
constexpr std::size_t kMostProblems = 20;  // the rest is counted
constexpr int kAttempts = 3;               // a collection may move a block while it is looked for

Error damaged(const std::string& object, std::string cause) {
  return {ErrorKind::damaged, "verify image", object, std::move(cause)};
}

// A pack and its fingerprints, which the store itself does not keep in memory.
struct CheckedPack {
  PackContent content;
  BlockReader reader;
  PageHasher hasher;
};

class Checker {
 public:
  Checker(StoreState& state, std::string name) : state_(state), name_(std::move(name)), holder_(state.hold()) {}
  ~Checker() { state_.release(holder_); }
  Checker(const Checker&) = delete;
  Checker& operator=(const Checker&) = delete;

  Result<ImageCheck> run(const std::stop_token& stop);

 private:
  // What the image needs: by origin and block, the slots.
  using Needed = std::map<std::pair<std::uint32_t, std::uint32_t>, std::uint64_t>;
  Result<Needed> pages();
  // What is wrong with the block is noted; an error says that nothing is known.
  Status check_block(std::uint32_t origin, std::uint32_t block, std::uint64_t slots);
  Status check_there(const BlockPlace& at, std::uint64_t slots);
  Result<CheckedPack*> open(const PackInfo& pack);
  Error nowhere(const Id& origin, std::string cause) {
    return state_.nowhere(origin, "verify image", name_, std::move(cause));
  }
  void note(Error problem);
  void note_bad(const Id& origin, std::uint32_t number, std::uint64_t slots, Error problem) {
    found_.bad.push_back({origin, number, slots});
    note(std::move(problem));
  }

  StoreState& state_;
  const std::string name_;
  const std::shared_ptr<Holder> holder_;
  ImageCheck found_;
  std::size_t left_out_ = 0;
  std::list<std::pair<Id, std::unique_ptr<CheckedPack>>> packs_;  // the one used last in front
};

void Checker::note(Error problem) {
  if (std::ranges::find(found_.problems, problem) != found_.problems.end()) return;
  if (found_.problems.size() < kMostProblems) found_.problems.push_back(std::move(problem));
  else ++left_out_;
}

Result<Checker::Needed> Checker::pages() {
  auto manifest = state_.read_manifest(name_);
  if (!manifest) return manifest.error().kind == ErrorKind::not_found ? damaged(name_, "it is gone") : manifest.error();
  if (state_.options.read_only)
    if (auto loaded = state_.load_packs_for(*manifest); !loaded) return loaded.error();
  std::vector<std::optional<std::uint32_t>> numbers;
  for (const Id& id : manifest->origins) {
    numbers.push_back(state_.origin_number(id));
    if (!numbers.back()) note(nowhere(id, "pack " + pack_name(id) + " is missing or damaged"));
  }
  for (const BlockSlots& block : blocks_of(*manifest))
    if (!state_.origin_number(block.origin)) found_.bad.push_back(block);
  for (Space& space : manifest->spaces)
    space.pages.transform([&](PageRef ref) {
      if (!is_stored(ref)) return ref;
      return numbers[ref.origin] ? PageRef{*numbers[ref.origin], ref.page} : kAbsentPage;
    });
  Needed needed;
  for (const Space& space : manifest->spaces)
    for (const PageRef ref : space.pages)
      if (is_stored(ref))
        needed[{ref.origin, ref.page / kPagesPerBlock}] |= std::uint64_t{1} << (ref.page % kPagesPerBlock);
  // Held from here on: no collection takes a page of it.
  state_.add_spaces(*holder_, std::move(manifest->spaces));
  return needed;
}

Result<CheckedPack*> Checker::open(const PackInfo& pack) {
  const Id& id = pack.content.id;
  const auto known = std::ranges::find(packs_, id, [](const auto& entry) { return entry.first; });
  if (known != packs_.end()) {
    packs_.splice(packs_.begin(), packs_, known);
    return packs_.front().second.get();
  }
  auto file = state_.files.open(pack.path);
  if (!file) return file.error();
  auto content = read_pack(**file, state_.keys);
  if (!content) return Error{content.error().kind, "verify image", pack.path.string(), content.error().cause};
  if (content->id != id || content->blocks != pack.content.blocks)
    return damaged(pack.path.string(), "it is not the pack of that name");
  const SiteKey& key = *state_.keys.find(content->key);
  BlockReader reader(*file, key, *content);
  packs_.emplace_front(id, std::make_unique<CheckedPack>(CheckedPack{std::move(*content), std::move(reader),
                                                                     PageHasher(derive(key.key, "pages", ""))}));
  if (packs_.size() > kOpenPacks) packs_.pop_back();
  return packs_.front().second.get();
}

Status Checker::check_there(const BlockPlace& at, std::uint64_t slots) {
  auto opened = open(*at.pack);
  if (!opened) return opened.error();
  CheckedPack& pack = **opened;
  const PackBlock& block = pack.content.blocks[at.index];
  const std::string path = at.pack->path.string();
  const auto pages = pack.reader.read(pack.content, block, at.index);
  if (!pages) return Error{pages.error().kind, "verify image", path, pages.error().cause};
  found_.bytes += block.sealed_bytes;
  for (; slots != 0; slots &= slots - 1) {
    const std::uint64_t below = (slots & -slots) - 1;
    const auto position = static_cast<unsigned>(std::popcount(block.slots & below));
    const auto page = std::string_view(*pages).substr(std::size_t{position} * kPageBytes, kPageBytes);
    if (pack.hasher(page) != pack.content.fingerprints[block.first_fingerprint + position])
      return damaged(path, "a page is not the one of its fingerprint");
  }
  return {};
}

Status Checker::check_block(std::uint32_t origin, std::uint32_t block, std::uint64_t slots) {
  const Id id = state_.origin_id(origin);
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const BlockPlace at = state_.place_of(id, block);
    if (at.pack && (slots & ~at.slots) == 0) {
      Status done = check_there(at, slots);
      if (done) return done;
      if (done.error().kind == ErrorKind::damaged) {
        state_.note_bad(at);
        note_bad(id, block, slots, done.error());
        return {};
      }
      if (done.error().kind != ErrorKind::not_found) return done;
      state_.note_missing(at);
    } else if (!state_.options.read_only) {
      break;
    }
    // Moved since; another host's store does so without our knowing.
    if (state_.options.read_only)
      if (auto again = state_.load_packs(); !again) return again;
  }
  note_bad(id, block, slots, nowhere(id, "a pack that it needs is missing or damaged"));
  return {};
}

Result<ImageCheck> Checker::run(const std::stop_token& stop) {
  auto needed = pages();
  if (!needed && needed.error().kind != ErrorKind::damaged) return needed.error();
  if (!needed) note(needed.error());
  for (const auto& [place, slots] : needed ? *needed : Needed{}) {
    if (stop.stop_requested()) return Error{ErrorKind::transient, "verify image", name_, "this host is stopping"};
    if (auto done = check_block(place.first, place.second, slots); !done) return done.error();
  }
  if (left_out_ > 0) found_.problems.push_back(damaged(name_, "and " + std::to_string(left_out_) + " more like these"));
  return std::move(found_);
}

}  // namespace

Result<ImageCheck> verify_image(StoreState& state, const std::string& name, const std::stop_token& stop) {
  return Checker(state, name).run(stop);
}

}  // namespace stillpoint::node
