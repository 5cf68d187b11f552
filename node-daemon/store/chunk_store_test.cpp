#include "node-daemon/store/chunk_store.h"

#include <doctest/doctest.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <set>
#include <thread>

#include "node-daemon/store/memory_files.h"
#include "node-daemon/store/pack_file.h"
#include "node-daemon/store/store_test_data.h"
#include "node-daemon/store/watched_files.h"

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;
using test::flat_bytes;
using test::get;
using test::put;
using test::same_machine;
using test::TestGuest;

std::unique_ptr<ChunkStore> open_store(Files& files, const ChunkStoreOptions& options = {}, const fs::path& at = "/s",
                                       const SiteKeys& keys = test::some_keys()) {
  auto store = ChunkStore::open(files, at, keys, options);
  REQUIRE_MESSAGE(store.has_value(), store.error());
  return std::move(*store);
}

ImageFigures must_put(ChunkStore& store, const std::string& name, const std::string& image,
                      ImageKind kind = ImageKind::memory) {
  auto figures = put(store, name, kind, image);
  REQUIRE_MESSAGE(figures.has_value(), figures.error());
  return *figures;
}

std::string must_get(ChunkStore& store, const std::string& name) {
  auto image = get(store, name);
  REQUIRE_MESSAGE(image.has_value(), image.error());
  return *image;
}

CollectReport must_collect(ChunkStore& store) {
  auto report = store.collect();
  REQUIRE_MESSAGE(report.has_value(), report.error());
  CHECK(report->problems.empty());
  return *report;
}

void check_all_well(ChunkStore& store) {
  const auto report = store.verify();
  REQUIRE_MESSAGE(report.has_value(), report.error());
  for (const Error& problem : report->problems) FAIL_CHECK(problem);
}

TEST_CASE("ten epochs of a guest come back, each by itself, also from a store opened anew") {
  MemoryFiles files;
  std::mt19937_64 random(3);
  TestGuest guest(1);
  std::vector<std::string> streams;
  std::uint64_t first = 0, later = 0;
  {
    auto store = open_store(files);
    for (int epoch = 0; epoch < 10; ++epoch, guest.change(random, 17)) {
      streams.push_back(guest.stream(&random));
      const auto figures = must_put(*store, "j1/e" + std::to_string(epoch) + "/guest-0.ram", streams.back());
      (epoch == 0 ? first : later) += figures.new_pages;
    }
    CHECK(first > 200);
    CHECK(later <= 9 * (17 + 20 + 2));  // what changed, the early writes of disorder, the devices
    check_all_well(*store);
  }
  auto store = open_store(files);
  for (int epoch = 9; epoch >= 0; --epoch)
    CHECK(same_machine(must_get(*store, "j1/e" + std::to_string(epoch) + "/guest-0.ram"),
                       streams[static_cast<unsigned>(epoch)]));
  // Nothing new in the last one, even for a process that did not write it.
  CHECK(must_put(*store, "j1/e99/guest-0.ram", guest.stream()).known_pages > 200);
  CHECK(must_put(*store, "j1/e100/guest-0.ram", guest.stream()).new_pages == 0);
}

