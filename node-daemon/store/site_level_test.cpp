// Images in the site's S3 store, on a real server: what is left when every host is lost.
#include <doctest/doctest.h>
#include <stdlib.h>

#include "node-daemon/store/chunk_image_store.h"
#include "node-daemon/store/remote/s3_store.h"
#include "node-daemon/store/remote/s3_test_server.h"
#include "node-daemon/store/store_test_data.h"

namespace stillpoint::node::test {
namespace {

namespace fs = std::filesystem;

// One for all tests: it takes a second to start, and enters namespaces of its own.
S3TestServer& server() {
  static S3TestServer one;
  return one;
}

struct Site {
  Site() {
    char name[] = "/tmp/stillpoint-site-XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    path = name;
    auto made = S3Store::make(server().settings());
    REQUIRE_MESSAGE(made.has_value(), made.error());
    s3 = std::move(*made);
  }
  ~Site() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  Site(const Site&) = delete;
  Site& operator=(const Site&) = delete;

  std::unique_ptr<SiteImageStore> host(const std::string& name) const {
    ImageStoreOptions options;
    options.own = true;
    options.object_store = s3;
    auto store = open_chunk_image_store(path / name, {name}, path / "store.keys", std::move(options));
    REQUIRE_MESSAGE(store.has_value(), store.error());
    return std::move(*store);
  }
  std::size_t packs() const { return s3->list("h1/packs").value().size(); }

  fs::path path;
  std::shared_ptr<BlobStore> s3;
};

wire::ImageFile put(ImageStore& store, const ImageName& name, const std::string& raw) {
  auto writer = store.begin(name, {});
  REQUIRE_MESSAGE(writer.has_value(), writer.error());
  REQUIRE((*writer)->write(raw).has_value());
  auto file = (*writer)->commit();
  REQUIRE_MESSAGE(file.has_value(), file.error());
  return *file;
}

wire::GuestImage take(ImageStore& store, std::uint64_t epoch, const std::string& memory, const std::string& disk) {
  wire::GuestImage image;
  *image.mutable_memory() = put(store, {{"j7"}, {epoch}, {0}, ImageName::Part::memory}, memory);
  *image.mutable_disk() = put(store, {{"j7"}, {epoch}, {0}, ImageName::Part::disk}, disk);
  wire::Durability asked;
  asked.set_level(wire::Durability::SITE);
  const Status done = store.replicate(image, asked, {});
  REQUIRE_MESSAGE(done.has_value(), done.error());
  return image;
}

Result<std::string> get(ImageStore& store, const wire::ImageFile& file) {
  auto reader = store.open(file, {});
  if (!reader) return reader.error();
  std::string raw;
  for (;;) {
    auto piece = (*reader)->read();
    if (!piece) return piece.error();
    if (piece->empty()) return raw;
    raw += *piece;
  }
}

TEST_CASE("what is in the S3 store is restored where no host is left; deleting frees it, also of a lost host") {
  Site site;
  const std::string memory = TestGuest(1).stream(), disk = flat_bytes(4, 2'000'000);
  auto h1 = site.host("h1");
  const wire::GuestImage first = take(*h1, 1, memory, disk), second = take(*h1, 2, memory, flat_bytes(5, 500'000));
  REQUIRE(first.memory().copies_size() == 1);
  CHECK(first.memory().copies(0) == "s3");
  h1.reset();
  fs::remove_all(site.path / "h1");

  auto h2 = site.host("h2");
  const auto back = get(*h2, first.memory());
  REQUIRE_MESSAGE(back.has_value(), back.error());
  CHECK(same_machine(*back, memory));
  CHECK(*get(*h2, first.disk()) == disk);

  const std::size_t packs = site.packs();
  REQUIRE(packs > 0);
  const auto remove = [&](std::uint64_t epoch, const std::vector<HostName>& lost) {
    const Status removed = h2->remove({"j7"}, {{epoch}}, ImageStore::Reach::own, lost);
    REQUIRE_MESSAGE(removed.has_value(), removed.error());
  };
  remove(1, {});  // h1 may still live: it is h1's to do
  CHECK(site.packs() == packs);
  remove(1, {{"h1"}});
  CHECK(site.packs() < packs);
  CHECK(get(*h2, first.disk()).error().kind == ErrorKind::damaged);
  CHECK(*get(*h2, second.disk()) == flat_bytes(5, 500'000));
  remove(2, {{"h1"}});
  CHECK(site.packs() == 0);
}

TEST_CASE("a site store that is not there: the checkpoint fails in words, what is stored here stays") {
  Site site;
  auto h1 = site.host("h1");
  wire::GuestImage image;
  *image.mutable_memory() = put(*h1, {{"j7"}, {1}, {0}, ImageName::Part::memory}, TestGuest(1).stream());
  *image.mutable_disk() = put(*h1, {{"j7"}, {1}, {0}, ImageName::Part::disk}, "disk");
  server().kill();
  wire::Durability asked;
  asked.set_level(wire::Durability::SITE);
  const Status done = h1->replicate(image, asked, {});
  REQUIRE_FALSE(done.has_value());
  CHECK(done.error().kind == ErrorKind::transient);
  CHECK(image.disk().copies_size() == 0);
  CHECK(*get(*h1, image.disk()) == "disk");
  server().start();
  const Status again = h1->replicate(image, asked, {});
  REQUIRE_MESSAGE(again.has_value(), again.error());
}

}  // namespace
}  // namespace stillpoint::node::test
