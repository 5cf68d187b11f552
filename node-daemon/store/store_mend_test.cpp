// Damage that is put right from a copy, damage that stays known, and copies that come beside collections.
#include "node-daemon/store/store_mend.h"

#include <doctest/doctest.h>
#include <stdlib.h>

#include <algorithm>
#include <cerrno>
#include <future>

#include "node-daemon/store/bad_blocks.h"
#include "node-daemon/store/memory_files.h"
#include "node-daemon/store/store_test_data.h"

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;
using test::get;
using test::put;

const std::string kAll = "j1/e1/guest-0.disk", kPart = "j1/e2/guest-0.disk";

// Pages 1 to 500, and every third of them.
std::string pages(std::uint64_t step) {
  std::string bytes;
  for (std::uint64_t seed = 1; seed <= 500; seed += step) bytes += test::page_of(seed);
  return bytes;
}

std::unique_ptr<ChunkStore> open_store(Files& files, const fs::path& directory = "/s") {
  auto store = ChunkStore::open(files, directory, test::some_keys());
  REQUIRE_MESSAGE(store.has_value(), store.error());
  return std::move(*store);
}

void put_both(ChunkStore& store) {
  REQUIRE(put(store, kAll, ImageKind::flat, pages(1)).has_value());
  REQUIRE(put(store, kPart, ImageKind::flat, pages(3)).has_value());
}

fs::path only_pack(MemoryFiles& files) {
  fs::path found;
  for (const auto& [path, content] : files.names())
    if (path.extension() == ".pack") {
      REQUIRE(found.empty());
      found = path;
    }
  return found;
}

// A store with both images, and a copy of the second one elsewhere, in a pack of its own there.
struct Copied {
  MemoryFiles files, elsewhere;
  std::unique_ptr<ChunkStore> here = open_store(files), there = open_store(elsewhere);
  fs::path pack;
  Copied() {
    put_both(*here);
    REQUIRE(mend_list(*there, *here, kPart, {}).has_value());
    REQUIRE(there->collect().has_value());
    pack = only_pack(files);
    REQUIRE(only_pack(elsewhere) != pack);
    REQUIRE(get(*there, kPart).value() == pages(3));
  }
  void damage() { files.names().at(pack)->bytes[files.names().at(pack)->bytes.size() / 2] ^= 1; }
  Status mend() {
    const auto found = here->verify_image(kPart, {});
    if (!found) return found.error();
    if (found->bad.empty()) return {};
    return mend_blocks(*here, *there, found->bad, {});
  }
};

TEST_CASE("a block put right from a pack with another name stays so in the next process; the damaged pack goes") {
  Copied copied;
  copied.damage();
  REQUIRE_FALSE(copied.here->verify_image(kPart, {})->bad.empty());
  const Status mended = copied.mend();
  REQUIRE_MESSAGE(mended.has_value(), mended.error());
  for (int process = 0; process < 2; ++process) {
    CHECK(get(*copied.here, kPart).value() == pages(3));
    CHECK(copied.here->verify_image(kPart, {})->problems.empty());
    copied.here = open_store(copied.files);
  }
}

TEST_CASE("when all of a damaged pack is put right or whole, it is gone, and nothing is known to be bad any more") {
  Copied copied;
  REQUIRE(copied.here->remove(kAll).has_value());
  copied.damage();
  REQUIRE(copied.mend().has_value());
  REQUIRE(copied.here->collect().has_value());
  CHECK_FALSE(copied.files.names().contains(copied.pack));
  CHECK_FALSE(copied.files.names().contains("/s/bad-blocks"));
  CHECK(get(*copied.here, kPart).value() == pages(3));
  CHECK(copied.here->verify()->problems.empty());
}