TEST_CASE("flat bytes come back to the byte, and cost their new pages only") {
  MemoryFiles files;
  auto store = open_store(files);
  for (const std::size_t bytes : {0u, 1u, 4095u, 4096u, 4097u, 1'000'001u}) {
    const std::string image = flat_bytes(5, bytes);
    must_put(*store, "j1/e1/guest-0.disk", image, ImageKind::flat);
    CHECK(must_get(*store, "j1/e1/guest-0.disk") == image);
  }
  std::string image = flat_bytes(5, 1'000'001);
  image[500'000] ^= 1;
  const auto figures = must_put(*store, "j1/e2/guest-0.disk", image, ImageKind::flat);
  CHECK(figures.new_pages == 1);
  CHECK(must_get(*store, "j1/e2/guest-0.disk") == image);
}

TEST_CASE("pages that another guest has are stored once, also while both are being written") {
  MemoryFiles files;
  auto store = open_store(files);
  auto a = store->begin("j1/e1/guest-0.ram", ImageKind::memory),
       b = store->begin("j1/e1/guest-1.ram", ImageKind::memory);
  const std::string one = TestGuest(1).stream(), two = TestGuest(2).stream();
  for (std::size_t at = 0; at < one.size(); at += 5000) {
    REQUIRE((*a)->write(std::string_view(one).substr(at, 5000)).has_value());
    REQUIRE((*b)->write(std::string_view(two).substr(at, 5000)).has_value());
  }
  const auto first = (*a)->commit(), second = (*b)->commit();
  REQUIRE(first.has_value());
  REQUIRE(second.has_value());
  CHECK(first->known_pages + second->known_pages >= 85);
  CHECK(same_machine(must_get(*store, "j1/e1/guest-0.ram"), one));
  CHECK(same_machine(must_get(*store, "j1/e1/guest-1.ram"), two));
  check_all_well(*store);
}

TEST_CASE("an image that is given up leaves nothing, and takes nothing from one that shares its pages") {
  MemoryFiles files;
  auto store = open_store(files);
  const std::string image = TestGuest(1).stream();
  {
    auto ingest = store->begin("j1/e1/guest-0.ram", ImageKind::memory);
    REQUIRE((*ingest)->write(image).has_value());
  }
  CHECK(files.names().empty());
  {
    auto ingest = store->begin("j1/e1/guest-0.ram", ImageKind::memory);
    REQUIRE((*ingest)->write(image).has_value());
    auto other = store->begin("j1/e1/guest-1.ram", ImageKind::memory);
    REQUIRE((*other)->write(image).has_value());
    ingest->reset();
    REQUIRE((*other)->commit().has_value());
  }
  CHECK(same_machine(must_get(*store, "j1/e1/guest-1.ram"), image));
  CHECK(store->read("j1/e1/guest-0.ram").error().kind == ErrorKind::damaged);
}

TEST_CASE("collection keeps what images need, frees the rest, and moves pages together") {
  MemoryFiles files;
  ChunkStoreOptions options;
  options.pack_bytes = 200'000;
  auto store = open_store(files, options);
  std::mt19937_64 random(4);
  TestGuest guest(1);
  std::vector<std::string> streams;
  for (int epoch = 0; epoch < 12; ++epoch, guest.change(random, 60)) {
    streams.push_back(guest.stream());
    must_put(*store, "j1/e" + std::to_string(epoch) + "/guest-0.ram", streams.back());
  }
  for (int epoch = 0; epoch < 12; ++epoch) {
    REQUIRE(store->remove("j1/e" + std::to_string(epoch) + "/").has_value());
    must_collect(*store);
    if (epoch % 4 == 3) store = open_store(files, options);
    check_all_well(*store);
    for (int left = epoch + 1; left < 12; ++left)
      CHECK(same_machine(must_get(*store, "j1/e" + std::to_string(left) + "/guest-0.ram"),
                         streams[static_cast<unsigned>(left)]));
    if (epoch == 10) {
      // One image left: little more than it needs.
      const auto figures = store->figures();
      const auto fresh = must_put(*store, "j2/e1/guest-0.disk", flat_bytes(77, 4096), ImageKind::flat);
      CHECK(fresh.new_pages == 1);
      CHECK(static_cast<double>(figures.pages) < 1.45 * 280);
      REQUIRE(store->remove("j2/e1/guest-0.disk").has_value());
    }
  }
  must_collect(*store);
  CHECK(files.names().empty());
}

TEST_CASE("a pack has no more pages than it may, whoever writes it") {
  MemoryFiles files;
  ChunkStoreOptions options;
  options.pack_pages = 128;
  auto store = open_store(files, options);
  const std::string first = flat_bytes(1, 1000 * kPageBytes);
  must_put(*store, "j1/e1/guest-0.disk", first, ImageKind::flat);
  const auto figures = store->figures();
  REQUIRE(figures.pages > 600);
  CHECK(figures.packs == (figures.pages + 127) / 128);
  CHECK(must_get(*store, "j1/e1/guest-0.disk") == first);
  // Small packs in great number are put together, up to that size; one has at most twice so many pages.
  for (int epoch = 2; epoch < 20; ++epoch)
    must_put(*store, "j1/e" + std::to_string(epoch) + "/guest-0.disk", flat_bytes(100 + epoch, 20 * kPageBytes),
             ImageKind::flat);
  const auto before = store->figures();
  must_collect(*store);
  const auto after = store->figures();
  CHECK(after.packs < before.packs);
  CHECK(after.packs >= after.pages / 256);
  must_collect(*store);
  CHECK(store->figures().packs == after.packs);  // what is put together stays
  check_all_well(*store);
  CHECK(must_get(*store, "j1/e1/guest-0.disk") == first);
  CHECK(must_get(*open_store(files, options), "j1/e19/guest-0.disk") == flat_bytes(119, 20 * kPageBytes));
}

TEST_CASE("a collection beside an image being written takes none of its pages") {
  MemoryFiles files;
  auto store = open_store(files);
  const std::string image = TestGuest(1).stream(), other = TestGuest(2).stream();
  must_put(*store, "j1/e1/guest-0.ram", image);
  must_put(*store, "j1/e1/guest-1.ram", other);
  auto ingest = store->begin("j1/e2/guest-0.ram", ImageKind::memory);
  REQUIRE((*ingest)->write(std::string_view(image).substr(0, image.size() / 2)).has_value());
  REQUIRE(store->remove("j1/e1/").has_value());
  must_collect(*store);
  REQUIRE((*ingest)->write(std::string_view(image).substr(image.size() / 2)).has_value());
  const auto figures = (*ingest)->commit();
  REQUIRE_MESSAGE(figures.has_value(), figures.error());
  CHECK(figures->known_pages > 80);
  CHECK(figures->new_pages > 80);
  ingest->reset();
  CHECK(same_machine(must_get(*store, "j1/e2/guest-0.ram"), image));
  check_all_well(*store);
  store = open_store(files);
  CHECK(same_machine(must_get(*store, "j1/e2/guest-0.ram"), image));
}

TEST_CASE("an image being read stays readable when it is removed and collected") {
  MemoryFiles files;
  auto store = open_store(files);
  const std::string image = flat_bytes(1, 5'000'000);
  must_put(*store, "j1/e1/guest-0.disk", image, ImageKind::flat);
  auto source = store->read("j1/e1/guest-0.disk");
  REQUIRE(source.has_value());
  REQUIRE(store->remove("j1/").has_value());
  must_collect(*store);
  std::string read;
  for (;;) {
    auto piece = (*source)->read();
    REQUIRE_MESSAGE(piece.has_value(), piece.error());
    if (piece->empty()) break;
    read += *piece;
  }
  CHECK(read == image);
  source->reset();
  must_collect(*store);
  CHECK(files.names().empty());
}

ChunkStoreOptions another_hosts() {
  ChunkStoreOptions options;
  options.read_only = true;
  return options;
}

TEST_CASE("another process reads an image while the store moves its pages, at whatever moment") {
  std::string all, part;
  for (std::uint64_t seed = 1; seed <= 400; ++seed) all += test::page_of(seed);
  for (std::uint64_t seed = 1; seed <= 400; seed += 7) part += test::page_of(seed);
  for (unsigned n = 0;; ++n) {
    CAPTURE(n);
    MemoryFiles files;
    auto store = open_store(files);
    must_put(*store, "j1/e1/guest-0.disk", all, ImageKind::flat);
    must_put(*store, "j1/e2/guest-0.disk", part, ImageKind::flat);
    REQUIRE(store->remove("j1/e1/").has_value());
    unsigned looks = 0;
    test::WatchedFiles watched(files, {}, [&](const test::FileStep&) {
      if (looks++ == n) CHECK(must_collect(*store).packs_compacted == 1);
    });
    CHECK(must_get(*open_store(watched, another_hosts()), "j1/e2/guest-0.disk") == part);
    if (looks <= n) {
      CHECK(n > 2);
      break;
    }
  }
}

TEST_CASE("another host opens the packs of the image that it reads, and all of them only when pages have moved") {
  MemoryFiles files;
  auto store = open_store(files);
  std::string parts;
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    const std::string image = flat_bytes(seed, 400'000);
    must_put(*store, "j1/e" + std::to_string(seed) + "/guest-0.disk", image, ImageKind::flat);
    parts += image.substr(0, 40'000 - 40'000 % kPageBytes);
  }
  must_put(*store, "j2/e1/guest-0.disk", parts, ImageKind::flat);
  REQUIRE(store->figures().packs == 20);
  std::set<fs::path> opened;
  test::WatchedFiles watched(files, {}, [&](const test::FileStep& step) {
    if (step.kind == test::FileStep::Kind::open && step.path.extension() == ".pack") opened.insert(step.path);
  });
  const auto count = [&](const std::string& name, const std::string& bytes) {
    opened.clear();
    CHECK(must_get(*open_store(watched, another_hosts()), name) == bytes);
    return opened.size();
  };
  CHECK(count("j1/e7/guest-0.disk", flat_bytes(7, 400'000)) == 1);
  CHECK(count("j2/e1/guest-0.disk", parts) == 20);
  // What two images need of the others moves into one pack; the origins' files are gone.
  for (std::uint64_t seed = 1; seed <= 20; ++seed)
    if (seed != 7) REQUIRE(store->remove("j1/e" + std::to_string(seed) + "/").has_value());
  CHECK(must_collect(*store).packs_compacted == 19);
  CHECK(count("j1/e7/guest-0.disk", flat_bytes(7, 400'000)) == 1);
  CHECK(count("j2/e1/guest-0.disk", parts) == 2);
  const auto checked = open_store(watched, another_hosts())->verify({"j2/e1/guest-0.disk"});
  REQUIRE(checked.has_value());
  CHECK(checked->packs == 2);
  CHECK(checked->problems.empty());
}

TEST_CASE("a copy of an image that comes beside a collection, at whatever moment, is refused or stays") {
  MemoryFiles origin;
  const std::string image = flat_bytes(8, 300'000), name = "j1/e1/guest-0.disk";
  must_put(*open_store(origin), name, image, ImageKind::flat);
  unsigned taken = 0;
  for (unsigned n = 0;; ++n) {
    CAPTURE(n);
    MemoryFiles files;
    bool collecting = false, came = false;
    Status put;
    unsigned looks = 0;
    std::unique_ptr<ChunkStore> copy;
    test::WatchedFiles watched(files, {}, [&](const test::FileStep&) {
      if (!collecting || looks++ != n) return;
      came = true;
      put = copy->put_image(name, origin.names().at("/s/images/" + name)->bytes);
    });
    copy = open_store(watched);
    for (const auto& [path, content] : origin.names())
      if (path.extension() == ".pack") files.names()[path] = content;
    REQUIRE(copy->refresh().has_value());
    collecting = true;
    must_collect(*copy);
    collecting = false;
    if (!came) break;
    if (put) CHECK(must_get(*open_store(files), name) == image);
    else CHECK(put.error().kind == ErrorKind::damaged);
    taken += put ? 1 : 0;
  }
  CHECK(taken > 0);
}

TEST_CASE("keys: made when missing, for their owner only, rotated without losing what is there") {
  char name[] = "/tmp/stillpoint-keys-XXXXXX";
  REQUIRE(::mkdtemp(name) != nullptr);
  const fs::path path = fs::path(name) / "store.keys";
  const auto keys = load_site_keys(path);
  REQUIRE_MESSAGE(keys.has_value(), keys.error());
  struct stat state {};
  REQUIRE(::stat(path.c_str(), &state) == 0);
  CHECK((state.st_mode & 0777) == 0600);
  CHECK(load_site_keys(path)->active().key == keys->active().key);

  MemoryFiles files;
  const std::string image = TestGuest(1).stream();
  must_put(*open_store(files, {}, "/s", *keys), "j1/e1/guest-0.ram", image);
  REQUIRE(rotate_site_key(path).has_value());
  const auto rotated = load_site_keys(path);
  REQUIRE(rotated.has_value());
  CHECK(rotated->active().id != keys->active().id);
  auto store = open_store(files, {}, "/s", *rotated);
  CHECK(same_machine(must_get(*store, "j1/e1/guest-0.ram"), image));
  CHECK(must_put(*store, "j1/e2/guest-0.ram", image).new_pages > 200);  // with the new key
  check_all_well(*store);
  const auto without = get(*open_store(files), "j1/e1/guest-0.ram");  // not the site's key
  REQUIRE(!without.has_value());
  CHECK_MESSAGE(without.error().kind == ErrorKind::transient, without.error());

  ::chmod(path.c_str(), 0644);
  CHECK(load_site_keys(path).has_error());
  fs::remove_all(name);
  for (const char* text :
       {"", "stillpoint-store-keys 1\n", "stillpoint-store-keys 2\n", "stillpoint-store-keys 1\nx y\n"})
    CHECK(parse_site_keys(text).has_error());
}

TEST_CASE("pages that were moved under a key that is not known here are not damaged, and stay") {
  MemoryFiles files;
  const SiteKeys old = test::some_keys();
  SiteKey next = old.active();
  next.id ^= 5;
  next.key[7] ^= 5;
  const std::string image = TestGuest(1).stream(), name = "j1/e1/guest-0.ram";
  must_put(*open_store(files, {}, "/s", old), name, image);
  {
    ChunkStoreOptions all_anew;
    all_anew.compact_below = 2;
    const auto store = open_store(files, all_anew, "/s", SiteKeys({old.active(), next}));
    CHECK(must_collect(*store).packs_compacted == 1);
  }
  const std::size_t there = files.names().size();
  for (const bool read_only : {true, false}) {
    CAPTURE(read_only);
    ChunkStoreOptions options;
    options.read_only = read_only;
    const auto store = open_store(files, options, "/s", old);
    const auto read = get(*store, name);
    REQUIRE(!read.has_value());
    CHECK_MESSAGE(read.error().kind == ErrorKind::transient, read.error());
    CHECK(read.error().cause.find("copy that file here") != std::string::npos);
    const auto check = store->verify_image(name, {});
    REQUIRE_MESSAGE(check.has_value(), check.error());
    REQUIRE(!check->problems.empty());
    for (const Error& problem : check->problems) CHECK_MESSAGE(problem.kind == ErrorKind::transient, problem);
    if (!read_only) must_collect(*store);
  }
  CHECK(files.names().size() == there);
  CHECK(same_machine(must_get(*open_store(files, {}, "/s", SiteKeys({old.active(), next})), name), image));
}

TEST_CASE("a pack that is damaged is that also beside one whose key is not known here") {
  MemoryFiles files;
  const SiteKeys keys = test::some_keys();
  SiteKey other = keys.active();
  other.id ^= 5;
  must_put(*open_store(files, {}, "/s", keys), "j1/e1/guest-0.ram", TestGuest(1).stream());
  for (auto& [path, file] : files.names())
    if (path.extension() == ".pack") file->bytes.back() ^= 1;
  must_put(*open_store(files, {}, "/s", SiteKeys({other})), "j1/e2/guest-0.ram", TestGuest(2).stream());
  const auto store = open_store(files, {}, "/s", keys);
  CHECK(get(*store, "j1/e1/guest-0.ram").error().kind == ErrorKind::damaged);
  CHECK(get(*store, "j1/e2/guest-0.ram").error().kind == ErrorKind::transient);
}

TEST_CASE("real files, from several threads at once") {
  char name[] = "/tmp/stillpoint-chunks-XXXXXX";
  REQUIRE(::mkdtemp(name) != nullptr);
  const std::string shared = TestGuest(1).stream();
  {
    ChunkStoreOptions options;
    options.pack_bytes = 300'000;
    auto store = open_store(system_files(), options, fs::path(name) / "store");
    std::vector<std::thread> threads;
    for (unsigned guest = 0; guest < 4; ++guest)
      threads.emplace_back([&, guest] {
        std::mt19937_64 random(guest);
        TestGuest own(guest / 2 + 1);
        for (int epoch = 0; epoch < 6; ++epoch, own.change(random, 40)) {
          const std::string image = "j1/e" + std::to_string(epoch) + "/guest-" + std::to_string(guest) + ".ram";
          const std::string stream = own.stream();
          CHECK(put(*store, image, ImageKind::memory, stream).has_value());
          const auto back = get(*store, image);
          CHECK((back && same_machine(*back, stream)));
          if (epoch > 2)
            CHECK(store->remove("j1/e" + std::to_string(epoch - 2) + "/guest-" + std::to_string(guest) + ".ram"));
        }
      });
    threads.emplace_back([&] {
      for (int i = 0; i < 10; ++i) CHECK(store->collect().has_value());
    });
    for (std::thread& thread : threads) thread.join();
    check_all_well(*store);
    CHECK(store->images()->size() == 12);
    REQUIRE(store->remove("j1/").has_value());
    must_collect(*store);
  }
  CHECK(fs::is_empty(fs::path(name) / "store/packs"));
  CHECK(fs::is_empty(fs::path(name) / "store/images"));
  fs::remove_all(name);
}

TEST_CASE("a real file system that is full: said so, nothing left behind, and room again after a collection") {
  char name[] = "/tmp/stillpoint-full-XXXXXX";
  REQUIRE(::mkdtemp(name) != nullptr);
  if (::mount("tmpfs", name, "tmpfs", 0, "size=1M") != 0) {
    MESSAGE("skipped: no right to mount");
    ::rmdir(name);
    return;
  }
  {
    auto store = open_store(system_files(), {}, fs::path(name) / "store");
    const std::string image = flat_bytes(1, 6'000'000), large = flat_bytes(2, 20'000'000);
    must_put(*store, "j1/e1/guest-0.disk", image, ImageKind::flat);
    const auto before = system_files().free_bytes(name);
    const auto full = put(*store, "j1/e2/guest-0.disk", ImageKind::flat, large);
    REQUIRE(full.has_error());
    CHECK(full.error().kind == ErrorKind::storage_full);
    CHECK(*system_files().free_bytes(name) == *before);
    CHECK(must_get(*store, "j1/e1/guest-0.disk") == image);
    REQUIRE(store->remove("j1/").has_value());
    must_collect(*store);
    must_put(*store, "j1/e3/guest-0.disk", image, ImageKind::flat);
    CHECK(must_get(*store, "j1/e3/guest-0.disk") == image);
  }
  CHECK(::umount(name) == 0);
  ::rmdir(name);
}

TEST_CASE("names that lead elsewhere are refused") {
  MemoryFiles files;
  auto store = open_store(files);
  for (const char* name : {"", "a", "a/b", "a/b/c/d", "../b/c", "a//c", "a/b/.c", "/a/b", "a/b/c.tmp"}) {
    CHECK(store->begin(name, ImageKind::flat).error().kind == ErrorKind::refused);
    CHECK(store->read(name).error().kind == ErrorKind::refused);
  }
}

}  // namespace
}  // namespace stillpoint::node
