// Images in the site's S3 store, mostly on a real server: what is left when every host is lost.
#include "node-daemon/store/site_under_test.h"

namespace stillpoint::node::test {
namespace {

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

TEST_CASE("what was committed here goes to the S3 store later; stopped half-way, the next try sends what is missing") {
  Site site;
  auto h1 = site.host("h1");
  const std::string disk = flat_bytes(6, 3'000'000);
  wire::GuestImage image;
  *image.mutable_memory() = put(*h1, {{"j7"}, {1}, {0}, ImageName::Part::memory}, TestGuest(1).stream());
  *image.mutable_disk() = put(*h1, {{"j7"}, {1}, {0}, ImageName::Part::disk}, disk);
  wire::Durability local, asked;
  REQUIRE(h1->replicate(image, local, {}).has_value());
  REQUIRE(image.disk().copies_size() == 0);
  asked.set_level(wire::Durability::SITE);
  std::stop_source stop;
  stop.request_stop();
  REQUIRE_FALSE(h1->replicate(image, asked, stop.get_token()).has_value());
  CHECK(image.disk().copies_size() == 0);
  // Another process, as after a restart of the daemon.
  h1.reset();
  h1 = site.host("h1");
  const Status later = h1->replicate(image, asked, {});
  REQUIRE_MESSAGE(later.has_value(), later.error());
  REQUIRE(image.disk().copies_size() == 1);
  CHECK(image.disk().copies(0) == "s3");
  h1.reset();
  fs::remove_all(site.path / "h1");
  CHECK(*get(*site.host("h2"), image.disk()) == disk);
}

// Whether the process that put the image into the S3 store was killed; otherwise it came to its end.
bool killed(const fs::path& path, const S3Settings& settings, wire::GuestImage image, std::uint64_t steps) {
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    auto s3 = S3Store::make(settings);
    if (!s3) ::_exit(2);
    ImageStoreOptions options;
    options.own = true;
    options.object_store = std::make_shared<DyingBlobs>(std::move(*s3), steps);
    auto store = open_chunk_image_store(path / "h1", {"h1"}, path / "store.keys", std::move(options));
    if (!store) ::_exit(3);
    wire::Durability asked;
    asked.set_level(wire::Durability::SITE);
    ::_exit((*store)->replicate(image, asked, {}) ? 0 : 4);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) return true;
  REQUIRE(WIFEXITED(status));
  REQUIRE(WEXITSTATUS(status) == 0);
  return false;
}

TEST_CASE("a host killed at any step of an upload: what was there stays, half an image is none, and nothing is left") {
  Site site;
  S3Settings settings = server().settings();
  settings.part_bytes = 5u << 20;
  auto store = S3Store::make(settings);
  REQUIRE_MESSAGE(store.has_value(), store.error());
  const std::shared_ptr<S3Store> s3 = std::move(*store);
  site.s3 = s3;
  auto h1 = site.host("h1");
  const std::string memory = TestGuest(1).stream();
  const wire::GuestImage first = take(*h1, 1, memory, flat_bytes(4, 500'000));
  std::uint64_t epoch = 1, deaths = 0;
  const auto run = [&](std::uint64_t steps, std::size_t bytes) {
    CAPTURE(steps);
    ++epoch;
    const std::string disk = flat_bytes(100 + epoch, bytes);
    wire::GuestImage image;
    *image.mutable_memory() = put(*h1, {{"j7"}, {epoch}, {0}, ImageName::Part::memory}, memory);
    *image.mutable_disk() = put(*h1, {{"j7"}, {epoch}, {0}, ImageName::Part::disk}, disk);
    h1.reset();
    const bool was_killed = killed(site.path, settings, image, steps);
    REQUIRE(s3->end_unfinished("h1").has_value());  // as the daemon does when it starts
    for (auto* file : {image.mutable_memory(), image.mutable_disk()}) file->add_copies("s3");
    {
      const auto h2 = site.host("h2");
      CHECK(*get(*h2, first.disk()) == flat_bytes(4, 500'000));
      const auto back = get(*h2, image.disk());
      if (back) CHECK(*back == disk);
      else CHECK(back.error().kind == ErrorKind::damaged);
      CHECK((back.has_value() || was_killed));
    }
    h1 = site.host("h1");
    const Status removed = h1->remove({"j7"}, {{epoch}}, ImageStore::Reach::own, {});
    REQUIRE_MESSAGE(removed.has_value(), removed.error());
    deaths += was_killed ? 1 : 0;
    return was_killed;
  };
  for (std::uint64_t steps = 0; run(steps, 200'000); ++steps) {}
  const std::uint64_t small = deaths;
  for (std::uint64_t steps = 0; run(steps, 12'000'000); steps += 5) {}  // its pack goes in parts
  CHECK(small > 5);
  CHECK(deaths >= small + 3);
  MESSAGE(small, " deaths while files went whole, ", deaths - small, " while one went in parts");
  REQUIRE(h1->remove({"j7"}, {{1}}, ImageStore::Reach::own, {}).has_value());
  CHECK(site.packs() == 0);
  CHECK(s3->list("h1").value().empty());
  CHECK(s3->end_unfinished("").value() == 0);
}

TEST_CASE("a deletion that fails at any request says so, and when it is tried again everything is freed") {
  Site site;
  site.s3 = fast_store(site);
  const auto blobs = std::make_shared<FailingBlobs>(site.s3);
  auto h1 = site.host("h1", blobs);
  auto h2 = site.host("h2", blobs);
  bool in_next_process = false, of_lost_host = false;
  SUBCASE("by the same process") {}
  SUBCASE("by the next one") { in_next_process = true; }
  SUBCASE("by another host") { of_lost_host = true; }
  std::uint64_t failures = 0;
  for (std::uint64_t epoch = 1;; ++epoch) {
    CAPTURE(epoch);
    take(*h1, epoch, TestGuest(1, 1, 20).stream(), flat_bytes(4, 20'000));
    REQUIRE(site.packs() > 0);
    const auto remove = [&] {
      ImageStore& store = of_lost_host ? *h2 : *h1;
      return store.remove({"j7"}, {{epoch}}, ImageStore::Reach::own,
                          of_lost_host ? std::vector<HostName>{{"h1"}} : std::vector<HostName>{});
    };
    blobs->fail_at(epoch - 1);
    const Status removed = remove();
    blobs->fail_no_more();
    if (removed) CHECK(site.s3->list("h1").value().empty());
    else CHECK(blobs->failed());
    if (in_next_process) {
      h1.reset();
      h1 = site.host("h1", blobs);
    }
    const Status again = remove();
    REQUIRE_MESSAGE(again.has_value(), again.error());
    CHECK(site.s3->list("h1").value().empty());
    if (!blobs->failed()) break;
    ++failures;
  }
  CHECK(failures > 5);
}

TEST_CASE("what an upload that failed has left is freed when its checkpoint is deleted") {
  Site site;
  site.s3 = fast_store(site);
  const auto blobs = std::make_shared<FailingBlobs>(site.s3);
  const auto h1 = site.host("h1", blobs);
  const auto remove = [&](std::uint64_t epoch) {
    const Status removed = h1->remove({"j7"}, {{epoch}}, ImageStore::Reach::own, {});
    REQUIRE_MESSAGE(removed.has_value(), removed.error());
    CHECK(site.s3->list("h1").value().empty());
  };
  take(*h1, 1, TestGuest(1).stream(), flat_bytes(4, 200'000));
  remove(1);
  for (std::uint64_t epoch = 2;; ++epoch) {
    CAPTURE(epoch);
    wire::GuestImage image = store_both(*h1, epoch, TestGuest(1).stream(), flat_bytes(5, 200'000));
    blobs->fail_at(epoch - 2);
    const Status done = replicate(*h1, image);
    blobs->fail_no_more();
    CHECK(done.has_value() == !blobs->failed());
    remove(epoch);
    if (!blobs->failed()) break;
  }
}

TEST_CASE("a deletion of what never went to the S3 store costs it few requests") {
  Site site;
  site.s3 = fast_store(site);
  const auto blobs = std::make_shared<FailingBlobs>(site.s3);
  const auto h1 = site.host("h1", blobs);
  take(*h1, 1, TestGuest(1).stream(), flat_bytes(4, 200'000));
  for (std::uint64_t epoch = 2; epoch < 4; ++epoch) {
    store_both(*h1, epoch, TestGuest(1).stream(), flat_bytes(epoch, 200'000));
    blobs->fail_at(2);  // lists of its records and of its images
    const Status removed = h1->remove({"j7"}, {{epoch}}, ImageStore::Reach::own, {});
    CHECK(blobs->failed() == (epoch == 2));  // the first since the start looks through everything
    blobs->fail_no_more();
    if (epoch == 2) REQUIRE(h1->remove({"j7"}, {{epoch}}, ImageStore::Reach::own, {}).has_value());
  }
}

}  // namespace
}  // namespace stillpoint::node::test
