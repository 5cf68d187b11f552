// Threads that unpack the blocks of an image ahead of its reader: in files of their own, since several read at once.
#include <doctest/doctest.h>
#include <stdlib.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <latch>
#include <thread>

#include "node-daemon/store/chunk_store.h"
#include "node-daemon/store/store_test_data.h"

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;
using test::same_machine;
using test::TestGuest;

struct Place {
  char name[32] = "/tmp/spl-unpack-XXXXXX";
  Place() { REQUIRE(::mkdtemp(name) != nullptr); }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;
  ~Place() { fs::remove_all(name); }
  std::unique_ptr<ChunkStore> store(unsigned threads, bool read_only = false) const {
    return store(std::make_shared<UnpackThreads>(threads), read_only);
  }
  std::unique_ptr<ChunkStore> store(std::shared_ptr<UnpackThreads> threads, bool read_only) const {
    ChunkStoreOptions options;
    options.pack_bytes = 200'000;
    options.unpack_threads = std::move(threads);
    options.read_only = read_only;
    auto opened = ChunkStore::open(system_files(), fs::path(name) / "store", test::some_keys(), options);
    REQUIRE_MESSAGE(opened.has_value(), opened.error());
    return std::move(*opened);
  }
};

std::string image(std::size_t epoch) { return "j1/e" + std::to_string(epoch) + "/guest-0.ram"; }

std::string must_get(ChunkStore& store, const std::string& name) {
  auto found = test::get(store, name);
  REQUIRE_MESSAGE(found.has_value(), found.error());
  return *found;
}

}  // namespace

TEST_CASE("threads that unpack ahead change nothing of what is read, while packs move below them") {
  constexpr std::size_t kEpochs = 8;
  const Place place;
  std::mt19937_64 random(4);
  TestGuest guest(1);
  auto store = place.store(3);
  std::vector<std::string> streams;
  for (std::size_t epoch = 0; epoch < kEpochs; ++epoch, guest.change(random, 60)) {
    streams.push_back(guest.stream(&random));
    REQUIRE(test::put(*store, image(epoch), ImageKind::memory, streams.back()).has_value());
  }
  for (std::size_t epoch = 0; epoch < kEpochs; ++epoch) {
    CAPTURE(epoch);
    const std::string ahead = must_get(*store, image(epoch));
    CHECK(same_machine(ahead, streams[epoch]));
    CHECK(ahead == must_get(*place.store(0, true), image(epoch)));
  }
  // Every second one goes, and what the others need is moved together while these are read.
  constexpr std::size_t kReaders = kEpochs / 2;
  std::latch begun(kReaders);
  std::atomic<bool> moved = false;
  std::vector<std::vector<std::string>> wrong(kEpochs);
  {
    std::vector<std::jthread> readers;
    for (std::size_t epoch = 1; epoch < kEpochs; epoch += 2)
      readers.emplace_back([&, epoch] {
        bool first = true;
        for (bool last = false; !last;) {
          last = moved;
          // Every second one as another host does.
          const auto found = test::get(epoch % 4 == 1 ? *store : *place.store(3, true), image(epoch));
          if (!found) wrong[epoch].push_back(found.error().message());
          else if (!same_machine(*found, streams[epoch])) wrong[epoch].emplace_back("another image");
          if (std::exchange(first, false)) begun.count_down();
        }
      });
    begun.wait();
    for (std::size_t epoch = 0; epoch < kEpochs; epoch += 2) REQUIRE(store->remove(image(epoch)).has_value());
    const auto report = store->collect();
    moved = true;
    REQUIRE(report.has_value());
    CHECK(report->packs_compacted > 0);
  }
  for (std::size_t epoch = 1; epoch < kEpochs; epoch += 2)
    for (const auto& why : wrong[epoch]) FAIL_CHECK(why);
}

TEST_CASE("stores that share threads have no more than these together, and give them back") {
  const Place place;
  const auto threads = std::make_shared<UnpackThreads>(2);
  const auto own = place.store(threads, false);
  const std::string stream = TestGuest(1, 1, 3'000).stream();
  REQUIRE(test::put(*own, image(1), ImageKind::memory, stream).has_value());
  const auto other = place.store(threads, true);
  auto source = own->read(image(1));
  REQUIRE(source.has_value());
  REQUIRE((*source)->read().has_value());
  CHECK(threads->take() == 0);
  CHECK(same_machine(must_get(*other, image(1)), stream));
  CHECK(threads->take() == 0);
  source->reset();
  CHECK(same_machine(must_get(*other, image(1)), stream));
  CHECK(threads->take() == 2);
}

TEST_CASE("what is damaged is found by threads as well, and a reader may go before its threads are done") {
  const Place place;
  auto store = place.store(2);
  REQUIRE(test::put(*store, image(1), ImageKind::memory, TestGuest(1, 1, 3'000).stream()).has_value());
  {
    auto source = store->read(image(1));
    REQUIRE(source.has_value());
    REQUIRE((*source)->read().has_value());
  }
  for (const auto& entry : fs::recursive_directory_iterator(place.name)) {
    if (entry.path().extension() != ".pack") continue;
    std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
    const auto middle = static_cast<std::streamoff>(entry.file_size() / 2);
    file.seekg(middle);
    const char flipped = static_cast<char>(file.get() ^ 1);
    file.seekp(middle);
    file.put(flipped);
    REQUIRE(file.flush().good());
  }
  const auto found = test::get(*store, image(1));
  REQUIRE_FALSE(found.has_value());
  CHECK(found.error().kind == ErrorKind::damaged);
}

}  // namespace stillpoint::node
