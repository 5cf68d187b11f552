#include "node-daemon/store/store_history.h"

#include <algorithm>
#include <bit>
#include <map>

#include "node-daemon/store/pack_file.h"

namespace stillpoint::node::test {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kPiece = 50'000;

ChunkStoreOptions options() {
  ChunkStoreOptions small;
  small.pack_bytes = 40'000;
  return small;
}

Status write(ImageIngest& ingest, std::string_view bytes) {
  for (; !bytes.empty(); bytes.remove_prefix(std::min(kPiece, bytes.size())))
    if (auto done = ingest.write(bytes.substr(0, kPiece)); !done) return done;
  return {};
}

using Pages = std::set<std::pair<Id, std::uint32_t>>;

// All pages that the images list.
Pages wanted_pages(Files& files, const fs::path& images, const SiteKeys& keys, std::vector<std::string>& found) {
  Pages wanted;
  const auto list = [&](const fs::path& path) {
    auto names = files.list(path);
    if (!names) found.push_back(names.error().message());
    if (names && names->empty() && path != images) found.push_back("empty directory " + path.string());
    return names ? *names : std::vector<std::string>();
  };
  for (const std::string& job : list(images))
    for (const std::string& epoch : list(images / job))
      for (const std::string& name : list(images / job / epoch)) {
        const fs::path path = images / job / epoch / name;
        auto file = files.open(path);
        auto bytes = file ? (*file)->read(0, (*file)->size()) : Result<std::string>(file.error());
        auto manifest = bytes ? open_manifest(*bytes, keys) : Result<ImageManifest>(bytes.error());
        if (!manifest) {
          found.push_back("not an image: " + path.string() + ": " + manifest.error().message());
          continue;
        }
        for (const Space& space : manifest->spaces)
          for (const PageRef ref : space.pages)
            if (is_stored(ref)) wanted.insert({manifest->origins[ref.origin], ref.page});
      }
  return wanted;
}

}  // namespace

bool Image::matches(const std::string& read) const {
  return kind == ImageKind::memory ? same_machine(read, bytes) : read == bytes;
}

void Facts::take(const std::string& line) { (line[0] == '+' ? committed : removing).insert(line.substr(1)); }

