#include "node-daemon/shell/guest_disk.h"

#include <doctest/doctest.h>
#include <sys/mount.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "node-daemon/store/chunk_image_store.h"

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;

// A file system of its own, of a given size.
struct Disk {
  fs::path path;
  explicit Disk(const std::string& size) {
    char name[] = "/tmp/stillpoint-disk-XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    path = name;
    REQUIRE_MESSAGE(::mount("tmpfs", name, "tmpfs", 0, ("size=" + size).c_str()) == 0,
                    "mounting a tmpfs needs root: ", std::strerror(errno));
  }
  Disk(const Disk&) = delete;
  Disk& operator=(const Disk&) = delete;
  ~Disk() {
    ::umount2(path.c_str(), MNT_DETACH);
    ::rmdir(path.c_str());
  }
};

Result<wire::ImageFile> store(const Disk& disk) {
  auto layer = make_fresh_disk(disk.path / "guest", 16u << 20);
  REQUIRE_MESSAGE(layer.has_value(), layer.error());
  auto images = open_chunk_image_store(disk.path / "images", {"h1"}, disk.path / "store.keys");
  REQUIRE_MESSAGE(images.has_value(), images.error());
  auto writer = (*images)->begin({{"j1"}, {1}, {0}, ImageName::Part::disk}, {});
  REQUIRE_MESSAGE(writer.has_value(), writer.error());
  DiskRoom room;
  return store_disk({*layer, layer->parent_path() / "base.raw"}, room, **writer, nullptr, {});
}

TEST_CASE("a disk is stored where there is room for its copy") {
  const Disk disk("256m");
  const auto stored = store(disk);
  REQUIRE_MESSAGE(stored.has_value(), stored.error());
  CHECK(stored->raw_bytes() > 0);
  CHECK(!fs::exists(disk.path / "guest/upload.qcow2"));
}

TEST_CASE("a disk is not copied into the room that the machines need") {
  const Disk disk("100m");
  const auto stored = store(disk);
  REQUIRE(!stored.has_value());
  CHECK(stored.error().kind == ErrorKind::storage_full);
  CHECK(stored.error().object == (disk.path / "guest").string());
}

TEST_CASE("what one conversion is promised is not promised to another") {
  const Disk disk("256m");
  DiskRoom room;
  {
    auto first = room.claim(disk.path, 100u << 20);
    CHECK(first.has_value());
    CHECK(room.claim(disk.path, 100u << 20).error().kind == ErrorKind::storage_full);
  }
  CHECK(room.claim(disk.path, 100u << 20).has_value());
}

}  // namespace
}  // namespace stillpoint::node
