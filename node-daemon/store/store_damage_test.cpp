// The store against what disks do: flipped bits, short and missing files, full file systems, machines that die at any
// operation. What is read is what was written, or an error.
#include <doctest/doctest.h>

#include <algorithm>
#include <cerrno>

#include "node-daemon/store/memory_files.h"
#include "node-daemon/store/store_test_data.h"

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;
using test::flat_bytes;
using test::get;
using test::put;
using test::same_machine;
using test::TestGuest;

ChunkStoreOptions small_packs() {
  ChunkStoreOptions options;
  options.pack_bytes = 150'000;
  return options;
}

Result<std::unique_ptr<ChunkStore>> open_store(Files& files) {
  return ChunkStore::open(files, "/s", test::some_keys(), small_packs());
}

std::unique_ptr<ChunkStore> must_open(Files& files) {
  auto store = open_store(files);
  REQUIRE_MESSAGE(store.has_value(), store.error());
  return std::move(*store);
}

struct Image {
  std::string name, bytes;
  ImageKind kind = ImageKind::memory;
  bool matches(const std::string& read) const {
    return kind == ImageKind::memory ? same_machine(read, bytes) : read == bytes;
  }
};

// Two epochs of a guest's memory and disk.
std::vector<Image> some_images() {
  std::mt19937_64 random(9);
  TestGuest guest(1);
  std::string disk = flat_bytes(3, 400'000);
  std::vector<Image> images;
  for (int epoch = 1; epoch <= 2; ++epoch) {
    const std::string at = "j1/e" + std::to_string(epoch) + "/guest-0.";
    images.push_back({at + "ram", guest.stream(), ImageKind::memory});
    images.push_back({at + "disk", disk, ImageKind::flat});
    guest.change(random, 50);
    disk.replace(100'000, 40'000, flat_bytes(4, 40'000));
  }
  return images;
}

std::vector<std::string> names_of(const std::vector<Image>& images) {
  std::vector<std::string> names;
  for (const Image& image : images) names.push_back(image.name);
  return names;
}

// Damage was done: verify() must say so, name what is hit, and every image is read right or not at all.
void check_found(MemoryFiles& files, ChunkStore& running, const std::vector<Image>& images, const std::string& what) {
  CAPTURE(what);
  auto again = must_open(files);
  for (ChunkStore* store : {&running, again.get()}) {
    const auto report = store->verify(names_of(images));
    REQUIRE_MESSAGE(report.has_value(), report.error());
    CHECK_FALSE(report->problems.empty());
    for (const Image& image : images) {
      const auto read = get(*store, image.name);
      const bool named = std::ranges::find(report->damaged_images, image.name) != report->damaged_images.end();
      if (read) CHECK(image.matches(*read));
      else CHECK(read.error().kind == ErrorKind::damaged);
      // A process that read a pack's index before it was damaged can still use the pack, and says so all the same.
      if (store == again.get()) CHECK(read.has_value() != named);
      else CHECK((read.has_value() || named));
    }
  }
}

TEST_CASE("any flipped bit, any file cut short, lengthened or removed is found, by verify and by reading") {
  MemoryFiles files;
  auto store = must_open(files);
  const auto images = some_images();
  for (const Image& image : images) REQUIRE(put(*store, image.name, image.kind, image.bytes).has_value());
  REQUIRE(files.names().size() > 6);
  std::mt19937_64 random(21);
  for (auto& [path, content] : files.names()) {
    const std::string good = content->bytes;
    const std::size_t size = good.size();
    // Everywhere near the ends, where heads and indexes are, and at random places between.
    std::vector<std::size_t> places;
    for (std::size_t i = 0; i < 64; i += 3) places.insert(places.end(), {i, size - 1 - i});
    for (int i = 0; i < 12; ++i) places.push_back(random() % size);
    for (const std::size_t at : places) {
      content->bytes[at] = static_cast<char>(content->bytes[at] ^ (1 << random() % 8));
      check_found(files, *store, images, path.string() + " bit at " + std::to_string(at));
      content->bytes = good;
    }
    for (const std::size_t length : {std::size_t{0}, std::size_t{1}, size / 2, size - 1, random() % size}) {
      content->bytes.resize(length);
      check_found(files, *store, images, path.string() + " cut to " + std::to_string(length));
      content->bytes = good;
    }
    content->bytes += '\0';
    check_found(files, *store, images, path.string() + " lengthened");
    content->bytes = good;
  }
  const auto names = files.names();
  for (const auto& [path, content] : names) {
    files.names().erase(path);
    check_found(files, *store, images, path.string() + " removed");
    files.names()[path] = content;
  }
  const auto report = store->verify(names_of(images));
  CHECK(report->problems.empty());
}

TEST_CASE("a file in another's place is found") {
  MemoryFiles files;
  auto store = must_open(files);
  const auto images = some_images();
  for (const Image& image : images) REQUIRE(put(*store, image.name, image.kind, image.bytes).has_value());
  auto& names = files.names();
  for (auto a = names.begin(); a != names.end(); ++a) {
    const auto b = std::next(a) == names.end() ? names.begin() : std::next(a);
    std::swap(a->second, b->second);
    check_found(files, *store, images, a->first.string() + " and " + b->first.string());
    std::swap(a->second, b->second);
  }
}

TEST_CASE("a collection takes nothing while an image cannot be read, and leaves a damaged pack where it is") {
  MemoryFiles files;
  auto store = must_open(files);
  const auto images = some_images();
  for (const Image& image : images) REQUIRE(put(*store, image.name, image.kind, image.bytes).has_value());
  auto& manifest = files.names().at("/s/images/j1/e1/guest-0.ram")->bytes;
  manifest[70] ^= 1;
  const std::size_t before = files.names().size();
  CHECK(store->collect().error().kind == ErrorKind::refused);
  CHECK(files.names().size() == before);
  manifest[70] ^= 1;
  REQUIRE(store->remove("j1/e1/").has_value());
  for (auto& [path, content] : files.names())
    if (path.extension() == ".pack") content->bytes[100] ^= 1;
  (void)store->collect();
  for (auto& [path, content] : files.names())
    if (path.extension() == ".pack") content->bytes[100] ^= 1;
  for (const std::size_t i : {2u, 3u}) {
    const auto read = get(*store, images[i].name);
    // Whether or not its pack was one to be written anew.
    CHECK((read && images[i].matches(*read)));
  }
}

// What a node daemon does with its store over two epochs, with collections, until something fails.
struct Life {
  std::vector<Image> images = some_images();
  std::vector<std::string> committed, maybe_removed;

  Status run(MemoryFiles& files) {
    auto store = open_store(files);
    if (!store) return store.error();
    for (const Image& image : images) {
      if (image.name.starts_with("j1/e2/guest-0.disk")) {
        // The first epoch goes while the second is not complete.
        maybe_removed = {images[0].name, images[1].name};
        if (auto removed = (*store)->remove("j1/e1/"); !removed) return removed;
        if (auto collected = (*store)->collect(); !collected) return collected.error();
        else if (!collected->problems.empty()) return collected->problems[0];
      }
      if (auto done = put(**store, image.name, image.kind, image.bytes); !done) return done.error();
      committed.push_back(image.name);
    }
    auto collected = (*store)->collect();
    if (!collected) return collected.error();
    return collected->problems.empty() ? Status{} : Status(collected->problems[0]);
  }
};

// Opens the store again: what was committed reads right; after a collection there is no file that is not needed, and
// when all images are gone, no file at all.
void check_after(MemoryFiles& files, const Life& life) {
  auto store = must_open(files);
  const auto check_images = [&] {
    for (const Image& image : life.images) {
      const bool committed = std::ranges::find(life.committed, image.name) != life.committed.end();
      const bool removed = std::ranges::find(life.maybe_removed, image.name) != life.maybe_removed.end();
      const auto read = get(*store, image.name);
      if (read) CHECK(image.matches(*read));
      else CHECK_MESSAGE((!committed || removed), read.error());
    }
  };
  check_images();
  auto collected = store->collect();
  REQUIRE_MESSAGE(collected.has_value(), collected.error());
  CHECK(collected->problems.empty());
  check_images();
  const auto report = store->verify();
  REQUIRE(report.has_value());
  for (const Error& problem : report->problems) FAIL_CHECK(problem);
  for (const auto& [path, content] : files.names()) CHECK(path.extension() != kTemporarySuffix);
  REQUIRE(store->remove("j1/").has_value());
  REQUIRE(store->collect().has_value());
  CHECK(files.names().empty());
}

std::uint64_t operations_of_a_life() {
  MemoryFiles files;
  Life life;
  const Status done = life.run(files);
  REQUIRE_MESSAGE(done.has_value(), done.error());
  return files.operations();
}

TEST_CASE("a machine that dies after any operation: what was committed is there, what was not leaves nothing") {
  const std::uint64_t operations = operations_of_a_life();
  REQUIRE(operations > 80);
  for (std::uint64_t n = 0; n < operations; ++n)
    for (const bool lose : {true, false}) {
      CAPTURE(n);
      CAPTURE(lose);
      MemoryFiles files;
      files.die_after(n);
      Life life;
      (void)life.run(files);
      files.reboot(lose);
      check_after(files, life);
    }
}

TEST_CASE("any operation may fail: it is said, the process goes on, and nothing that was committed is lost") {
  const std::uint64_t operations = operations_of_a_life();
  for (std::uint64_t n = 0; n < operations; ++n)
    for (const int reason : {EIO, ENOSPC}) {
      CAPTURE(n);
      MemoryFiles files;
      files.fail_at(n, reason);
      Life life;
      (void)life.run(files);
      check_after(files, life);
    }
}

TEST_CASE("a full file system: a clear error, no garbage, and it goes on when there is room") {
  std::uint64_t most = 0;
  {
    MemoryFiles files;
    Life life;
    REQUIRE(life.run(files).has_value());
    most = files.bytes();
  }
  for (std::uint64_t limit = 0; limit < most; limit += most / 40) {
    CAPTURE(limit);
    MemoryFiles files;
    files.limit(limit);
    Life life;
    const Status done = life.run(files);
    if (!done) CHECK(done.error().kind == ErrorKind::storage_full);
    for (const auto& [path, content] : files.names()) CHECK(path.extension() != kTemporarySuffix);
    files.reboot(false);
    {
      auto store = must_open(files);
      for (const Image& image : life.images) REQUIRE(put(*store, image.name, image.kind, image.bytes).has_value());
      for (const Image& image : life.images) CHECK(image.matches(*get(*store, image.name)));
    }
    check_after(files, life);
  }
}

}  // namespace
}  // namespace stillpoint::node
