// Packs in the S3 store of which little is needed any more are written anew there.
#include <atomic>
#include <fstream>
#include <future>
#include <latch>

#include "node-daemon/store/remote/memory_blob.h"
#include "node-daemon/store/site_under_test.h"

namespace stillpoint::node::test {
namespace {

const std::string kMemory = TestGuest(1, 1, 20).stream();
const std::string kStays = flat_bytes(4, 80 * kPageBytes), kGoes = flat_bytes(5, 500 * kPageBytes),
                  kComes = flat_bytes(6, 30 * kPageBytes);

// The first checkpoint's packs have what the second one needs too, and much more.
struct Sparse {
  Site site;
  std::unique_ptr<SiteImageStore> h1;
  wire::GuestImage first, second;
  explicit Sparse(bool real_server = false) {
    if (!real_server) site.s3 = fast_store(site);
    h1 = site.host("h1");
    first = take(*h1, 1, kMemory, kGoes + kStays);
    second = take(*h1, 2, kMemory, kStays + kComes);
  }
  std::uint64_t bytes() const {
    std::uint64_t sum = 0;
    for (const std::string& pack : site.s3->list("h1/packs").value())
      sum += site.s3->open("h1/packs/" + pack).value()->size();
    return sum;
  }
  // And what the daemon does after that, now and then.
  static Status remove_first(SiteImageStore& store) {
    Status removed = store.remove({"j7"}, {{1}}, ImageStore::Reach::own, {});
    store.tidy_object_store();
    return removed;
  }
  void check_second() const {
    const auto elsewhere = site.host("h9");
    const auto back = get(*elsewhere, second.disk());
    REQUIRE_MESSAGE(back.has_value(), back.error());
    CHECK(*back == kStays + kComes);
    CHECK(same_machine(get(*elsewhere, second.memory()).value(), kMemory));
  }
  void check_nothing_is_left() const {
    REQUIRE(h1->remove({"j7"}, {{1}, {2}}, ImageStore::Reach::own, {}).has_value());
    CHECK(site.s3->list("h1").value().empty());
    CHECK(fs::is_empty(site.path / "h1/hosts/h1/packs"));
  }
};

// Where something else is done before a pack is put, or removed.
class WatchedBlobs final : public BlobStore {
 public:
  using Look = std::function<Status(const std::string& name, const std::stop_token& stop)>;
  WatchedBlobs(std::shared_ptr<BlobStore> blobs, Look look, std::function<void()> before_removal = {})
      : blobs_(std::move(blobs)), look_(std::move(look)), before_removal_(std::move(before_removal)) {}

  const std::string& where() const override { return blobs_->where(); }
  Status put(const std::string& name, const ReadableFile& content, std::stop_token stop) override {
    if (name.find("/packs/") != name.npos)
      if (auto looked = look_(name, stop); !looked) return looked;
    return blobs_->put(name, content, stop);
  }
  Result<std::shared_ptr<const ReadableFile>> open(const std::string& name) override { return blobs_->open(name); }
  Result<std::vector<std::string>> list(const std::string& directory) override { return blobs_->list(directory); }
  Status remove(const std::string& name) override {
    if (before_removal_ && name.find("/packs/") != name.npos) before_removal_();
    return blobs_->remove(name);
  }