TEST_CASE("a machine that dies at any step of mending: what was whole stays whole, and mending goes on") {
  for (const bool lose : {true, false})
    for (std::uint64_t n = 0;; ++n) {
      CAPTURE(n);
      Copied copied;
      REQUIRE(copied.here->remove(kAll).has_value());
      copied.damage();
      copied.files.die_after(n);
      (void)copied.mend();
      (void)copied.here->collect();
      const bool died = copied.files.dead();
      copied.here.reset();
      copied.files.reboot(lose);
      copied.here = open_store(copied.files);
      const Status mended = copied.mend();
      REQUIRE_MESSAGE(mended.has_value(), mended.error());
      CHECK(get(*copied.here, kPart).value() == pages(3));
      REQUIRE(copied.here->collect().has_value());
      CHECK(copied.here->verify()->problems.empty());
      if (!died) break;
    }
}

TEST_CASE("no new image relies on a block that was found damaged, in the next process neither") {
  MemoryFiles files;
  auto store = open_store(files);
  put_both(*store);
  auto& bytes = files.names().at(only_pack(files))->bytes;
  bytes[bytes.size() / 2] ^= 1;
  CHECK(get(*store, kAll).error().kind == ErrorKind::damaged);
  store = open_store(files);
  const auto again = put(*store, "j1/e3/guest-0.disk", ImageKind::flat, pages(1));
  REQUIRE_MESSAGE(again.has_value(), again.error());
  CHECK(again->new_pages > 0);
  CHECK(again->new_pages <= kPagesPerBlock);
  CHECK(get(*store, "j1/e3/guest-0.disk").value() == pages(1));
}

// What was in it.
std::shared_ptr<MemoryFiles::Content> take_pack_away(MemoryFiles& files) {
  const fs::path pack = only_pack(files);
  auto content = files.names().at(pack);
  REQUIRE(files.remove(pack).has_value());
  return content;
}

TEST_CASE("no new image relies on a pack that is gone, whoever found it so") {
  MemoryFiles files;
  auto store = open_store(files);
  put_both(*store);
  take_pack_away(files);
  SUBCASE("a reader") { CHECK(get(*store, kPart).error().kind == ErrorKind::damaged); }
  SUBCASE("a check") { CHECK_FALSE(store->verify_image(kPart, {})->problems.empty()); }
  SUBCASE("a copy to elsewhere") {
    const BlockSlots block = store->blocks(kPart)->front();
    CHECK(store->pack(block.origin, block.number).error().kind == ErrorKind::damaged);
  }
  SUBCASE("a collection") {
    REQUIRE(store->remove(kAll).has_value());
    CHECK(store->collect()->problems.size() == 1);
  }
  const std::string name = "j1/e3/guest-0.disk";
  const auto again = put(*store, name, ImageKind::flat, pages(1));
  REQUIRE_MESSAGE(again.has_value(), again.error());
  CHECK(again->new_pages == 500);
  CHECK(get(*store, name).value() == pages(1));
  CHECK(put(*store, kPart, ImageKind::flat, pages(3))->new_pages == 0);
  CHECK(get(*store, kPart).value() == pages(3));
  REQUIRE(store->remove("j1/").has_value());
  REQUIRE(store->collect().has_value());
  CHECK(files.names().empty());
}

TEST_CASE("a pack that is gone and comes from elsewhere is relied upon again") {
  MemoryFiles files;
  auto store = open_store(files);
  put_both(*store);
  const fs::path path = only_pack(files);
  const auto pack = take_pack_away(files);
  REQUIRE_FALSE(get(*store, kAll).has_value());
  SUBCASE("put by the store") {
    REQUIRE(files.names().try_emplace("/elsewhere", pack).second);
    REQUIRE(store->put_pack(**files.open("/elsewhere"), {}).has_value());
  }
  SUBCASE("put by somebody") {
    files.names()[path] = pack;
    REQUIRE(store->refresh().has_value());
  }
  CHECK(put(*store, "j1/e3/guest-0.disk", ImageKind::flat, pages(1))->new_pages == 0);
  CHECK(get(*store, "j1/e3/guest-0.disk").value() == pages(1));
}

