#include "node-daemon/store/chunk_image_store.h"

#include <doctest/doctest.h>
#include <stdlib.h>

#include <algorithm>
#include <fstream>

#include "node-daemon/store/directory_store.h"
#include "node-daemon/store/store_test_data.h"

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;
using test::TestGuest;

struct Place {
  fs::path path;
  Place() {
    char name[] = "/tmp/stillpoint-images-XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    path = name;
  }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;
  ~Place() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  std::unique_ptr<ImageStore> open(const std::string& host) const {
    auto store = open_chunk_image_store(path / "images", {host}, path / "images/store.keys");
    REQUIRE_MESSAGE(store.has_value(), store.error());
    return std::move(*store);
  }
  // Of packs and old images, not of the lists.
  std::size_t files() const {
    return static_cast<std::size_t>(
        std::ranges::count_if(fs::recursive_directory_iterator(path / "images"), [](const fs::directory_entry& entry) {
          return entry.is_regular_file() && entry.path().extension() != ".keys";
        }));
  }
};

wire::ImageFile put(ImageStore& store, const ImageName& name, const std::string& raw) {
  auto writer = store.begin(name, {});
  REQUIRE_MESSAGE(writer.has_value(), writer.error());
  for (std::size_t at = 0; at < raw.size(); at += 100'000)
    REQUIRE((*writer)->write(std::string_view(raw).substr(at, 100'000)).has_value());
  auto file = (*writer)->commit();
  REQUIRE_MESSAGE(file.has_value(), file.error());
  return *file;
}

Result<std::string> get(ImageStore& store, const wire::ImageFile& file) {
  auto reader = store.open(file);
  if (!reader) return reader.error();
  std::string raw;
  for (;;) {
    auto block = (*reader)->read();
    if (!block) return block.error();
    if (block->empty()) return raw;
    raw += *block;
  }
}

const ImageName kMemory{{"j7"}, {12}, {0}, ImageName::Part::memory};
const ImageName kDisk{{"j7"}, {12}, {0}, ImageName::Part::disk};

TEST_CASE("what one host stored, any host reads, and any may delete; the space is free when its host looks again") {
  Place place;
  auto one = place.open("h1"), two = place.open("h2");
  const std::string memory = TestGuest(1).stream(), disk = test::flat_bytes(4, 300'000);
  const auto memory_file = put(*one, kMemory, memory), disk_file = put(*one, kDisk, disk);
  CHECK(memory_file.path() == "chunks/h1/j7/e12/guest-0.ram");
  CHECK(memory_file.raw_bytes() == memory.size());
  for (ImageStore* store : {one.get(), two.get()}) {
    const auto read = get(*store, memory_file);
    REQUIRE_MESSAGE(read.has_value(), read.error());
    CHECK(test::same_machine(*read, memory));
    CHECK(*get(*store, disk_file) == disk);
  }
  REQUIRE(two->remove(kMemory.job, kMemory.epoch, std::vector<GuestIndex>{{0}}).has_value());
  CHECK(get(*one, memory_file).error().kind == ErrorKind::damaged);
  CHECK(get(*two, disk_file).error().kind == ErrorKind::damaged);
  REQUIRE(one->remove(kMemory.job, kMemory.epoch, std::nullopt).has_value());
  CHECK(place.files() == 0);
}

TEST_CASE("an image that was given up leaves nothing") {
  Place place;
  auto store = place.open("h1");
  {
    auto writer = store->begin(kMemory, {});
    REQUIRE((*writer)->write(TestGuest(1).stream()).has_value());
  }
  CHECK(place.files() == 0);
}

TEST_CASE("a writer whose image is given up says so at once") {
  Place place;
  auto store = place.open("h1");
  std::stop_source stop;
  auto writer = store->begin(kMemory, stop.get_token());
  REQUIRE((*writer)->write(TestGuest(1).stream()).has_value());
  stop.request_stop();
  CHECK((*writer)->write("more").error().kind == ErrorKind::refused);
  CHECK((*writer)->commit().error().kind == ErrorKind::refused);
  writer->reset();
  CHECK(place.files() == 0);
}

TEST_CASE("without the shared directory nothing is known of an image: it is not damaged") {
  Place place;
  auto store = place.open("h1");
  const auto file = put(*store, kDisk, test::flat_bytes(4, 50'000));
  fs::rename(place.path / "images", place.path / "away");
  CHECK(get(*store, file).error().kind == ErrorKind::transient);
  fs::create_directory(place.path / "images");  // a mount point without its mount
  CHECK(get(*store, file).error().kind == ErrorKind::transient);
  fs::remove(place.path / "images");
  fs::rename(place.path / "away", place.path / "images");
  CHECK(get(*store, file).has_value());
}

TEST_CASE("a list that is not the one of the catalog is refused, and so are paths that lead elsewhere") {
  Place place;
  auto store = place.open("h1");
  const auto first = put(*store, kDisk, test::flat_bytes(4, 50'000));
  const auto second = put(*store, kDisk, test::flat_bytes(5, 50'000));
  CHECK(get(*store, first).error().kind == ErrorKind::damaged);
  CHECK(get(*store, second).has_value());
  for (const char* path :
       {"chunks/h1", "chunks/../j7/e12/guest-0.disk", "chunks/h1/../e12/guest-0.disk", "chunks//a/b/c"}) {
    auto bad = second;
    bad.set_path(path);
    CHECK(get(*store, bad).error().kind == ErrorKind::refused);
  }
}

TEST_CASE("images without chunks stay readable, and go with their epoch") {
  Place place;
  const std::string disk = test::flat_bytes(4, 300'000);
  fs::create_directory(place.path / "images");
  const auto file = put(**open_directory_store(place.path / "images", {"h1"}), kDisk, disk);
  auto store = place.open("h1");
  CHECK(*get(*store, file) == disk);
  REQUIRE(store->remove(kDisk.job, kDisk.epoch, std::nullopt).has_value());
  CHECK(place.files() == 0);
}

}  // namespace
}  // namespace stillpoint::node
