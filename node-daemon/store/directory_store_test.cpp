#include "node-daemon/store/directory_store.h"

#include <doctest/doctest.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <random>
#include <thread>

#include "common/process.h"
#include "node-daemon/store/image_writer.h"

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;

struct Place {
  fs::path path;
  Place() {
    char name[] = "/tmp/stillpoint-store-XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    path = name;
  }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;
  ~Place() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
};

const ImageName kMemory{{"j7"}, {12}, {0}, ImageName::Part::memory};

std::unique_ptr<ImageStore> open_store(const fs::path& path, const std::string& host = "h1") {
  auto store = open_directory_store(path, {host});
  REQUIRE_MESSAGE(store.has_value(), store.error());
  return std::move(*store);
}

std::string noise(std::size_t bytes) {
  std::mt19937_64 random(42);
  std::string text(bytes, '\0');
  for (std::size_t i = 0; i + 8 <= bytes; i += 8) {
    const std::uint64_t value = i % 4096 < 2048 ? random() : 0;  // half of it compresses
    std::memcpy(text.data() + i, &value, 8);
  }
  return text;
}

wire::ImageFile put(ImageStore& store, const std::string& raw) {
  auto writer = store.begin(kMemory, {});
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

std::size_t files_below(const fs::path& path) {
  std::size_t count = 0;
  for (const auto& entry : fs::recursive_directory_iterator(path)) count += entry.is_regular_file() ? 1 : 0;
  return count;
}

TEST_CASE("an image comes back as it was written, under its name, for nobody else to read") {
  Place place;
  auto store = open_store(place.path / "images");
  const std::string raw = noise(5'000'000);
  const auto file = put(*store, raw);
  CHECK(file.path() == "j7/e12/guest-0.ram.zst");
  CHECK(file.raw_bytes() == raw.size());
  CHECK(file.stored_bytes() == fs::file_size(place.path / "images" / file.path()));
  CHECK(file.stored_bytes() < raw.size() * 6 / 10);
  auto back = get(*store, file);
  REQUIRE_MESSAGE(back.has_value(), back.error());
  CHECK(*back == raw);
  struct stat info {};
  REQUIRE(::stat((place.path / "images" / file.path()).c_str(), &info) == 0);
  CHECK((info.st_mode & 0777) == 0600);
  REQUIRE(::stat((place.path / "images/j7").c_str(), &info) == 0);
  CHECK((info.st_mode & 0777) == 0700);
}

TEST_CASE("an empty image is an image") {
  Place place;
  auto store = open_store(place.path / "images");
  auto back = get(*store, put(*store, ""));
  REQUIRE_MESSAGE(back.has_value(), back.error());
  CHECK(back->empty());
}

TEST_CASE("a flipped bit anywhere is noticed before a byte is given out") {
  Place place;
  auto store = open_store(place.path / "images");
  const auto file = put(*store, noise(1'000'000));
  const fs::path path = place.path / "images" / file.path();
  for (const std::uint64_t at : {std::uint64_t{0}, file.stored_bytes() / 2, file.stored_bytes() - 1}) {
    auto flip = [&] {
      std::fstream stream(path, std::ios::in | std::ios::out | std::ios::binary);
      stream.seekg(static_cast<std::streamoff>(at));
      const char byte = static_cast<char>(stream.get() ^ 0x10);
      stream.seekp(static_cast<std::streamoff>(at));
      stream.put(byte);
    };
    flip();
    auto opened = store->open(file);
    REQUIRE(!opened.has_value());
    CHECK(opened.error().kind == ErrorKind::damaged);
    CHECK(opened.error().object == path.string());
    flip();
    REQUIRE(get(*store, file).has_value());
  }
}

TEST_CASE("a torn, a longer and a missing image are damaged") {
  Place place;
  auto store = open_store(place.path / "images");
  const auto file = put(*store, noise(1'000'000));
  const fs::path path = place.path / "images" / file.path();
  fs::resize_file(path, file.stored_bytes() + 1);
  CHECK(store->open(file).error().kind == ErrorKind::damaged);
  fs::resize_file(path, file.stored_bytes() - 1);
  CHECK(store->open(file).error().kind == ErrorKind::damaged);
  fs::remove(path);
  CHECK(store->open(file).error().kind == ErrorKind::damaged);
}

TEST_CASE("without the shared directory nothing is known of an image: it is not damaged") {
  Place place;
  const auto root = place.path / "images";
  auto store = open_store(root);
  const auto file = put(*store, noise(10'000));
  fs::rename(root, place.path / "away");
  CHECK(store->open(file).error().kind == ErrorKind::transient);
  fs::create_directory(root);  // a mount point without its mount
  CHECK(store->open(file).error().kind == ErrorKind::transient);
  fs::remove(root);
  fs::rename(place.path / "away", root);
  CHECK(get(*store, file).has_value());
}

TEST_CASE("an image that is damaged between the check and the reading is noticed at its end") {
  Place place;
  auto store = open_store(place.path / "images");
  const auto file = put(*store, noise(20'000'000));
  auto reader = store->open(file);
  REQUIRE(reader.has_value());
  {
    std::fstream stream(place.path / "images" / file.path(), std::ios::in | std::ios::out | std::ios::binary);
    stream.seekp(static_cast<std::streamoff>(file.stored_bytes() - 1000));
    stream.write("XXXXXXXX", 8);
  }
  for (;;) {
    auto block = (*reader)->read();
    if (!block) {
      CHECK(block.error().kind == ErrorKind::damaged);
      break;
    }
    REQUIRE(!block->empty());
  }
}

TEST_CASE("what was not committed leaves nothing; what a dead daemon left goes at the next start, other hosts' stays") {
  Place place;
  auto store = open_store(place.path / "images");
  {
    auto writer = store->begin(kMemory, {});
    REQUIRE(writer.has_value());
    REQUIRE((*writer)->write(noise(100'000)).has_value());
  }
  CHECK(files_below(place.path) == 0);
  std::ofstream(place.path / "images/j7/e12/.guest-0.ram.zst.h1.tmp") << "half";
  std::ofstream(place.path / "images/j7/e12/.guest-0.ram.zst.x.h1.tmp") << "half";
  open_store(place.path / "images");
  CHECK(!fs::exists(place.path / "images/j7/e12/.guest-0.ram.zst.h1.tmp"));
  CHECK(fs::exists(place.path / "images/j7/e12/.guest-0.ram.zst.x.h1.tmp"));
}

TEST_CASE("a writer that waits for the store ends when the image is given up") {
  Place place;
  std::stop_source stop;
  // One block keeps the compressor busy for seconds; the next has to wait.
  auto writer = make_image_writer(place.path / "t", place.path / "image", "image",
                                  {.level = 19, .buffer_bytes = 1, .stop = stop.get_token()});
  REQUIRE(writer.has_value());
  REQUIRE((*writer)->write(noise(8 << 20)).has_value());
  std::jthread other([&] { stop.request_stop(); });
  const Status waited = (*writer)->write("more");
  REQUIRE(!waited.has_value());
  CHECK(waited.error().kind == ErrorKind::refused);
  CHECK((*writer)->commit().error().kind == ErrorKind::refused);
}

TEST_CASE("a writer that is destroyed at once ends, also when its thread is only just going to sleep") {
  Place place;
  for (int i = 0; i < 3000; ++i) {
    auto writer = make_image_writer(place.path / "t", place.path / "image", "image");
    REQUIRE(writer.has_value());
    writer->reset();
  }
  CHECK(files_below(place.path) == 0);
}

TEST_CASE("images are deleted per guest or per epoch, and what is not there is deleted already") {
  Place place;
  auto store = open_store(place.path / "images");
  put(*store, "abc");
  REQUIRE(store->remove({"j7"}, {12}, std::vector<GuestIndex>{{1}}).has_value());
  CHECK(files_below(place.path) == 1);
  REQUIRE(store->remove({"j7"}, {12}, std::vector<GuestIndex>{{0}}).has_value());
  CHECK(!fs::exists(place.path / "images/j7"));
  put(*store, "abc");
  REQUIRE(store->remove({"j7"}, {12}, std::nullopt).has_value());
  CHECK(!fs::exists(place.path / "images/j7"));
  REQUIRE(store->remove({"j7"}, {12}, std::nullopt).has_value());
}

TEST_CASE("no name leads out of the directory") {
  Place place;
  auto store = open_store(place.path / "images");
  for (const char* path : {"../x", "/etc/passwd", "j7/../../x", "", "j7/e1/.hidden"}) {
    wire::ImageFile file;
    file.set_path(path);
    auto opened = store->open(file);
    REQUIRE(!opened.has_value());
    CHECK(opened.error().kind == ErrorKind::refused);
  }
  CHECK(store->begin({{".."}, {1}, {0}}, {}).error().kind == ErrorKind::refused);
  CHECK(store->remove({"a/b"}, {1}, std::nullopt).error().kind == ErrorKind::refused);
}

TEST_CASE("a full file system is an error of its own kind that names the place, and leaves no part of the image") {
  Place place;
  const fs::path small = place.path / "small";
  fs::create_directory(small);
  REQUIRE_MESSAGE(::mount("tmpfs", small.c_str(), "tmpfs", 0, "size=2m") == 0,
                  "mounting a tmpfs needs root: ", std::strerror(errno));
  {
    auto store = open_store(small / "images");
    auto writer = store->begin(kMemory, {});
    REQUIRE(writer.has_value());
    std::mt19937_64 random(1);
    std::string raw(8 << 20, '\0');
    for (auto& c : raw) c = static_cast<char>(random());
    Status written = (*writer)->write(raw);
    auto committed = (*writer)->commit();
    REQUIRE(!committed.has_value());
    CHECK(committed.error().kind == ErrorKind::storage_full);
    CHECK(committed.error().object == (small / "images/j7/e12/guest-0.ram.zst").string());
    writer->reset();
    CHECK(files_below(small) == 0);
    auto free = store->free_bytes();
    REQUIRE(free.has_value());
    CHECK(*free > (1u << 20));
  }
  CHECK(::umount(small.c_str()) == 0);
}

}  // namespace
}  // namespace stillpoint::node
