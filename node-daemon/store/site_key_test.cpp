// The files that say whose images these are: keys, and the id of a directory. Damaged, they are told from others.
#include "node-daemon/store/site_key.h"

#include <doctest/doctest.h>
#include <stdlib.h>

#include <algorithm>

#include "common/file.h"
#include "node-daemon/store/directory_id.h"

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;

struct Place {
  fs::path path;
  Place() {
    char name[] = "/dev/shm/stillpoint-keys-XXXXXX";  // many files, each synced
    REQUIRE(::mkdtemp(name) != nullptr);
    path = name;
  }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;
  ~Place() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  fs::path keys() const { return path / "store.keys"; }
  fs::path id() const { return path / "id"; }
};

bool same(const SiteKeys& a, const SiteKeys& b) {
  return std::ranges::equal(a.all(), b.all(),
                            [](const SiteKey& x, const SiteKey& y) { return x.id == y.id && x.key == y.key; });
}

SiteKeys two_keys(const Place& place) {
  REQUIRE(load_site_keys(place.keys()).has_value());
  return rotate_site_key(place.keys()).value();
}

TEST_CASE("a file of keys with any bit flipped has the same keys or is none; cut off, it has no others") {
  const Place place;
  const SiteKeys keys = two_keys(place);
  const std::string good = read_file(place.keys()).value();
  std::size_t refused = 0;
  for (std::size_t bit = 0; bit < 8 * good.size(); ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << bit % 8));
    const auto read = parse_site_keys(bad);
    CAPTURE(bit);
    if (read) CHECK(same(*read, keys));  // a letter of another size
    else ++refused;
  }
  CHECK(refused > 7 * good.size());
  for (std::size_t size = 0; size < good.size(); ++size)
    if (const auto read = parse_site_keys(good.substr(0, size)))
      for (std::size_t i = 0; i < read->all().size(); ++i)
        CHECK(same(SiteKeys({read->all()[i]}), SiteKeys({keys.all()[i]})));
}

TEST_CASE("a damaged file of keys is told as that, with what to do, and stays as it is") {
  const Place place;
  two_keys(place);
  std::string bad = read_file(place.keys()).value();
  char& digit = bad[bad.find('\n') + 1 + 17 + 5];
  digit = digit == '0' ? '1' : '0';
  REQUIRE(publish_file(place.keys(), bad, 0600).has_value());
  for (const auto& refused : {load_site_keys(place.keys()), rotate_site_key(place.keys())}) {
    REQUIRE_FALSE(refused.has_value());
    CHECK_MESSAGE(refused.error().message().find("line 2 is damaged") != std::string::npos, refused.error());
    CHECK_MESSAGE(refused.error().message().find("backup") != std::string::npos, refused.error());
  }
  CHECK(read_file(place.keys()).value() == bad);
}

TEST_CASE("a file of keys of version 1 is read, and a rotation makes it one of version 2 with the same keys") {
  const Place place;
  const std::string line = "0011223344556677 " + std::string(64, 'a') + "\n";
  REQUIRE(publish_file(place.keys(), "stillpoint-store-keys 1\n" + line, 0600).has_value());
  const auto before = load_site_keys(place.keys());
  REQUIRE_MESSAGE(before.has_value(), before.error());
  CHECK(key_id_text(before->active().id) == "0011223344556677");
  const auto after = rotate_site_key(place.keys());
  REQUIRE_MESSAGE(after.has_value(), after.error());
  REQUIRE(after->all().size() == 2);
  CHECK(after->find(before->active().id)->key == before->active().key);
  CHECK(
      read_file(place.keys()).value().starts_with("stillpoint-store-keys 2\n" + line.substr(0, line.size() - 1) + " "));
  // Without its check a line is none of version 2.
  CHECK(parse_site_keys("stillpoint-store-keys 2\n" + line).has_error());
}

TEST_CASE(
    "the id of a shared directory with any bit flipped is damaged, gone it is missed, and put back it is as it was") {
  const Place place;
  const auto id = directory_id(place.path, true);
  REQUIRE_MESSAGE(id.has_value(), id.error());
  CHECK(directory_id(place.path, true).value() == *id);
  const std::string good = read_file(place.id()).value();
  for (std::size_t bit = 0; bit < 8 * good.size(); ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << bit % 8));
    REQUIRE(publish_file(place.id(), bad, 0600).has_value());
    const auto read = directory_id(place.path, true);
    CAPTURE(bit);
    CHECK(read.has_error());
    CHECK(read_file(place.id()).value() == bad);
  }
  fs::create_directories(place.path / "hosts/h1");
  fs::remove(place.id());
  const auto gone = directory_id(place.path, true);
  REQUIRE_FALSE(gone.has_value());
  CHECK(gone.error().kind == ErrorKind::damaged);
  CHECK(gone.error().message().find("dir:") != std::string::npos);
  // By hand, or as an earlier version wrote it.
  REQUIRE(publish_file(place.id(), *id + "\n", 0600).has_value());
  CHECK(directory_id(place.path, true).value() == *id);
  CHECK(read_file(place.id()).value() == good);
}

TEST_CASE("the id of a host's own directory, damaged or gone, is made anew") {
  const Place place;
  const std::string id = directory_id(place.path, false).value();
  fs::create_directories(place.path / "hosts/h1");
  REQUIRE(publish_file(place.id(), id.substr(1) + "\n", 0600).has_value());
  const std::string anew = directory_id(place.path, false).value();
  CHECK(anew.size() == 32);
  CHECK(directory_id(place.path, false).value() == anew);
  fs::remove(place.id());
  CHECK(directory_id(place.path, false).has_value());
}

}  // namespace
}  // namespace stillpoint::node
