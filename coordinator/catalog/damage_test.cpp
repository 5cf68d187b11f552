// The catalog's file, damaged: refused, or what was there is proven to be whole. Never something else.
#include <fstream>
#include <random>

#include "coordinator/catalog/backup.h"
#include "coordinator/catalog/test_records.h"

using namespace stillpoint;
using namespace stillpoint::coordinator;
using namespace stillpoint::coordinator::testing;
namespace fs = std::filesystem;

namespace {

std::string bytes_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

struct Original {
  Directory dir;
  std::string bytes;
  CatalogState state;
  std::string events;

  Original() {
    make_rich_catalog(dir.file());
    auto catalog = must_open(dir.file());
    state = must_load(catalog);
    events = text_of(catalog);
    { const auto closing = std::move(catalog); }
    bytes = bytes_of(dir.file());
    REQUIRE(bytes.size() > 50'000);
  }
  static std::string text_of(Catalog& catalog) {
    std::string text;
    const auto events = catalog.events({});
    REQUIRE(events.has_value());
    for (const auto& e : *events)
      text +=
          std::to_string(e.id) + e.job.value + e.host.value + std::to_string(e.epoch.value) + e.what + e.detail + "\n";
    return text;
  }
};

// true: refused. Otherwise all is as it was.
bool refused_or_whole(const Original& original, const std::string& bytes) {
  Directory dir;
  std::ofstream(dir.path / "coordinator-id") << original.state.coordinator << "\n";
  std::ofstream(dir.file(), std::ios::binary) << bytes;
  auto catalog = Catalog::open(dir.file());
  if (!catalog) {
    CHECK(catalog.error().message().size() > 10);
    return true;
  }
  auto state = catalog->load();
  if (!state) return true;
  check_equal(*state, original.state);
  CHECK(Original::text_of(*catalog) == original.events);
  return false;
}

}  // namespace

TEST_CASE("a flipped bit anywhere: refused, or all is there as it was") {
  const Original original;
  std::random_device seed_source;
  const auto seed = seed_source();
  CAPTURE(seed);
  std::mt19937 random(seed);
  int refused = 0;
  constexpr int kFlips = 120;
  for (int i = 0; i < kFlips; ++i) {
    // Half of them where something is; most of each page is empty.
    std::size_t at = 0;
    do at = std::uniform_int_distribution<std::size_t>(0, original.bytes.size() - 1)(random);
    while (i % 2 == 0 && original.bytes[at] == '\0');
    const int bit = std::uniform_int_distribution<int>(0, 7)(random);
    CAPTURE(at);
    CAPTURE(bit);
    std::string bytes = original.bytes;
    bytes[at] = static_cast<char>(bytes[at] ^ (1 << bit));
    refused += refused_or_whole(original, bytes);
  }
  CHECK(refused > kFlips / 10);  // the rest is empty, what was deleted, and comments of the schema
}

TEST_CASE("cut off anywhere: refused, or all is there as it was") {
  const Original original;
  std::random_device seed_source;
  const auto seed = seed_source();
  CAPTURE(seed);
  std::mt19937 random(seed);
  for (int i = 0; i < 20; ++i) {
    const auto length = i == 0 ? 0 : std::uniform_int_distribution<std::size_t>(0, original.bytes.size() - 1)(random);
    CAPTURE(length);
    CHECK(refused_or_whole(original, original.bytes.substr(0, length)));
  }
}

TEST_CASE("a page of another one's place, or of zeros: refused, or all is there as it was") {
  const Original original;
  const std::size_t pages = original.bytes.size() / 4096;
  for (std::size_t page = 0; page + 1 < pages; page += 5) {
    CAPTURE(page);
    std::string zeros = original.bytes, moved = original.bytes;
    zeros.replace(page * 4096, 4096, std::string(4096, '\0'));
    moved.replace(page * 4096, 4096, original.bytes.substr((page + 1) * 4096, 4096));
    refused_or_whole(original, zeros);
    refused_or_whole(original, moved);
  }
}

TEST_CASE("a value that somebody changed with a tool of his own is found") {
  Directory dir;
  make_rich_catalog(dir.file());
  const std::string bytes = bytes_of(dir.file());
  const auto at = bytes.find("epoch committed");
  REQUIRE(at != std::string::npos);
  std::fstream file(dir.file(), std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(static_cast<std::streamoff>(at));
  file << "epoch COMMITTED";
  file.close();
  const auto opened = Catalog::open(dir.file());
  REQUIRE(opened.has_error());
  CHECK(opened.error().kind == ErrorKind::damaged);
  CHECK(opened.error().cause.find("table events") != std::string::npos);
  CHECK(opened.error().cause.find("--restore-catalog") != std::string::npos);
}

TEST_CASE("counters below what they have given out are no catalog's") {
  Directory dir;
  make_rich_catalog(dir.file());
  auto catalog = must_open(dir.file());
  SUBCASE("epochs") { REQUIRE(catalog.apply({PutCounters{4, Epoch{12}, 78}}).has_value()); }
  SUBCASE("jobs") { REQUIRE(catalog.apply({PutCounters{3, Epoch{13}, 78}}).has_value()); }
  const auto loaded = catalog.load();
  REQUIRE(loaded.has_error());
  CHECK(loaded.error().kind == ErrorKind::damaged);
  CHECK(loaded.error().cause.find("not given out yet") != std::string::npos);
}

TEST_CASE("a catalog that is gone is no first start") {
  Directory dir;
  make_rich_catalog(dir.file());
  REQUIRE(fs::exists(dir.path / "coordinator-id"));
  fs::remove(dir.file());
  const auto opened = Catalog::open(dir.file());
  REQUIRE(opened.has_error());
  CHECK(opened.error().kind == ErrorKind::damaged);
  CHECK(opened.error().cause.find("no first start") != std::string::npos);
  CHECK_FALSE(fs::exists(dir.file()));
}