History::History() {
  std::mt19937_64 random(9);
  TestGuest guests[] = {TestGuest(1, 1, 110), TestGuest(2, 1, 110)};
  std::string disk = flat_bytes(3, 150'000);
  for (int epoch = 1; epoch <= 3; ++epoch) {
    const std::string at = "j1/e" + std::to_string(epoch) + "/guest-";
    for (int g = 0; g < 2; ++g) images_.push_back({at + std::to_string(g) + ".ram", guests[g].stream()});
    images_.push_back({at + "0.disk", disk, ImageKind::flat});
    for (TestGuest& guest : guests) guest.change(random, 70);
    disk.replace(50'000, 20'000, flat_bytes(10 + static_cast<unsigned>(epoch), 20'000));
  }
}

const Image& History::image(const std::string& name) const {
  return *std::ranges::find(images_, "j1/" + name, &Image::name);
}

void History::say(const std::string& line) {
  facts_.take(line);
  if (told_) told_(line);
}

Result<std::unique_ptr<ChunkStore>> History::open(Files& files, const fs::path& directory) {
  return ChunkStore::open(files, directory, some_keys(), options());
}

Status History::run(Files& files, const fs::path& directory) {
  const auto start = [&]() -> Status {
    store_.reset();
    auto opened = open(files, directory);
    if (!opened) return opened.error();
    store_ = std::move(*opened);
    return {};
  };
  if (auto done = start(); !done) return done;
  if (auto done = first_epoch(); !done) return done;
  if (auto done = second_epoch(); !done) return done;
  if (auto done = third_epoch(); !done) return done;
  if (auto done = start(); !done) return done;
  return last_epoch_alone();
}

// Two guests at the same time, into the same packs.
Status History::first_epoch() {
  auto a = store_->begin("j1/e1/guest-0.ram", ImageKind::memory),
       b = store_->begin("j1/e1/guest-1.ram", ImageKind::memory);
  if (!a || !b) return a ? b.error() : a.error();
  const std::string &one = image("e1/guest-0.ram").bytes, &two = image("e1/guest-1.ram").bytes;
  for (std::size_t at = 0; at < std::max(one.size(), two.size()); at += kPiece) {
    if (auto done = (*a)->write(std::string_view(one).substr(std::min(at, one.size()), kPiece)); !done) return done;
    if (auto done = (*b)->write(std::string_view(two).substr(std::min(at, two.size()), kPiece)); !done) return done;
  }
  if (auto done = (*a)->commit(); !done) return done.error();
  say("+j1/e1/guest-0.ram");
  if (auto done = (*b)->commit(); !done) return done.error();
  say("+j1/e1/guest-1.ram");
  return put_whole("j1/e1/guest-0.disk");
}

// One image of the first epoch goes while the second is written, of which one image is given up and taken again.
Status History::second_epoch() {
  const std::string& one = image("e2/guest-0.ram").bytes;
  auto ingest = store_->begin("j1/e2/guest-0.ram", ImageKind::memory);
  if (!ingest) return ingest.error();
  const std::size_t half = one.size() / 2;
  if (auto done = write(**ingest, std::string_view(one).substr(0, half)); !done) return done;
  {
    auto given_up = store_->begin("j1/e2/guest-1.ram", ImageKind::memory);
    if (!given_up) return given_up.error();
    if (auto done = write(**given_up, image("e2/guest-1.ram").bytes.substr(0, half)); !done) return done;
  }
  if (auto done = remove("j1/e1/guest-1.ram"); !done) return done;
  if (auto done = collect(); !done) return done;
  if (auto done = write(**ingest, std::string_view(one).substr(half)); !done) return done;
  if (auto done = (*ingest)->commit(); !done) return done.error();
  say("+j1/e2/guest-0.ram");
  if (auto done = put_whole("j1/e2/guest-1.ram"); !done) return done;
  return put_whole("j1/e2/guest-0.disk");
}

// The first epoch goes while one of its images is read and the third is written.
Status History::third_epoch() {
  auto source = store_->read("j1/e1/guest-0.ram");
  if (!source) return source.error();
  const std::string& one = image("e3/guest-0.ram").bytes;
  auto ingest = store_->begin("j1/e3/guest-0.ram", ImageKind::memory);
  if (!ingest) return ingest.error();
  const std::size_t half = one.size() / 2;
  if (auto done = write(**ingest, std::string_view(one).substr(0, half)); !done) return done;
  if (auto done = remove("j1/e1/"); !done) return done;
  if (auto done = collect(); !done) return done;
  std::string read;
  for (;;) {
    auto piece = (*source)->read();
    if (!piece) return piece.error();
    if (piece->empty()) break;
    read += *piece;
  }
  if (!image("e1/guest-0.ram").matches(read)) return Error{ErrorKind::permanent, "read", "e1", "it is another image"};
  source->reset();
  if (auto done = write(**ingest, std::string_view(one).substr(half)); !done) return done;
  if (auto done = (*ingest)->commit(); !done) return done.error();
  say("+j1/e3/guest-0.ram");
  return {};
}

Status History::last_epoch_alone() {
  for (const char* name : {"j1/e3/guest-1.ram", "j1/e3/guest-0.disk"})
    if (auto done = put_whole(name); !done) return done;
  if (auto done = remove("j1/e2/"); !done) return done;
  return collect();
}

Status History::put_whole(const std::string& name) {
  const Image& what = *std::ranges::find(images_, name, &Image::name);
  if (auto done = put(*store_, name, what.kind, what.bytes, kPiece); !done) return done.error();
  say("+" + name);
  return {};
}

Status History::remove(const std::string& name) {
  for (const Image& each : images_)
    if (each.name.starts_with(name)) say("-" + each.name);
  return store_->remove(name);
}

Status History::collect() {
  auto collected = store_->collect();
  if (!collected) return collected.error();
  packs_removed_ += collected->packs_removed;
  packs_compacted_ += collected->packs_compacted;
  return collected->problems.empty() ? Status() : Status(collected->problems[0]);
}

std::vector<std::string> broken_promises(ChunkStore& store, const std::vector<Image>& images, const Facts& facts) {
  std::vector<std::string> broken;
  auto names = store.images();
  if (!names) return {names.error().message()};
  for (const std::string& name : *names) {
    const auto image = std::ranges::find(images, name, &Image::name);
    if (image == images.end()) {
      broken.push_back("nobody stored " + name);
      continue;
    }
    const auto read = get(store, name);
    if (!read) broken.push_back("not whole: " + read.error().message());
    else if (!image->matches(*read)) broken.push_back("not what was stored: " + name);
  }
  for (const std::string& name : facts.committed)
    if (!facts.removing.contains(name) && std::ranges::find(*names, name) == names->end())
      broken.push_back("lost: " + name);
  return broken;
}

std::vector<std::string> rubbish(Files& files, const fs::path& directory, const SiteKeys& keys) {
  std::vector<std::string> found;
  const Pages wanted = wanted_pages(files, directory / "images", keys, found);
  auto names = files.list(directory / "packs");
  if (!names) return {names.error().message()};
  std::uint64_t stored = 0;
  for (const std::string& name : *names) {
    auto file = files.open(directory / "packs" / name);
    auto content = file ? read_pack(**file, keys) : Result<PackContent>(file.error());
    if (!content || pack_name(content->id) != name) {
      found.push_back("not a pack: " + name);
      continue;
    }
    std::uint64_t alive = 0;
    for (const PackBlock& block : content->blocks)
      for (std::uint64_t slots = block.slots; slots != 0; slots &= slots - 1) {
        const auto slot = static_cast<std::uint32_t>(std::countr_zero(slots));
        ++stored;
        if (wanted.contains({content->origins[block.origin], block.number * kPagesPerBlock + slot})) ++alive;
      }
    if (alive == 0) found.push_back("no image needs a page of " + name);
  }
  if (static_cast<double>(stored) * options().compact_below > static_cast<double>(wanted.size()))
    found.push_back(std::to_string(stored) + " pages are stored for " + std::to_string(wanted.size()));
  auto others = files.list(directory);
  if (!others) return {others.error().message()};
  for (const std::string& name : *others)
    if (name != "images" && name != "packs" && name != "lock") found.push_back("another name: " + name);
  return found;
}

}  // namespace stillpoint::node::test
