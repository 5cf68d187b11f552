#include "node-daemon/store/chunk_image_store.h"

#include <doctest/doctest.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "node-daemon/store/store_lock.h"
#include "node-daemon/store/store_test_data.h"

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;
using Reach = ImageStore::Reach;
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
  fs::path images() const { return path / "images"; }
  Result<std::unique_ptr<SiteImageStore>> try_open(const std::string& host,
                                                   const std::string& keys = "store.keys") const {
    return open_chunk_image_store(images(), {host}, path / keys);
  }
  std::unique_ptr<ImageStore> open(const std::string& host) const {
    auto store = try_open(host);
    REQUIRE_MESSAGE(store.has_value(), store.error());
    return std::move(*store);
  }
  // Lists and packs.
  std::size_t files(const fs::path& below = "hosts") const {
    return static_cast<std::size_t>(std::ranges::count_if(
        fs::recursive_directory_iterator(images() / below),
        [](const fs::directory_entry& entry) { return entry.is_regular_file() && entry.path().filename() != "lock"; }));
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
  auto reader = store.open(file, {});
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
ImageName disk_of(std::uint64_t epoch) { return {{"j7"}, {epoch}, {0}, ImageName::Part::disk}; }

TEST_CASE("what one host stored, any host reads, for nobody else to read") {
  Place place;
  auto one = place.open("h1"), two = place.open("h2");
  const std::string memory = TestGuest(1).stream(), disk = test::flat_bytes(4, 300'000);
  const auto memory_file = put(*one, kMemory, memory), disk_file = put(*one, kDisk, disk);
  CHECK(memory_file.path() == "h1/j7/e12/guest-0.ram");
  CHECK(memory_file.raw_bytes() == memory.size());
  for (ImageStore* store : {one.get(), two.get()}) {
    const auto read = get(*store, memory_file);
    REQUIRE_MESSAGE(read.has_value(), read.error());
    CHECK(test::same_machine(*read, memory));
    CHECK(*get(*store, disk_file) == disk);
  }
  for (const auto& entry : fs::recursive_directory_iterator(place.images())) {
    struct stat info {};
    REQUIRE(::stat(entry.path().c_str(), &info) == 0);
    CHECK((info.st_mode & 077) == 0);
  }
}

TEST_CASE("an empty image is an image") {
  Place place;
  auto store = place.open("h1");
  const auto back = get(*store, put(*store, kDisk, ""));
  REQUIRE_MESSAGE(back.has_value(), back.error());
  CHECK(back->empty());
}

TEST_CASE("the next epoch of the same guest costs what changed") {
  Place place;
  auto store = place.open("h1");
  std::string disk = test::flat_bytes(4, 4'000'000);
  const auto first = put(*store, disk_of(1), disk);
  disk.replace(2'000'000, 4096, std::string(4096, 'x'));
  const auto second = put(*store, disk_of(2), disk);
  CHECK(second.stored_bytes() * 20 < first.stored_bytes());
  CHECK(*get(*store, second) == disk);
}

TEST_CASE("a host deletes what it stored and frees the space; other hosts' images stay") {
  Place place;
  auto one = place.open("h1"), two = place.open("h2");
  put(*one, kDisk, test::flat_bytes(4, 300'000));
  const auto other = put(*two, kMemory, TestGuest(1).stream());
  REQUIRE(one->remove(kDisk.job, {kDisk.epoch}, Reach::own, {}).has_value());
  CHECK(place.files("hosts/h1") == 0);
  CHECK(get(*one, other).has_value());
  REQUIRE(one->remove(kDisk.job, {kDisk.epoch}, Reach::own, {}).has_value());
}

TEST_CASE(
    "a deletion everywhere: lists go at once, the space of hosts that run when they look, that of dead ones too") {
  Place place;
  auto one = place.open("h1"), two = place.open("h2"), three = place.open("h3");
  for (auto* store : {one.get(), two.get(), three.get()}) {
    store->tidy();
    put(*store, disk_of(1), test::flat_bytes(4, 300'000));
    put(*store, disk_of(2), test::flat_bytes(5, 300'000));
  }
  const auto kept = put(*three, disk_of(3), test::flat_bytes(6, 100'000));
  three.reset();  // as a dead host leaves it
  REQUIRE(one->remove({"j7"}, {Epoch{1}, Epoch{2}}, Reach::all_hosts, {}).has_value());
  CHECK(place.files("hosts/h1") == 0);
  CHECK(fs::is_empty(place.images() / "hosts/h2/images"));
  CHECK(place.files("hosts/h2") > 0);  // h2 alone may touch its packs
  CHECK(place.files("hosts/h3") == 2);
  CHECK(get(*one, kept).has_value());
  two->tidy();
  CHECK(place.files("hosts/h2") == 0);
}

TEST_CASE("a host that was away frees what was deleted meanwhile") {
  Place place;
  auto one = place.open("h1"), two = place.open("h2");
  put(*two, kDisk, test::flat_bytes(4, 300'000));
  two.reset();
  {
    auto held = lock_store(place.images() / "hosts/h2", std::chrono::milliseconds(0));  // as if h1 could not tell
    REQUIRE(held.has_value());
    REQUIRE(one->remove(kDisk.job, {kDisk.epoch}, Reach::all_hosts, {}).has_value());
    CHECK(place.files("hosts/h2") > 0);
  }
  two = place.open("h2");
  two->tidy();
  CHECK(place.files("hosts/h2") == 0);
}

TEST_CASE("a daemon that ends frees no more space; the next one does") {
  Place place;
  auto store = place.open("h1");
  put(*store, disk_of(1), test::flat_bytes(4, 300'000));
  const auto kept = put(*store, disk_of(2), test::flat_bytes(5, 300'000));
  store->stop_freeing();
  REQUIRE(store->remove({"j7"}, {Epoch{1}}, Reach::own, {}).has_value());
  store->tidy();
  CHECK(place.files("hosts/h1/packs") == 2);
  CHECK(place.files("hosts/h1/images") == 1);
  CHECK(get(*store, kept).has_value());
  store.reset();
  store = place.open("h1");
  store->tidy();
  CHECK(place.files("hosts/h1/packs") == 1);
  CHECK(get(*store, kept).has_value());
}

TEST_CASE("one process at a time writes to a host's store") {
  Place place;
  auto store = place.open("h1");
  const auto second = lock_store(place.images() / "hosts/h1", std::chrono::milliseconds(1));
  REQUIRE(!second.has_value());
  CHECK(second.error().kind == ErrorKind::transient);
  store.reset();
  CHECK(lock_store(place.images() / "hosts/h1", std::chrono::milliseconds(0)).has_value());
}

TEST_CASE("an image is read to its end while its host moves its pages to another pack") {
  Place place;
  auto one = place.open("h1"), two = place.open("h2");
  // The pages of both in one pack: with one image gone, the pack is written anew.
  std::string common;
  for (std::uint64_t seed = 0; seed < 3000; ++seed) common += test::page_of(seed + 1);
  put(*one, disk_of(1), common);
  std::string part;
  for (std::uint64_t seed = 0; seed < 3000; seed += 7) part += test::page_of(seed + 1);
  const auto file = put(*one, disk_of(2), part);
  const auto packs = [&] {
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(place.images() / "hosts/h1/packs"))
      names.insert(entry.path().filename());
    return names;
  };
  auto reader = two->open(file, {});
  REQUIRE_MESSAGE(reader.has_value(), reader.error());
  const auto before = packs();
  REQUIRE(one->remove({"j7"}, {Epoch{1}}, Reach::own, {}).has_value());
  REQUIRE(packs() != before);
  std::string raw;
  for (;;) {
    auto block = (*reader)->read();
    REQUIRE_MESSAGE(block.has_value(), block.error());
    if (block->empty()) break;
    raw += *block;
  }
  CHECK(raw == part);
}

TEST_CASE("a flipped bit in a pack is noticed before its page is given out, by every host") {
  Place place;
  auto one = place.open("h1"), two = place.open("h2");
  const auto file = put(*one, kDisk, test::flat_bytes(4, 300'000));
  const fs::path pack = *fs::directory_iterator(place.images() / "hosts/h1/packs");
  {
    std::fstream stream(pack, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekg(1000);
    const char byte = static_cast<char>(stream.get() ^ 0x10);
    stream.seekp(1000);
    stream.put(byte);
  }
  for (ImageStore* store : {one.get(), two.get()}) {
    const auto read = get(*store, file);
    REQUIRE(!read.has_value());
    CHECK(read.error().kind == ErrorKind::damaged);
    CHECK(read.error().message().find(pack.filename()) != std::string::npos);
  }
  fs::remove(pack);
  for (ImageStore* store : {one.get(), two.get()}) CHECK(get(*store, file).error().kind == ErrorKind::damaged);
}

TEST_CASE("without the shared directory nothing is known of an image: it is not damaged") {
  Place place;
  auto store = place.open("h1");
  const auto file = put(*store, kDisk, test::flat_bytes(4, 50'000));
  fs::rename(place.images(), place.path / "away");
  CHECK(get(*store, file).error().kind == ErrorKind::transient);
  fs::create_directory(place.images());  // a mount point without its mount
  CHECK(get(*store, file).error().kind == ErrorKind::transient);
  fs::remove(place.images());
  fs::rename(place.path / "away", place.images());
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
       {"", "h1", "h1/j7", "../j7/e12/guest-0.disk", "h1/../e12/guest-0.disk", "/a/b/c", "j7/e12/guest-0.ram.zst"}) {
    auto bad = second;
    bad.set_path(path);
    CHECK(get(*store, bad).error().kind == ErrorKind::refused);
  }
  CHECK(store->remove({"a/b"}, {Epoch{1}}, Reach::own, {}).error().kind == ErrorKind::refused);
  CHECK(store->remove({".."}, {Epoch{1}}, Reach::all_hosts, {}).error().kind == ErrorKind::refused);
  CHECK(store->begin({{".."}, {1}, {0}}, {}).error().kind == ErrorKind::refused);
}

fs::path a_pack(const Place& place, const std::string& host) {
  for (const auto& entry : fs::directory_iterator(place.images() / "hosts" / host / "packs")) return entry.path();
  FAIL("there is no pack");
  return {};
}

TEST_CASE("an image is verified by any host, and what is wrong with it is named") {
  Place place;
  auto one = place.open("h1"), two = place.open("h2");
  const auto memory = put(*one, kMemory, TestGuest(1).stream());
  for (ImageStore* store : {one.get(), two.get()}) {
    const auto check = store->verify(memory, {}, {});
    REQUIRE_MESSAGE(check.has_value(), check.error());
    CHECK(check->problems.empty());
    CHECK(check->bytes > 0);
  }
  const fs::path pack = a_pack(place, "h1");
  std::fstream file(pack, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(200);
  const char byte = static_cast<char>(file.get() ^ 1);
  file.seekp(200);
  file.put(byte);
  file.close();
  for (ImageStore* store : {one.get(), two.get()}) {
    const auto check = store->verify(memory, {}, {});
    REQUIRE(check.has_value());
    REQUIRE(check->problems.size() == 1);
    CHECK(check->problems[0].kind == ErrorKind::damaged);
    CHECK(check->problems[0].object == pack.string());
  }
  fs::remove(pack);
  for (ImageStore* store : {one.get(), two.get()}) CHECK_FALSE(store->verify(memory, {}, {})->problems.empty());
  fs::remove(place.images() / "hosts" / memory.path().substr(0, 2) / "images" / memory.path().substr(3));
  for (ImageStore* store : {one.get(), two.get()})
    CHECK(store->verify(memory, {}, {})->problems.at(0).cause == "it is gone");
}

TEST_CASE("where the image directory is not mounted nothing is said of an image, and a check can be stopped") {
  Place place;
  auto store = place.open("h1");
  const auto file = put(*store, kDisk, test::flat_bytes(4, 50'000));
  std::stop_source stop;
  stop.request_stop();
  CHECK(store->verify(file, {}, stop.get_token()).error().kind == ErrorKind::transient);
  fs::rename(place.images(), place.path / "away");
  CHECK(store->verify(file, {}, {}).error().kind == ErrorKind::transient);
}

TEST_CASE("whose images a host holds is known by name, and what they take without reading") {
  Place place;
  auto one = place.open("h1"), two = place.open("h2");
  CHECK(one->held()->jobs().empty());
  CHECK(one->use().packs == 0);
  put(*one, kDisk, test::flat_bytes(4, 50'000));
  put(*one, disk_of(3), test::flat_bytes(4, 50'000));
  put(*one, {{"j10"}, {4}, {1}, ImageName::Part::memory}, TestGuest(1).stream());
  const auto held = one->held();
  REQUIRE(held.has_value());
  REQUIRE(held->jobs_size() == 2);
  CHECK(held->jobs(0).job() == "j10");
  CHECK(held->jobs(0).epochs_size() == 1);
  CHECK(held->jobs(1).job() == "j7");
  REQUIRE(held->jobs(1).epochs_size() == 2);
  CHECK(held->jobs(1).epochs(0) == 3);
  CHECK(held->jobs(1).epochs(1) == 12);
  CHECK(one->use().packs == 2);
  CHECK(one->use().pages > 0);
  CHECK(one->use().pack_bytes > 0);
  CHECK(two->held()->jobs().empty());
  CHECK(*one->total_bytes() > *one->free_bytes());
}

TEST_CASE("every host of a site has the same keys: one that has others, or none, is told so and makes none") {
  Place place;
  {
    auto store = place.open("h1");
    const auto none = place.try_open("h2", "other.keys");
    REQUIRE(!none.has_value());
    CHECK(none.error().message().find("copy") != std::string::npos);
    CHECK(!fs::exists(place.path / "other.keys"));
    REQUIRE(load_site_keys(place.path / "other.keys").has_value());
    const auto other = place.try_open("h2", "other.keys");
    REQUIRE(!other.has_value());
    CHECK(other.error().message().find("same file") != std::string::npos);
  }
  REQUIRE(rotate_site_key(place.path / "store.keys").has_value());
  place.open("h1");
  // When the old key's line is dropped, the new one is known to the site.
  std::ifstream in(place.path / "store.keys");
  std::string first, old, present;
  std::getline(in, first);
  std::getline(in, old);
  std::getline(in, present);
  std::ofstream(place.path / "store.keys") << first << '\n' << present << '\n';
  CHECK(place.try_open("h1").has_value());
}

void flip_bit(const fs::path& path, std::streamoff at) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(at);
  const char byte = static_cast<char>(file.get() ^ 1);
  file.seekp(at);
  file.put(byte);
}

constexpr std::streamoff kKeyId = 16;  // in the header of a pack and of an image's file

TEST_CASE("an image of a key that is not on this host yet is not damaged, and the message says what to copy") {
  Place place;
  const fs::path keys = place.path / "store.keys", of_two = place.path / "two.keys";
  place.open("h1");
  fs::copy_file(keys, of_two);
  REQUIRE(rotate_site_key(keys).has_value());
  const wire::ImageFile file = put(*place.open("h1"), kMemory, TestGuest(1).stream());
  {
    const auto two = place.try_open("h2", "two.keys");
    REQUIRE_MESSAGE(two.has_value(), two.error());
    const auto read = get(**two, file);
    REQUIRE(!read.has_value());
    CHECK_MESSAGE(read.error().kind == ErrorKind::transient, read.error());
    CHECK(read.error().message().find(of_two.string() + " of this host: copy that file here") != std::string::npos);
    const auto check = (*two)->verify(file, {}, {});
    REQUIRE(!check.has_value());
    CHECK(check.error().kind == ErrorKind::transient);
  }
  fs::copy_file(keys, of_two, fs::copy_options::overwrite_existing);
  const auto two = place.try_open("h2", "two.keys");
  REQUIRE_MESSAGE(two.has_value(), two.error());
  CHECK(get(**two, file).has_value());
  CHECK((*two)->verify(file, {}, {})->problems.empty());
}

TEST_CASE("a flipped bit in the number of the key is damage") {
  Place place;
  auto one = place.open("h1");
  const auto memory = put(*one, kMemory, TestGuest(1).stream()), disk = put(*one, kDisk, test::flat_bytes(4, 50'000));
  flip_bit(place.images() / "hosts/h1/images/j7/e12/guest-0.disk", kKeyId);
  for (const auto& entry : fs::directory_iterator(place.images() / "hosts/h1/packs")) flip_bit(entry.path(), kKeyId);
  one = nullptr;
  for (const char* host : {"h1", "h2"}) {
    const auto store = place.open(host);
    for (const auto& file : {memory, disk}) {
      CHECK(get(*store, file).error().kind == ErrorKind::damaged);
      const auto check = store->verify(file, {}, {});
      REQUIRE_MESSAGE(check.has_value(), check.error());
      REQUIRE(!check->problems.empty());
      for (const Error& problem : check->problems) CHECK_MESSAGE(problem.kind == ErrorKind::damaged, problem);
    }
  }
}

TEST_CASE("a full file system is an error of its own kind, and leaves no part of the image") {
  Place place;
  const fs::path small = place.images();
  fs::create_directory(small);
  REQUIRE_MESSAGE(::mount("tmpfs", small.c_str(), "tmpfs", 0, "size=2m") == 0,
                  "mounting a tmpfs needs root: ", std::strerror(errno));
  struct Unmount {
    fs::path path;
    ~Unmount() { ::umount2(path.c_str(), MNT_DETACH); }
  } unmount{small};
  auto store = place.open("h1");
  auto writer = store->begin(kDisk, {});
  REQUIRE(writer.has_value());
  std::mt19937_64 random(1);
  std::string raw(8 << 20, '\0');
  for (auto& c : raw) c = static_cast<char>(random());
  (void)(*writer)->write(raw);
  const auto committed = (*writer)->commit();
  REQUIRE(!committed.has_value());
  CHECK(committed.error().kind == ErrorKind::storage_full);
  writer->reset();
  CHECK(place.files() == 0);
  CHECK(*store->free_bytes() > (1u << 20));
}

}  // namespace
}  // namespace stillpoint::node