 private:
  const std::shared_ptr<BlobStore> blobs_;
  const Look look_;
  const std::function<void()> before_removal_;
};

TEST_CASE("a pack in the S3 store that little is needed of is written anew, from what is here") {
  Sparse sparse;
  const std::uint64_t before = sparse.bytes();
  // What the pack there has is of no use.
  std::size_t spoiled = 0;
  for (const auto& entry : fs::directory_iterator(sparse.site.path / "s3/h1/packs")) {
    if (entry.file_size() < 100'000) continue;
    std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
    for (std::uint64_t at = 1000; at + 20'000 < entry.file_size(); at += 5'000)
      file.seekp(static_cast<std::streamoff>(at)).put('x');
    ++spoiled;
  }
  REQUIRE(spoiled == 1);
  REQUIRE(sparse.remove_first(*sparse.h1).has_value());
  CHECK(sparse.bytes() < before / 2);
  sparse.check_second();
  // The next one relies on what is there now.
  const wire::GuestImage third = take(*sparse.h1, 3, kMemory, kComes + kStays);
  CHECK(get(*sparse.site.host("h9"), third.disk()).value() == kComes + kStays);
  REQUIRE(sparse.h1->remove({"j7"}, {{3}}, ImageStore::Reach::own, {}).has_value());
  sparse.check_second();
  sparse.check_nothing_is_left();
}

TEST_CASE("what is not here any more is read from the S3 store to be written anew there") {
  Sparse sparse;
  sparse.h1.reset();
  fs::remove_all(sparse.site.path / "h1");  // its disk; the host is back with a new one
  sparse.h1 = sparse.site.host("h1");
  const std::uint64_t before = sparse.bytes();
  REQUIRE(sparse.remove_first(*sparse.h1).has_value());
  CHECK(sparse.bytes() < before / 2);
  sparse.check_second();
  sparse.check_nothing_is_left();
}

TEST_CASE("a host that is lost may be back: of its packs another one removes only those that nothing is needed of") {
  Sparse sparse;
  const std::uint64_t before = sparse.bytes();
  const auto h2 = sparse.site.host("h2");
  REQUIRE(h2->remove({"j7"}, {{1}}, ImageStore::Reach::own, {{"h1"}}).has_value());
  CHECK(sparse.bytes() > before / 2);
  sparse.check_second();
  sparse.check_nothing_is_left();
}

TEST_CASE(
    "believed to be lost while it writes packs anew: another one that frees its space takes none of the new ones") {
  Sparse sparse;
  const auto h2 = sparse.site.host("h2");
  int freed = 0;
  const auto blobs = std::make_shared<WatchedBlobs>(
      sparse.site.s3, [](const std::string&, const std::stop_token&) { return Status(); },
      [&] {
        if (freed++ == 0) CHECK(h2->remove({"j7"}, {{1}}, ImageStore::Reach::own, {{"h1"}}).has_value());
      });
  sparse.h1.reset();
  sparse.h1 = sparse.site.host("h1", blobs);
  const std::uint64_t before = sparse.bytes();
  REQUIRE(sparse.remove_first(*sparse.h1).has_value());
  CHECK(freed > 0);
  CHECK(sparse.bytes() < before / 2);
  sparse.check_second();
  sparse.check_nothing_is_left();
}

TEST_CASE("a copy that comes meanwhile does not wait for packs to be written anew; that goes on later") {
  Sparse sparse;
  std::latch begun(1);
  std::atomic<bool> slow = true;
  // Far away: what is written anew takes for ever to be put.
  const auto blobs = std::make_shared<WatchedBlobs>(
      sparse.site.s3, [&](const std::string& name, const std::stop_token& stop) -> Status {
        if (!slow.exchange(false)) return {};
        begun.count_down();
        std::promise<void> stopped;
        const std::stop_callback told(stop, [&] { stopped.set_value(); });
        stopped.get_future().wait();
        return Error{ErrorKind::refused, "store", name, "stopped as asked"};
      });
  sparse.h1.reset();
  sparse.h1 = sparse.site.host("h1", blobs);
  const std::uint64_t before = sparse.bytes();
  REQUIRE(sparse.h1->remove({"j7"}, {{1}}, ImageStore::Reach::own, {}).has_value());
  auto tidied = std::async(std::launch::async, [&] { sparse.h1->tidy_object_store(); });
  while (!begun.try_wait() && tidied.wait_for(std::chrono::milliseconds(1)) != std::future_status::ready) {}
  REQUIRE(begun.try_wait());
  const wire::GuestImage third = take(*sparse.h1, 3, kMemory, kComes + kStays);
  tidied.wait();
  CHECK(sparse.bytes() > before / 2);
  sparse.check_second();
  CHECK(get(*sparse.site.host("h9"), third.disk()).value() == kComes + kStays);
  sparse.h1->tidy_object_store();
  CHECK(sparse.bytes() < before / 2);
  sparse.check_second();
  CHECK(get(*sparse.site.host("h9"), third.disk()).value() == kComes + kStays);
}

TEST_CASE("a request that fails while packs are written anew: the deletion is done, the rest is when it works again") {
  std::uint64_t before = 0;
  for (std::uint64_t n = 0;; ++n) {
    CAPTURE(n);
    Sparse sparse;
    before = sparse.bytes();
    const auto blobs = std::make_shared<FailingBlobs>(sparse.site.s3);
    sparse.h1.reset();
    sparse.h1 = sparse.site.host("h1", blobs);
    blobs->fail_at(n);
    const Status removed = sparse.remove_first(*sparse.h1);
    blobs->fail_no_more();
    sparse.check_second();
    if (!removed) REQUIRE(sparse.remove_first(*sparse.h1).has_value());
    sparse.h1->tidy_object_store();
    CHECK(sparse.bytes() < before / 2);
    sparse.check_second();
    sparse.check_nothing_is_left();
    if (!blobs->failed()) break;
    REQUIRE(n < 1000);
  }
}

TEST_CASE("a host killed at any step of it: what is kept is restored, and the next collection leaves nothing over") {
  std::uint64_t least = 0, deaths = 0;
  {
    Sparse sparse;
    REQUIRE(sparse.remove_first(*sparse.h1).has_value());
    least = sparse.bytes();
  }
  for (std::uint64_t steps = 0;; ++steps) {
    CAPTURE(steps);
    Sparse sparse;
    sparse.h1.reset();
    const bool killed =
        killed_while(sparse.site, steps, [&](SiteImageStore& h1) { return sparse.remove_first(h1).has_value(); });
    sparse.check_second();
    sparse.h1 = sparse.site.host("h1");
    REQUIRE(sparse.remove_first(*sparse.h1).has_value());
    CHECK(sparse.bytes() <= least + 1000);  // names differ, and how blocks lie
    sparse.check_second();
    sparse.check_nothing_is_left();
    deaths += killed ? 1 : 0;
    if (!killed) break;
  }
  CHECK(deaths > 8);
  MESSAGE(deaths, " deaths");
}

TEST_CASE("on a real server packs are written anew, and the checkpoint is restored from them") {
  Sparse sparse(true);
  const std::uint64_t before = sparse.bytes();
  REQUIRE(sparse.remove_first(*sparse.h1).has_value());
  CHECK(sparse.bytes() < before / 2);
  sparse.check_second();
  REQUIRE(sparse.h1->remove({"j7"}, {{2}}, ImageStore::Reach::own, {}).has_value());
  CHECK(sparse.site.packs() == 0);
}

}  // namespace
}  // namespace stillpoint::node::test
