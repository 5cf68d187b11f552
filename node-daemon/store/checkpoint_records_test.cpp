#include "node-daemon/store/checkpoint_records.h"

#include <doctest/doctest.h>
#include <stdlib.h>

#include <fstream>

#include "node-daemon/store/chunk_image_store.h"
#include "node-daemon/store/store_test_data.h"

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;
using wire::ReadRecords;

struct Place {
  fs::path path;
  Place() {
    char name[] = "/tmp/stillpoint-records-XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    path = name;
  }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;
  ~Place() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  std::unique_ptr<ImageStore> open(const std::string& host, bool own = false) const {
    ImageStoreOptions options;
    options.own = own;
    auto store = open_chunk_image_store(path / "images", {host}, path / "store.keys", std::move(options));
    REQUIRE_MESSAGE(store.has_value(), store.error());
    return std::move(*store);
  }
  fs::path record(const std::string& host, const std::string& name) const {
    return path / "images" / "hosts" / host / "records" / name;
  }
};

wire::KeepRecord record_of(const std::string& content, std::uint32_t revision = 1) {
  wire::KeepRecord record;
  record.set_record(content);
  record.set_revision(revision);
  return record;
}

void keep(ImageStore& store, std::uint64_t epoch, const std::string& content, std::uint32_t revision = 1) {
  const auto kept = store.keep_record({"j7"}, Epoch{epoch}, record_of(content, revision), {});
  REQUIRE_MESSAGE(kept.has_value(), kept.error());
}

wire::Records page(ImageStore& store, ReadRecords::Where where, const std::string& after = "") {
  ReadRecords ask;
  ask.set_where(where);
  ask.set_after(after);
  auto records = store.records(ask);
  REQUIRE_MESSAGE(records.has_value(), records.error());
  return *records;
}

std::vector<std::string> all(ImageStore& store, ReadRecords::Where where = ReadRecords::OWN) {
  std::vector<std::string> contents;
  std::string after;
  do {
    const auto records = page(store, where, after);
    contents.insert(contents.end(), records.records().begin(), records.records().end());
    after = records.last();
  } while (!after.empty());
  return contents;
}

std::map<std::uint64_t, std::uint32_t> held(ImageStore& store) {
  const auto held = store.held();
  REQUIRE_MESSAGE(held.has_value(), held.error());
  std::map<std::uint64_t, std::uint32_t> revisions;
  for (const auto& job : held->jobs()) {
    CHECK(job.job() == "j7");
    for (const auto epoch : job.epochs()) revisions[epoch] = 0;
    for (const auto& record : job.records()) revisions[record.epoch()] = record.revision();
  }
  return revisions;
}

void flip(const fs::path& file, std::size_t byte) {
  std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
  stream.seekg(static_cast<std::streamoff>(byte));
  const int old = stream.get();
  stream.seekp(static_cast<std::streamoff>(byte));
  stream.put(static_cast<char>(old ^ 1));
  REQUIRE(stream.good());
}

}  // namespace

TEST_CASE("a record with any bit flipped, cut off, under another name or another site's key is none") {
  const auto keys = test::some_keys();
  const CheckpointRecordFile record{3, "what a checkpoint was"};
  const auto file = seal_record("j7/e12", record, keys.active());
  REQUIRE(file.has_value());
  const auto back = open_record("j7/e12", *file, keys);
  REQUIRE_MESSAGE(back.has_value(), back.error());
  CHECK(back->revision == 3);
  CHECK(back->content == record.content);
  for (std::size_t bit = 0; bit < file->size() * 8; ++bit) {
    std::string bad = *file;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
    const auto opened = open_record("j7/e12", bad, keys);
    CHECK_MESSAGE((!opened && opened.error().kind == ErrorKind::damaged), "bit ", bit);
  }
  for (std::size_t size = 0; size < file->size(); ++size)
    CHECK_FALSE(open_record("j7/e12", file->substr(0, size), keys).has_value());
  CHECK_FALSE(open_record("j7/e12", *file + "x", keys).has_value());
  CHECK_FALSE(open_record("j7/e13", *file, keys).has_value());
  SiteKey other = keys.active();
  other.key[0] ^= 1;
  CHECK_FALSE(open_record("j7/e12", *file, SiteKeys({other})).has_value());
  CHECK_FALSE(seal_record("j7/e12", {1, std::string(kMaxRecordBytes + 1, 'x')}, keys.active()).has_value());
}

TEST_CASE("records outlive their daemon, go with their images, and an older one takes no newer one's place") {
  Place place;
  {
    auto store = place.open("h1");
    keep(*store, 5, "five");
    keep(*store, 6, "six", 2);
    keep(*store, 6, "an older six", 1);
    keep(*store, 5, "five, copied", 4);
  }
  auto store = place.open("h1");
  CHECK(all(*store) == std::vector<std::string>{"five, copied", "six"});
  CHECK(held(*store) == std::map<std::uint64_t, std::uint32_t>{{5, 4}, {6, 2}});
  CHECK((fs::status(place.record("h1", "j7/e5")).permissions() & fs::perms::others_all) == fs::perms::none);
  REQUIRE(store->remove({"j7"}, {{5}}, ImageStore::Reach::own, {}).has_value());
  CHECK(all(*store) == std::vector<std::string>{"six"});
  REQUIRE(store->remove({"j7"}, {{6}}, ImageStore::Reach::all_hosts, {}).has_value());
  CHECK(held(*store).empty());
  CHECK_FALSE(fs::exists(place.record("h1", "j7")));
  CHECK_FALSE(store->keep_record({"../j7"}, {1}, record_of("out of the store"), {}).has_value());
}

TEST_CASE("a damaged record is named where it is read, not said to be held, and kept anew") {
  Place place;
  auto store = place.open("h1");
  keep(*store, 5, "five");
  keep(*store, 6, "six");
  flip(place.record("h1", "j7/e5"), 60);
  const auto records = page(*store, ReadRecords::OWN);
  REQUIRE(records.damaged_size() == 1);
  CHECK(records.damaged(0).starts_with("h1/j7/e5: "));
  CHECK(all(*store) == std::vector<std::string>{"six"});
  CHECK(held(*store) == std::map<std::uint64_t, std::uint32_t>{{5, 0}, {6, 1}});
  keep(*store, 5, "five");
  CHECK(all(*store) == std::vector<std::string>{"five", "six"});
}

TEST_CASE("in a shared directory one host reads what all have, page by page, the dead ones' too") {
  Place place;
  auto one = place.open("h1");
  const std::string large(300'000, 'x');
  {
    auto two = place.open("h2");
    for (const std::uint64_t epoch : {5, 6, 7}) keep(*two, epoch, large + std::to_string(epoch));
  }
  keep(*one, 5, "five of h1");
  CHECK(all(*one) == std::vector<std::string>{"five of h1"});
  CHECK(page(*one, ReadRecords::DIRECTORY).last() == "h2/j7/e6");
  CHECK(all(*one, ReadRecords::DIRECTORY) ==
        std::vector<std::string>{"five of h1", large + "5", large + "6", large + "7"});
  REQUIRE(one->remove({"j7"}, {{5}, {6}, {7}}, ImageStore::Reach::all_hosts, {}).has_value());
  CHECK(all(*one, ReadRecords::DIRECTORY).empty());
  ReadRecords ask;
  ask.set_where(ReadRecords::OBJECT_STORE);
  CHECK(one->records(ask).error().kind == ErrorKind::refused);
}

}  // namespace stillpoint::node
