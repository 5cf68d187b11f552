// The store against what disks do: flipped bits, short and missing files, full file systems, machines that die at any
// operation. What is read is what was written, or an error.
#include <doctest/doctest.h>

#include <algorithm>
#include <cerrno>

#include "node-daemon/store/memory_files.h"
#include "node-daemon/store/store_history.h"
#include "node-daemon/store/watched_files.h"

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;
using test::flat_bytes;
using test::get;
using test::History;
using test::Image;
using test::put;
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
      const auto check = store->verify_image(image.name, {});
      REQUIRE_MESSAGE(check.has_value(), check.error());
      for (const Error& problem : check->problems) CHECK(problem.kind == ErrorKind::damaged);
      if (store == again.get()) CHECK(check->problems.empty() == read.has_value());
      else CHECK((read.has_value() || !check->problems.empty()));
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
  const auto written = files.names();  // without what the store notes of the damage
  for (const auto& [path, content] : written) {
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
  for (const auto& [path, content] : written) {
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
  std::vector<fs::path> names;
  for (const auto& [path, content] : files.names()) names.push_back(path);
  for (std::size_t i = 0; i < names.size(); ++i) {
    const fs::path &a = names[i], &b = names[(i + 1) % names.size()];
    std::swap(files.names().at(a), files.names().at(b));
    check_found(files, *store, images, a.string() + " and " + b.string());
    std::swap(files.names().at(a), files.names().at(b));
  }
}

TEST_CASE("a damaged pack is left where it is by a collection") {
  MemoryFiles files;
  auto store = must_open(files);
  const auto images = some_images();
  for (const Image& image : images) REQUIRE(put(*store, image.name, image.kind, image.bytes).has_value());
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

// Images that share nothing, so that what each one's removal frees can be told.
void put_alone(ChunkStore& store, const std::string& name, std::uint64_t seed) {
  const auto figures = put(store, name, ImageKind::flat, flat_bytes(seed, 300'000));
  REQUIRE_MESSAGE(figures.has_value(), figures.error());
  REQUIRE(figures->known_pages == 0);
}
std::uint64_t bytes_freed(ChunkStore& store, std::size_t problems) {
  const auto report = store.collect();
  REQUIRE_MESSAGE(report.has_value(), report.error());
  CHECK(report->problems.size() == problems);
  return report->bytes_before - report->bytes_after;
}

TEST_CASE("an image that cannot be read keeps what it may need, and no more; when it is removed all of it is freed") {
  MemoryFiles files;
  auto store = must_open(files);
  put_alone(*store, "j1/e1/guest-0.disk", 11);
  put_alone(*store, "j1/e2/guest-0.disk", 12);
  const auto list = files.names().at("/s/images/j1/e1/guest-0.disk");
  list->bytes[70] ^= 1;
  // Of what was there before, nothing is freed: the damaged list may name it.
  REQUIRE(store->remove("j1/e2/").has_value());
  CHECK(bytes_freed(*store, 1) == 0);
  // What came later is.
  put_alone(*store, "j1/e3/guest-0.disk", 13);
  put_alone(*store, "j1/e4/guest-0.disk", 14);
  REQUIRE(store->remove("j1/e3/").has_value());
  CHECK(bytes_freed(*store, 1) > 20'000);
  SUBCASE("put right, it is all there, and what it does not need goes") {
    list->bytes[70] ^= 1;
    CHECK(bytes_freed(*store, 0) > 20'000);
    CHECK(*get(*store, "j1/e1/guest-0.disk") == flat_bytes(11, 300'000));
  }
  SUBCASE("removed, it frees its own and what it kept") {
    REQUIRE(store->remove("j1/e1/guest-0.disk").has_value());
    CHECK(bytes_freed(*store, 0) > 40'000);
  }
  SUBCASE("replaced and damaged again, it keeps what its new list may need") {
    put_alone(*store, "j1/e1/guest-0.disk", 15);
    const auto anew = files.names().at("/s/images/j1/e1/guest-0.disk");
    anew->bytes[70] ^= 1;
    CHECK(bytes_freed(*store, 1) == 0);
    anew->bytes[70] ^= 1;
    CHECK(*get(*store, "j1/e1/guest-0.disk") == flat_bytes(15, 300'000));
  }
  SUBCASE("a process that finds it keeps all that it finds") {
    REQUIRE(store->remove("j1/e4/").has_value());
    store = must_open(files);
    CHECK(bytes_freed(*store, 1) == 0);
    list->bytes[70] ^= 1;
    CHECK(bytes_freed(*store, 0) > 40'000);
    CHECK(*get(*store, "j1/e1/guest-0.disk") == flat_bytes(11, 300'000));
    CHECK(store->images()->size() == 1);
    return;
  }
  CHECK(*get(*store, "j1/e4/guest-0.disk") == flat_bytes(14, 300'000));
}

TEST_CASE("a collection that is stopped ends within a block's time and leaves all images; the next one goes on") {
  std::string all, part;
  for (std::uint64_t seed = 1; seed <= 2000; ++seed) all += test::page_of(seed);
  for (std::uint64_t seed = 1; seed <= 2000; seed += 3) part += test::page_of(seed);
  // Asked to stop at its n-th look at a file or step: before its lists are read, while it copies, when it has copied.
  unsigned stopped = 0;
  for (unsigned n = 0;; n += 7) {
    CAPTURE(n);
    MemoryFiles files;
    std::stop_source stop;
    bool collecting = false;
    std::uint64_t left = n, appended_after = 0;
    test::WatchedFiles watched(files, [&](const test::FileStep& step) {
      if (!collecting) return;
      if (stop.stop_requested()) appended_after += step.kind == test::FileStep::Kind::append ? 1 : 0;
      else if (left-- == 0) stop.request_stop();
    });
    auto store = must_open(watched);
    REQUIRE(put(*store, "j1/e1/guest-0.disk", ImageKind::flat, all).has_value());
    REQUIRE(put(*store, "j1/e2/guest-0.disk", ImageKind::flat, part).has_value());
    REQUIRE(store->remove("j1/e1/").has_value());
    collecting = true;
    const auto report = store->collect(stop.get_token());
    collecting = false;
    CHECK(*get(*store, "j1/e2/guest-0.disk") == part);
    for (const auto& [path, content] : files.names()) CHECK(path.extension() != kTemporarySuffix);
    if (!stop.stop_requested()) {
      CHECK(report.has_value());
      break;
    }
    if (report) continue;  // nothing was left to be stopped
    ++stopped;
    CHECK(report.error().kind == ErrorKind::refused);
    CHECK(appended_after <= 2);  // the block under way; where it is the pack's last one, the index
    (void)bytes_freed(*store, 0);
    CHECK(store->figures().pages < 1000);  // 667 are needed
    CHECK(*get(*store, "j1/e2/guest-0.disk") == part);
  }
  CHECK(stopped > 3);
}

void check_promises(ChunkStore& store, const History& history) {
  for (const std::string& broken : test::broken_promises(store, history.images(), history.facts())) FAIL_CHECK(broken);
}
void check_no_rubbish(Files& files) {
  for (const std::string& name : test::rubbish(files, "/s")) FAIL_CHECK(name);
}

// Opens the store again: what was committed reads right; after a collection there is no file that is not needed, and
// when all images are gone, no file at all.
void check_after(MemoryFiles& files, const History& history) {
  auto store = History::open(files, "/s");
  REQUIRE_MESSAGE(store.has_value(), store.error());
  check_promises(**store, history);
  auto collected = (*store)->collect();
  REQUIRE_MESSAGE(collected.has_value(), collected.error());
  CHECK(collected->problems.empty());
  check_promises(**store, history);
  const auto report = (*store)->verify();
  REQUIRE(report.has_value());
  for (const Error& problem : report->problems) FAIL_CHECK(problem);
  check_no_rubbish(files);
  REQUIRE((*store)->remove("j1/").has_value());
  REQUIRE((*store)->collect().has_value());
  CHECK(files.names().empty());
}

std::uint64_t operations_of_a_history() {
  MemoryFiles files;
  History history;
  const Status done = history.run(files, "/s");
  REQUIRE_MESSAGE(done.has_value(), done.error());
  CHECK(history.packs_removed() > 0);
  CHECK(history.packs_compacted() > 2);
  check_promises(*history.store(), history);
  check_no_rubbish(files);
  return files.operations();
}

TEST_CASE("a machine that dies after any operation: what was committed is there, what was not leaves nothing") {
  const std::uint64_t operations = operations_of_a_history();
  REQUIRE(operations > 150);
  for (std::uint64_t n = 0; n < operations; ++n)
    for (const bool lose : {true, false}) {
      CAPTURE(n);
      CAPTURE(lose);
      MemoryFiles files;
      files.die_after(n);
      History history;
      (void)history.run(files, "/s");
      files.reboot(lose);
      check_after(files, history);
    }
}

TEST_CASE("any operation may fail: it is said, the process goes on, and nothing that was committed is lost") {
  const std::uint64_t operations = operations_of_a_history();
  for (std::uint64_t n = 0; n < operations; ++n)
    for (const int reason : {EIO, ENOSPC}) {
      CAPTURE(n);
      MemoryFiles files;
      files.fail_at(n, reason);
      History history;
      (void)history.run(files, "/s");
      check_after(files, history);
    }
}

TEST_CASE("a full file system: a clear error, no garbage, and it goes on when there is room") {
  std::uint64_t most = 0;
  {
    MemoryFiles files;
    History history;
    REQUIRE(history.run(files, "/s").has_value());
    most = files.bytes();
  }
  for (std::uint64_t limit = 0; limit < most; limit += most / 40) {
    CAPTURE(limit);
    MemoryFiles files;
    files.limit(limit);
    History history;
    const Status done = history.run(files, "/s");
    if (!done) CHECK(done.error().kind == ErrorKind::storage_full);
    for (const auto& [path, content] : files.names()) CHECK(path.extension() != kTemporarySuffix);
    files.reboot(false);
    {
      auto store = must_open(files);
      for (const Image& image : history.images()) REQUIRE(put(*store, image.name, image.kind, image.bytes).has_value());
      for (const Image& image : history.images()) CHECK(image.matches(*get(*store, image.name)));
    }
    check_after(files, history);
  }
}

}  // namespace
}  // namespace stillpoint::node
