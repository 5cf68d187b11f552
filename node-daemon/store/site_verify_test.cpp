// The copy in the S3 store read back: what is wrong with it is named and put right, and it puts right what is wrong
// here.
#include <fstream>

#include "node-daemon/store/remote/memory_blob.h"
#include "node-daemon/store/site_key.h"
#include "node-daemon/store/site_under_test.h"

namespace stillpoint::node::test {
namespace {

const std::string kList = "images/j7/e2/guest-0.disk";

std::vector<fs::path> packs_in(const fs::path& store) {
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(store / "packs"))
    if (entry.path().extension() == ".pack") found.push_back(entry.path());
  std::ranges::sort(found);
  return found;
}

void flip(const fs::path& path, std::uint64_t at) {
  std::string bytes(fs::file_size(path), '\0');
  std::ifstream(path, std::ios::binary).read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  bytes[at] = static_cast<char>(bytes[at] ^ 1);
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

void flip_in_each_pack(const fs::path& store) {
  for (const auto& pack : packs_in(store)) flip(pack, fs::file_size(pack) / 2);
}

struct Damage {
  const char* words;
  std::function<void(const fs::path& store)> make;  // of h1's files somewhere
};

const std::vector<Damage>& damages() {
  static const std::vector<Damage> all{{"a bit in a block of each pack", flip_in_each_pack},
                                       {"a bit in the index of each pack",
                                        [](const fs::path& store) {
                                          for (const auto& pack : packs_in(store)) flip(pack, fs::file_size(pack) - 40);
                                        }},
                                       {"packs cut short",
                                        [](const fs::path& store) {
                                          for (const auto& pack : packs_in(store))
                                            fs::resize_file(pack, fs::file_size(pack) / 2);
                                        }},
                                       {"no packs",
                                        [](const fs::path& store) {
                                          for (const auto& pack : packs_in(store)) fs::remove(pack);
                                        }},
                                       {"a bit in the list", [](const fs::path& store) { flip(store / kList, 100); }},
                                       {"no list", [](const fs::path& store) { fs::remove(store / kList); }},
                                       {"nothing", [](const fs::path& store) {
                                          for (const auto& pack : packs_in(store)) fs::remove(pack);
                                          fs::remove(store / kList);
                                        }}};
  return all;
}

// Two checkpoints that share pages, in a directory in the S3 store's place.
struct Stored {
  Site site;
  const std::string memory = TestGuest(1).stream(), disk = flat_bytes(4, 700'000) + flat_bytes(6, 400'000);
  std::unique_ptr<SiteImageStore> h1, h2;
  wire::GuestImage first, image;
  Stored() {
    site.s3 = fast_store(site);
    h1 = site.host("h1");
    first = take(*h1, 1, memory, flat_bytes(4, 700'000));
    image = take(*h1, 2, memory, disk);
  }
  fs::path in_bucket() const { return site.path / "s3/h1"; }
  fs::path at(const std::string& host) const { return site.path / host / "hosts/h1"; }
  // What h1 has is in packs of its own then, while those in the bucket are as they were. h1 must be closed.
  void compact_at_h1() const {
    const auto before = packs_in(at("h1"));
    ChunkStoreOptions options;
    options.compact_below = 1.1;
    auto store = ChunkStore::open(system_files(), at("h1"), *load_site_keys(site.path / "store.keys"), options);
    REQUIRE_MESSAGE(store.has_value(), store.error());
    REQUIRE((*store)->collect().has_value());
    CHECK(packs_in(at("h1")) != before);
  }
  // h2 keeps a copy, too.
  void copy_to_h2() {
    wire::Durability asked;
    asked.set_level(wire::Durability::HOST_LOSS);
    asked.add_partners()->set_host("h2");
    h2 = site.host("h2");
    const Status done = h1->replicate(image, asked, {});
    REQUIRE_MESSAGE(done.has_value(), done.error());
  }
  // From the bucket alone.
  void check_restored() const {
    const auto elsewhere = site.host("h9");
    const auto back = get(*elsewhere, image.disk());
    REQUIRE_MESSAGE(back.has_value(), back.error());
    CHECK(*back == disk);
    CHECK(same_machine(get(*elsewhere, image.memory()).value(), memory));
  }
};

ImageCheck verified(ImageStore& store, const wire::ImageFile& file, const std::vector<wire::StorePeer>& peers = {}) {
  auto found = store.verify_in_object_store(file, peers, {});
  REQUIRE_MESSAGE(found.has_value(), found.error());
  return std::move(*found);
}

void check_mended(const ImageCheck& found, const std::string& from) {
  for (const Error& problem : found.problems) FAIL_CHECK(problem);
  REQUIRE(found.mended.size() == 1);
  CHECK_MESSAGE(found.mended[0].find("in the S3 store was put right from " + from) != std::string::npos,
                found.mended[0]);
}

TEST_CASE("the copy in the S3 store is read whole, every block of it") {
  Stored stored;
  const ImageCheck found = verified(*stored.h1, stored.image.disk());
  CHECK(found.problems.empty());
  CHECK(found.mended.empty());
  CHECK(found.bytes > 100'000);
}

TEST_CASE("what is damaged in the bucket is put right from the host that stored it, compacted there or not") {
  for (const Damage& damage : damages())
    for (const bool compacted : {false, true}) {
      CAPTURE(damage.words);
      CAPTURE(compacted);
      Stored stored;
      if (compacted) {
        stored.h1.reset();
        stored.compact_at_h1();
        stored.h1 = stored.site.host("h1");
      }
      damage.make(stored.in_bucket());
      check_mended(verified(*stored.h1, stored.image.disk()), "this host");
      CHECK(verified(*stored.h1, stored.image.memory()).problems.empty());
      CHECK(verified(*stored.h1, stored.first.disk()).problems.empty());
      CHECK(verified(*stored.h1, stored.image.disk()).mended.empty());
      stored.check_restored();
      // Nothing of it is left when the checkpoints go.
      REQUIRE(stored.h1->remove({"j7"}, {{1}, {2}}, ImageStore::Reach::own, {}).has_value());
      CHECK(stored.site.s3->list("h1").value().empty());
    }
}

TEST_CASE("what is damaged here is put right from the S3 store, also a copy that is kept for another host") {
  for (const Damage& damage : damages())
    for (const std::string host : {"h1", "h2"}) {
      CAPTURE(damage.words);
      CAPTURE(host);
      Stored stored;
      stored.copy_to_h2();
      damage.make(stored.at(host));
      // The other one is away.
      ImageStore& hurt = host == "h1" ? *stored.h1 : *stored.h2;
      const auto found = hurt.verify(stored.image.disk(), {}, {});
      REQUIRE_MESSAGE(found.has_value(), found.error());
      for (const Error& problem : found->problems) FAIL_CHECK(problem);
      REQUIRE(found->mended.size() == 1);
      CHECK_MESSAGE(found->mended[0].find("was put right from the S3 store") != std::string::npos, found->mended[0]);
      CHECK(hurt.verify(stored.image.disk(), {}, {}).value().mended.empty());
      CHECK(get(hurt, stored.image.disk()).value() == stored.disk);
    }
}

TEST_CASE("what is damaged or missing in a directory that hosts share is put right from the S3 store") {
  for (const Damage& damage : damages())
    for (const bool owner_is_dead : {false, true}) {
      CAPTURE(damage.words);
      CAPTURE(owner_is_dead);
      Site site;
      site.s3 = fast_store(site);
      auto h1 = site.shared("h1"), h2 = site.shared("h2");
      const std::string disk = flat_bytes(4, 700'000);
      const wire::GuestImage image = take(*h1, 2, TestGuest(1).stream(), disk);
      REQUIRE(image.disk().copies_size() == 2);
      damage.make(site.path / "shared/hosts/h1");
      if (owner_is_dead) {
        h1.reset();
      } else {
        // While its daemon runs nobody else writes there.
        const auto open = h2->verify(image.disk(), {}, {});
        REQUIRE_MESSAGE(open.has_value(), open.error());
        REQUIRE_FALSE(open->problems.empty());
        CHECK(open->problems.front().kind == ErrorKind::transient);
      }
      const auto found = (owner_is_dead ? h2 : h1)->verify(image.disk(), {}, {});
      REQUIRE_MESSAGE(found.has_value(), found.error());
      for (const Error& problem : found->problems) FAIL_CHECK(problem);
      CHECK(found->mended.size() == 1);
      fs::remove_all(site.path / "s3");
      CHECK(get(*h2, image.disk()).value() == disk);
    }
}

TEST_CASE("what another host stored is read, and left to that one to put right, from here and from who has a copy") {
  Stored stored;
  stored.copy_to_h2();
  flip_in_each_pack(stored.in_bucket());
  for (const bool owner_is_there : {true, false}) {
    if (!owner_is_there) stored.h1.reset();
    const ImageCheck open = verified(*stored.h2, stored.image.disk());
    REQUIRE_FALSE(open.problems.empty());
    CHECK(open.problems.front().kind == ErrorKind::transient);
    CHECK(open.mended.empty());
  }
  // It is back with an empty disk.
  fs::remove_all(stored.site.path / "h1");
  stored.h1 = stored.site.host("h1");
  wire::StorePeer peer;
  peer.set_host("h2");
  check_mended(verified(*stored.h1, stored.image.disk(), {peer}), "host h2");
  CHECK(verified(*stored.h1, stored.image.memory(), {peer}).problems.empty());
  stored.check_restored();
}

TEST_CASE("damaged here and in the S3 store it is damaged; what the one lacks and the other has is put right in both") {
  Stored stored;
  SUBCASE("the same") {
    for (const fs::path& store : {stored.in_bucket(), stored.at("h1")}) flip_in_each_pack(store);
    const auto here = stored.h1->verify(stored.image.disk(), {}, {});
    REQUIRE(here.has_value());
    REQUIRE_FALSE(here->problems.empty());
    CHECK(here->problems.front().kind == ErrorKind::damaged);
    const ImageCheck there = verified(*stored.h1, stored.image.disk());
    REQUIRE_FALSE(there.problems.empty());
    CHECK(there.problems.front().kind == ErrorKind::damaged);
  }
  SUBCASE("each another pack") {
    const auto packs = packs_in(stored.in_bucket());
    REQUIRE(packs.size() > 1);
    flip(packs.front(), fs::file_size(packs.front()) / 2);
    const fs::path other = stored.at("h1") / "packs" / packs.back().filename();
    flip(other, fs::file_size(other) / 2);
    for (const auto* file : {&stored.image.memory(), &stored.image.disk()}) {
      CHECK(stored.h1->verify(*file, {}, {}).value().problems.empty());
      CHECK(verified(*stored.h1, *file).problems.empty());
    }
    CHECK(get(*stored.h1, stored.image.disk()).value() == stored.disk);
    stored.check_restored();
  }
}

TEST_CASE("an S3 store that does not answer, or none: nothing is known of the copy there") {
  Stored stored;
  const auto blobs = std::make_shared<FailingBlobs>(stored.site.s3);
  stored.h1.reset();
  stored.h1 = stored.site.host("h1", blobs);
  blobs->fail_at(0);
  const auto found = stored.h1->verify_in_object_store(stored.image.disk(), {}, {});
  REQUIRE_FALSE(found.has_value());
  CHECK(found.error().kind == ErrorKind::transient);
  const auto none = stored.site.host("h3", nullptr)->verify_in_object_store(stored.image.disk(), {}, {});
  REQUIRE_FALSE(none.has_value());
  CHECK(none.error().kind == ErrorKind::transient);
}

TEST_CASE("a request to the S3 store that fails while its copy is put right: not damage, and the next try does it") {
  for (std::uint64_t n = 0;; ++n) {
    CAPTURE(n);
    Stored stored;
    const auto blobs = std::make_shared<FailingBlobs>(stored.site.s3);
    stored.h1.reset();
    stored.h1 = stored.site.host("h1", blobs);
    flip_in_each_pack(stored.in_bucket());
    blobs->fail_at(n);
    const auto found = stored.h1->verify_in_object_store(stored.image.disk(), {}, {});
    blobs->fail_no_more();
    if (found)
      for (const Error& problem : found->problems) CHECK(problem.kind == ErrorKind::transient);
    CHECK(verified(*stored.h1, stored.image.disk()).problems.empty());
    if (!blobs->failed()) break;
    REQUIRE(n < 1000);
  }
}

TEST_CASE("a host killed at any step of putting the S3 store right: the next one does it, and nothing is left over") {
  std::uint64_t deaths = 0;
  for (std::uint64_t steps = 0;; ++steps) {
    CAPTURE(steps);
    Stored stored;
    stored.h1.reset();
    stored.compact_at_h1();  // so that what comes is not what was there
    flip(packs_in(stored.in_bucket()).front(), 5'000);
    fs::remove(stored.in_bucket() / kList);
    const auto mend = [&](SiteImageStore& h1) {
      for (const auto* file : {&stored.image.disk(), &stored.image.memory()})
        if (!h1.verify_in_object_store(*file, {}, {})) return false;
      return true;
    };
    const bool killed = killed_while(stored.site, steps, mend);
    stored.h1 = stored.site.host("h1");
    REQUIRE(mend(*stored.h1));
    for (const auto* file : {&stored.image.disk(), &stored.image.memory()})
      CHECK(verified(*stored.h1, *file).problems.empty());
    stored.check_restored();
    REQUIRE(stored.h1->remove({"j7"}, {{1}, {2}}, ImageStore::Reach::own, {}).has_value());
    CHECK(stored.site.s3->list("h1").value().empty());
    CHECK(fs::is_empty(stored.at("h1") / "packs"));
    deaths += killed ? 1 : 0;
    if (!killed) break;
  }
  CHECK(deaths > 5);
  MESSAGE(deaths, " deaths");
}

TEST_CASE("on a real server: bits, an object and a list that are wrong or gone are found and put right") {
  Site site;
  auto h1 = site.host("h1");
  const std::string memory = TestGuest(1).stream(), disk = flat_bytes(4, 700'000);
  const wire::GuestImage image = take(*h1, 1, memory, disk);
  const auto read = [&](const std::string& name) {
    auto file = site.s3->open(name);
    REQUIRE_MESSAGE(file.has_value(), file.error());
    return (*file)->read(0, (*file)->size()).value();
  };
  const auto put_back = [&](const std::string& name, std::string bytes) {
    REQUIRE(site.s3->put(name, MemoryBlob(std::move(bytes)), {}).has_value());
  };
  const std::string list = "h1/images/j7/e1/guest-0.disk";
  for (int what = 0; what < 4; ++what) {
    CAPTURE(what);
    for (const std::string& pack : site.s3->list("h1/packs").value()) {
      const std::string name = "h1/packs/" + pack;
      std::string bytes = read(name);
      bytes[bytes.size() / 2] ^= 1;
      if (what == 0) put_back(name, bytes);
      if (what == 1) REQUIRE(site.s3->remove(name).has_value());
    }
    if (what == 2) put_back(list, read(list).substr(0, 90));
    if (what == 3) REQUIRE(site.s3->remove(list).has_value());
    check_mended(verified(*h1, image.disk()), "this host");
    CHECK(verified(*h1, image.memory()).problems.empty());
    const auto h2 = site.host("h2");
    CHECK(get(*h2, image.disk()).value() == disk);
    CHECK(same_machine(get(*h2, image.memory()).value(), memory));
  }
  server().kill();
  const auto unknown = h1->verify_in_object_store(image.disk(), {}, {});
  server().start();
  REQUIRE_FALSE(unknown.has_value());
  CHECK(unknown.error().kind == ErrorKind::transient);
}

}  // namespace
}  // namespace stillpoint::node::test