TEST_CASE("the file of bad blocks: every bit of it counts, and it goes with what it names") {
  MemoryFiles files;
  auto store = open_store(files);
  put_both(*store);
  const fs::path pack = only_pack(files);
  files.names().at(pack)->bytes[5000] ^= 1;
  REQUIRE_FALSE(get(*store, kAll).has_value());
  std::string& file = files.names().at("/s/bad-blocks")->bytes;
  const std::string good = file;
  CHECK(decode_bad_blocks(good).value().size() == 1);
  CHECK(encode_bad_blocks(decode_bad_blocks(good).value()) == good);
  for (std::size_t bit = 0; bit < 8 * good.size(); ++bit) {
    file[bit / 8] = static_cast<char>(file[bit / 8] ^ (1 << bit % 8));
    REQUIRE_FALSE(decode_bad_blocks(file).has_value());
    file = good;
  }
  for (std::size_t size = 0; size < good.size(); ++size)
    REQUIRE_FALSE(decode_bad_blocks(good.substr(0, size)).has_value());
  file.resize(10);
  const auto named = open_store(files)->verify();
  CHECK(std::ranges::any_of(named->problems, [](const Error& e) { return e.object == "/s/bad-blocks"; }));
  file = good;
  REQUIRE(store->remove("j1/").has_value());
  REQUIRE(store->collect().has_value());
  CHECK(files.names().empty());
}

TEST_CASE("a collection that finds no room for what it writes anew leaves every page that was there to be used") {
  MemoryFiles files;
  auto store = open_store(files);
  put_both(*store);
  const std::string list = files.names().at("/s/images/" + kAll)->bytes;
  REQUIRE(store->remove(kAll).has_value());
  files.limit(files.bytes());
  REQUIRE(store->collect().error().kind == ErrorKind::storage_full);
  files.limit(~std::uint64_t{0});
  // Somebody who saw the pack may count on its pages: the owner of a mirror, for its next image.
  const Status kept = store->put_image(kAll, list);
  REQUIRE_MESSAGE(kept.has_value(), kept.error());
  CHECK(get(*store, kAll).value() == pages(1));
  REQUIRE(store->collect().has_value());
  CHECK(get(*store, kAll).value() == pages(1));
}

// Far away: its first read ends when `ready` does.
class SlowFile final : public ReadableFile {
 public:
  SlowFile(std::shared_ptr<const ReadableFile> file, std::function<void()> ready)
      : file_(std::move(file)), ready_(std::move(ready)) {}
  Result<std::string> read(std::uint64_t offset, std::size_t count) const override {
    if (ready_) std::exchange(ready_, nullptr)();
    return file_->read(offset, count);
  }
  std::uint64_t size() const override { return file_->size(); }

 private:
  const std::shared_ptr<const ReadableFile> file_;
  mutable std::function<void()> ready_;
};

TEST_CASE("a pack that is slow to come holds up no collection") {
  std::string directory = "/tmp/stillpoint-mend-XXXXXX";
  REQUIRE(::mkdtemp(directory.data()) != nullptr);
  {
    auto from = open_store(system_files(), directory + "/a"), to = open_store(system_files(), directory + "/b");
    put_both(*from);
    const BlockSlots block = from->blocks(kAll)->front();
    auto pack = from->pack(block.origin, block.number);
    REQUIRE(pack.has_value());
    bool collected = false;
    const SlowFile slow(pack->file, [&] {
      auto collection = std::async(std::launch::async, [&] { return to->collect().has_value(); });
      // A collection that waits for this file would wait for ever: then nobody waits for it here.
      collected = collection.wait_for(std::chrono::seconds(30)) == std::future_status::ready && collection.get();
      if (!collected) std::abort();
    });
    REQUIRE(to->put_pack(slow, {}).has_value());
    CHECK(collected);
    CHECK(to->slots(block.origin, block.number) == from->slots(block.origin, block.number));
  }
  fs::remove_all(directory);
}

}  // namespace
}  // namespace stillpoint::node
