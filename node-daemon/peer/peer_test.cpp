// Hosts with image directories of their own: real servers, real TLS, real files.
#include <doctest/doctest.h>
#include <stdlib.h>

#include <algorithm>
#include <fstream>
#include <functional>

#include "common/net/test_certificates.h"
#include "node-daemon/peer/peer_blobs.h"
#include "node-daemon/peer/peer_server.h"
#include "node-daemon/peer/peer_target.h"
#include "node-daemon/store/chunk_image_store.h"
#include "node-daemon/store/remote/remote_files.h"
#include "node-daemon/store/store_test_data.h"

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;
using test::TestGuest;

struct Place {
  fs::path path;
  Place() {
    char name[] = "/tmp/stillpoint-peers-XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    path = name;
  }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;
  ~Place() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
};

struct Site {
  Place place;
  net::TestSite certificates;
  fs::path keys() const { return place.path / "store.keys"; }
};

class HostUnderTest {
 public:
  HostUnderTest(Site& site, std::string name)
      : name_(std::move(name)),
        directory_(site.place.path / name_),
        tls_(site.certificates.identity(name_)),
        identity_{tls_ / "ca.pem", tls_ / "cert.pem", tls_ / "key.pem"} {
    ImageStoreOptions options;
    options.own = true;
    options.connect = [this](const wire::StorePeer& peer) { return connect_peer(peer, identity_); };
    auto store = open_chunk_image_store(directory_ / "images", {name_}, site.keys(), std::move(options));
    REQUIRE_MESSAGE(store.has_value(), store.error());
    store_ = std::move(*store);
    auto tls = net::TlsContext::load(tls_, net::TlsRole::host);
    REQUIRE_MESSAGE(tls.has_value(), tls.error());
    auto server = PeerServer::listen(*tls, "127.0.0.1:0", system_files(), store_->hosts(), store_->mirrors());
    REQUIRE_MESSAGE(server.has_value(), server.error());
    server_ = std::move(*server);
  }

  SiteImageStore& store() { return *store_; }
  const SiteIdentity& identity() const { return identity_; }
  wire::StorePeer peer() const {
    wire::StorePeer peer;
    peer.set_host(name_);
    peer.set_endpoint(server_->endpoint());
    return peer;
  }
  fs::path packs(const std::string& owner) const { return directory_ / "images/hosts" / owner / "packs"; }
  // Everything below hosts/OWNER but the lock.
  std::size_t files_of(const std::string& owner) const {
    std::error_code none;
    std::size_t count = 0;
    for (const auto& entry : fs::recursive_directory_iterator(directory_ / "images/hosts" / owner, none))
      count += entry.is_regular_file() && entry.path().filename() != "lock" ? 1 : 0;
    return count;
  }

  wire::ImageFile put(const ImageName& name, const std::string& raw) {
    auto writer = store_->begin(name, {});
    REQUIRE_MESSAGE(writer.has_value(), writer.error());
    REQUIRE((*writer)->write(raw).has_value());
    auto file = (*writer)->commit();
    REQUIRE_MESSAGE(file.has_value(), file.error());
    return *file;
  }
  Result<std::string> get(const wire::ImageFile& file, const std::vector<wire::StorePeer>& peers) {
    auto reader = store_->open(file, peers);
    if (!reader) return reader.error();
    std::string raw;
    for (;;) {
      auto piece = (*reader)->read();
      if (!piece) return piece.error();
      if (piece->empty()) return raw;
      raw += *piece;
    }
  }

 private:
  const std::string name_;
  const fs::path directory_, tls_;
  const SiteIdentity identity_;
  std::unique_ptr<SiteImageStore> store_;
  std::unique_ptr<PeerServer> server_;  // goes first
};

struct Gang {
  Site site;
  std::unique_ptr<HostUnderTest> h1 = std::make_unique<HostUnderTest>(site, "h1");
  std::unique_ptr<HostUnderTest> h2 = std::make_unique<HostUnderTest>(site, "h2");
  std::unique_ptr<HostUnderTest> h3 = std::make_unique<HostUnderTest>(site, "h3");
  const std::string memory = TestGuest(1).stream(), disk = test::flat_bytes(4, 3'000'000);

  // Of guest 0, on h1.
  wire::GuestImage take(std::uint64_t epoch, const std::string& disk_bytes) {
    wire::GuestImage image;
    *image.mutable_memory() = h1->put({{"j7"}, {epoch}, {0}, ImageName::Part::memory}, memory);
    *image.mutable_disk() = h1->put({{"j7"}, {epoch}, {0}, ImageName::Part::disk}, disk_bytes);
    return image;
  }
  static wire::Durability host_loss(const std::vector<wire::StorePeer>& partners) {
    wire::Durability asked;
    asked.set_level(wire::Durability::HOST_LOSS);
    for (const auto& partner : partners) *asked.add_partners() = partner;
    return asked;
  }
  wire::GuestImage copied(std::uint64_t epoch, const std::string& disk_bytes) {
    wire::GuestImage image = take(epoch, disk_bytes);
    const Status done = h1->store().replicate(image, host_loss({h2->peer()}), {});
    REQUIRE_MESSAGE(done.has_value(), done.error());
    return image;
  }
};

void flip_a_byte_of_each(const fs::path& packs) {
  for (const auto& entry : fs::directory_iterator(packs)) {
    std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(0, std::ios::end);
    const auto size = static_cast<std::int64_t>(file.tellg());
    file.seekg(size / 3);
    const char byte = static_cast<char>(file.get());
    file.seekp(size / 3);
    file.put(static_cast<char>(byte ^ 1));
  }
}

TEST_CASE("the partner's copy serves any host when the owner and its disk are gone") {
  Gang gang;
  const wire::GuestImage image = gang.copied(12, gang.disk);
  REQUIRE(image.memory().copies_size() == 1);
  CHECK(image.memory().copies(0) == "h2");
  CHECK(image.disk().copies(0) == "h2");
  gang.h1.reset();
  fs::remove_all(gang.site.place.path / "h1");
  for (HostUnderTest* host : {gang.h2.get(), gang.h3.get()}) {
    const auto memory = host->get(image.memory(), {gang.h2->peer()});
    REQUIRE_MESSAGE(memory.has_value(), memory.error());
    CHECK(test::same_machine(*memory, gang.memory));
    const auto disk = host->get(image.disk(), {gang.h2->peer()});
    REQUIRE_MESSAGE(disk.has_value(), disk.error());
    CHECK(*disk == gang.disk);
  }
}

TEST_CASE("nobody who has it is there: said, and not as damage") {
  Gang gang;
  const wire::GuestImage image = gang.copied(12, gang.disk);
  const wire::StorePeer h1 = gang.h1->peer(), h2 = gang.h2->peer();
  gang.h1.reset();
  gang.h2.reset();
  const auto read = gang.h3->get(image.memory(), {h1, h2});
  REQUIRE_FALSE(read.has_value());
  CHECK(read.error().kind == ErrorKind::transient);
  CHECK(read.error().cause.find("host h1: ") != std::string::npos);
  CHECK(read.error().cause.find("host h2: ") != std::string::npos);
}

// Packs cannot be opened while it is away.
class Flaky final : public BlobStore {
 public:
  explicit Flaky(std::shared_ptr<BlobStore> blobs) : blobs_(std::move(blobs)) {}
  bool away = true;

  const std::string& where() const override { return blobs_->where(); }
  Status put(const std::string& name, const ReadableFile& content, std::stop_token stop) override {
    return blobs_->put(name, content, std::move(stop));
  }
  Result<std::shared_ptr<const ReadableFile>> open(const std::string& name) override {
    if (away && name.find("/packs/") != std::string::npos)
      return Error{ErrorKind::transient, "open", name, "nobody answers"};
    return blobs_->open(name);
  }
  Result<std::vector<std::string>> list(const std::string& directory) override { return blobs_->list(directory); }
  Status remove(const std::string& name) override { return blobs_->remove(name); }

 private:
  const std::shared_ptr<BlobStore> blobs_;
};

TEST_CASE("a place that cannot be asked for a moment says nothing of damage, and serves when it is back") {
  Gang gang;
  const wire::GuestImage image = gang.copied(12, gang.disk);
  const auto flaky = std::make_shared<Flaky>(connect_peer(gang.h2->peer(), gang.h1->identity()));
  RemoteFiles files(flaky);
  ChunkStoreOptions options;
  options.read_only = true;
  auto keys = load_site_keys(gang.site.keys());
  REQUIRE(keys.has_value());
  const auto read = [&](ChunkStore& store) -> Result<std::string> {
    auto source = store.read("j7/e12/guest-0.disk");
    if (!source) return source.error();
    std::string raw;
    for (;;) {
      auto piece = (*source)->read();
      if (!piece) return piece.error();
      if (piece->empty()) return raw;
      raw += *piece;
    }
  };
  flaky->away = false;
  auto store = ChunkStore::open(files, "h1", *keys, options);
  REQUIRE_MESSAGE(store.has_value(), store.error());
  flaky->away = true;
  const auto away = read(**store);
  REQUIRE_FALSE(away.has_value());
  CHECK(away.error().kind == ErrorKind::transient);
  flaky->away = false;
  const auto back = read(**store);
  REQUIRE_MESSAGE(back.has_value(), back.error());
  CHECK(*back == gang.disk);
}

TEST_CASE("the next copy costs what is new, and compaction here makes no second copy there") {
  Gang gang;
  std::string disk = gang.disk;
  gang.copied(1, disk);
  const auto packs = [&] {
    std::uint64_t bytes = 0;
    for (const auto& entry : fs::directory_iterator(gang.h2->packs("h1"))) bytes += entry.file_size();
    return bytes;
  };
  const std::uint64_t first = packs();
  for (std::size_t at = 0; at < disk.size(); at += 3 * 4096) disk.replace(at, 4, "abcd");
  gang.copied(2, disk);
  const std::uint64_t second = packs();
  CHECK(second > first);
  CHECK(second - first < first);
  // h1 frees most of the first pack and writes the rest of it anew; what h2 has is still good for it.
  REQUIRE(gang.h1->store().remove({"j7"}, {{1}}, ImageStore::Reach::own, {}).has_value());
  const wire::GuestImage third = gang.copied(3, disk);
  CHECK(packs() - second < first / 10);
  gang.h1.reset();
  const auto read = gang.h3->get(third.disk(), {gang.h2->peer()});
  REQUIRE_MESSAGE(read.has_value(), read.error());
  CHECK(*read == disk);
}

TEST_CASE("a copy that is damaged on the way is left for another one") {
  Gang gang;
  const wire::GuestImage image = gang.copied(12, gang.disk);
  flip_a_byte_of_each(gang.h1->packs("h1"));
  const auto read = gang.h1->get(image.disk(), {gang.h1->peer(), gang.h2->peer()});
  REQUIRE_MESSAGE(read.has_value(), read.error());
  CHECK(*read == gang.disk);
  flip_a_byte_of_each(gang.h2->packs("h1"));
  const auto none = gang.h1->get(image.disk(), {gang.h1->peer(), gang.h2->peer()});
  REQUIRE_FALSE(none.has_value());
  CHECK(none.error().kind == ErrorKind::damaged);
}

TEST_CASE("a partner that has not got the newest key yet takes no copy, and says which file to copy to it") {
  Gang gang;
  gang.h1.reset();
  REQUIRE(rotate_site_key(gang.site.keys()).has_value());
  gang.h1 = std::make_unique<HostUnderTest>(gang.site, "h1");
  wire::GuestImage image = gang.take(12, gang.disk);
  const Status copied = gang.h1->store().replicate(image, Gang::host_loss({gang.h2->peer()}), {});
  REQUIRE_FALSE(copied.has_value());
  CHECK_MESSAGE(copied.error().kind == ErrorKind::refused, copied.error());
  CHECK(copied.error().message().find("copy that file here") != std::string::npos);
}

// verify puts right whatever one damages, from the other place, and says so.
struct Damage {
  const char* words;
  std::function<void(const fs::path& host)> make;  // below IMAGES/hosts/h1 of the host that is damaged
};

void cut_short(const fs::path& path) { fs::resize_file(path, fs::file_size(path) / 2); }

const std::vector<Damage>& damages() {
  static const fs::path list = "images/j7/e12/guest-0.disk";
  static const std::vector<Damage> all{
      {"a bit in each pack", [](const fs::path& store) { flip_a_byte_of_each(store / "packs"); }},
      {"no packs",
       [](const fs::path& store) {
         for (const auto& entry : fs::directory_iterator(store / "packs")) fs::remove(entry.path());
       }},
      {"packs cut short",
       [](const fs::path& store) {
         for (const auto& entry : fs::directory_iterator(store / "packs")) cut_short(entry.path());
       }},
      {"no list", [](const fs::path& store) { fs::remove(store / list); }},
      {"a list cut short", [](const fs::path& store) { cut_short(store / list); }},
      {"nothing", [](const fs::path& store) {
         fs::remove(store / list);
         for (const auto& entry : fs::directory_iterator(store / "packs")) fs::remove(entry.path());
       }}};
  return all;
}

TEST_CASE("verify puts right what is damaged, here and at the partner, from the other one") {
  for (const Damage& damage : damages())
    for (const bool at_partner : {false, true}) {
      CAPTURE(damage.words);
      CAPTURE(at_partner);
      Gang gang;
      const wire::GuestImage image = gang.copied(12, gang.disk);
      HostUnderTest& hurt = at_partner ? *gang.h2 : *gang.h1;
      const std::vector<wire::StorePeer> peers{gang.h1->peer(), gang.h2->peer()};
      damage.make(hurt.packs("h1").parent_path());
      const auto verified = hurt.store().verify(image.disk(), peers, {});
      REQUIRE_MESSAGE(verified.has_value(), verified.error());
      CHECK_MESSAGE(verified->problems.empty(), verified->problems.front());
      REQUIRE(verified->mended.size() == 1);
      CHECK(verified->mended[0].find(at_partner ? "host h1" : "host h2") != std::string::npos);
      // What was one file's damage was others', too.
      CHECK(hurt.store().verify(image.memory(), peers, {}).value().problems.empty());
      // Nor did what was put right become less with the next collection.
      REQUIRE(hurt.store().remove({"j7"}, {{99}}, ImageStore::Reach::all_hosts, {}).has_value());
      CHECK(hurt.store().verify(image.memory(), {}, {}).value().problems.empty());
      // Now it stands alone.
      const auto read = hurt.get(image.disk(), {});
      REQUIRE_MESSAGE(read.has_value(), read.error());
      CHECK(*read == gang.disk);
      const auto again = hurt.store().verify(image.disk(), {}, {});
      REQUIRE(again.has_value());
      CHECK(again->problems.empty());
      CHECK(again->mended.empty());
    }
}

TEST_CASE("verify: damaged everywhere is damaged; damaged here and nobody to ask is not known") {
  Gang gang;
  const wire::GuestImage image = gang.copied(12, gang.disk);
  const std::vector<wire::StorePeer> peers{gang.h1->peer(), gang.h2->peer()};
  flip_a_byte_of_each(gang.h1->packs("h1"));
  const auto unknown = gang.h1->store().verify(image.disk(), {}, {});
  REQUIRE(unknown.has_value());
  REQUIRE_FALSE(unknown->problems.empty());
  for (const Error& problem : unknown->problems) CHECK(problem.kind == ErrorKind::transient);
  flip_a_byte_of_each(gang.h2->packs("h1"));
  const auto lost = gang.h1->store().verify(image.disk(), peers, {});
  REQUIRE(lost.has_value());
  REQUIRE_FALSE(lost->problems.empty());
  for (const Error& problem : lost->problems) CHECK(problem.kind == ErrorKind::damaged);
  CHECK(lost->mended.empty());
}

TEST_CASE(
    "pages in blocks that the partner knows to be damaged are not kept: the next copy brings them, and mends the "
    "last") {
  Gang gang;
  bool in_next_process = false;
  SUBCASE("found by the process that takes the copy") {}
  SUBCASE("and by the one before it") { in_next_process = true; }
  const wire::GuestImage first = gang.copied(12, gang.disk);
  flip_a_byte_of_each(gang.h2->packs("h1"));
  REQUIRE_FALSE(gang.h2->store().verify(first.disk(), {}, {}).value().problems.empty());
  if (in_next_process) {
    gang.h2.reset();
    gang.h2 = std::make_unique<HostUnderTest>(gang.site, "h2");
  }
  const wire::GuestImage second = gang.copied(13, gang.disk);
  for (const wire::GuestImage& image : {second, first}) {
    const auto read = gang.h2->get(image.disk(), {});
    REQUIRE_MESSAGE(read.has_value(), read.error());
    CHECK(*read == gang.disk);
    CHECK(gang.h2->store().verify(image.disk(), {}, {}).value().problems.empty());
  }
}

TEST_CASE("a copy of a pack whose index was damaged at the partner is taken in its place") {
  Gang gang;
  gang.copied(12, gang.disk);
  gang.h2.reset();
  for (const auto& entry : fs::directory_iterator(gang.site.place.path / "h2/images/hosts/h1/packs"))
    fs::resize_file(entry.path(), entry.file_size() - 1);
  gang.h2 = std::make_unique<HostUnderTest>(gang.site, "h2");
  const wire::GuestImage second = gang.copied(13, gang.disk);
  const auto read = gang.h2->get(second.disk(), {});
  REQUIRE_MESSAGE(read.has_value(), read.error());
  CHECK(*read == gang.disk);
}

TEST_CASE("the next partner is asked when one does not take it; none: each is named") {
  Gang gang;
  wire::StorePeer away;
  away.set_host("h9");
  away.set_endpoint("127.0.0.1:1");
  wire::GuestImage image = gang.take(12, gang.disk);
  const Status nobody = gang.h1->store().replicate(image, Gang::host_loss({away}), {});
  REQUIRE_FALSE(nobody.has_value());
  CHECK(nobody.error().cause.find("h9: ") != std::string::npos);
  CHECK(image.disk().copies_size() == 0);
  const Status done = gang.h1->store().replicate(image, Gang::host_loss({away, gang.h3->peer()}), {});
  REQUIRE_MESSAGE(done.has_value(), done.error());
  CHECK(image.disk().copies(0) == "h3");
  // Another host that answers at h2's address is not h2.
  wire::StorePeer impostor = gang.h3->peer();
  impostor.set_host("h2");
  wire::GuestImage again = gang.take(13, gang.disk);
  CHECK_FALSE(gang.h1->store().replicate(again, Gang::host_loss({impostor}), {}).has_value());
}

TEST_CASE("deleting everywhere frees the copies") {
  Gang gang;
  gang.copied(12, gang.disk);
  REQUIRE(gang.h2->files_of("h1") > 2);
  REQUIRE(gang.h2->store().remove({"j7"}, {{12}}, ImageStore::Reach::all_hosts, {}).has_value());
  CHECK(gang.h2->files_of("h1") == 0);
  // A partner that lost it gets it whole again.
  const wire::GuestImage image = gang.copied(12, gang.disk);
  const auto read = gang.h2->get(image.disk(), {});
  REQUIRE_MESSAGE(read.has_value(), read.error());
  CHECK(*read == gang.disk);
}

// What somebody who holds a certificate of the site may ask.
class Asker {
 public:
  Asker(const HostUnderTest& as, const HostUnderTest& of) : client_(settings(as, of)), url_("https://h2:1") {}
  long status(HttpMethod method, const std::string& path, const ReadableFile* body = nullptr,
              std::vector<std::string> headers = {}) {
    HttpRequest request;
    request.method = method;
    request.url = url_ + path;
    request.body = body;
    request.body_range = {0, body != nullptr ? body->size() : 0};
    request.headers = std::move(headers);
    auto response = client_.run(request);
    REQUIRE_MESSAGE(response.has_value(), response.error());
    return response->status;
  }

 private:
  static HttpSettings settings(const HostUnderTest& as, const HostUnderTest& of) {
    HttpSettings settings;
    settings.identity = as.identity();
    settings.connect_to = of.peer().endpoint();
    return settings;
  }
  HttpClient client_;
  const std::string url_;
};

TEST_CASE("only the owner puts, only whole things are taken, and nothing leads out of the stores") {
  Gang gang;
  const wire::GuestImage image = gang.copied(12, gang.disk);
  const fs::path rubbish_path = gang.site.place.path / "rubbish";
  std::ofstream(rubbish_path) << std::string(100'000, 'x');
  const auto rubbish = system_files().open(rubbish_path);
  REQUIRE(rubbish.has_value());
  const std::string pack = "/packs/0123456789abcdef0123456789abcdef.pack";
  const std::size_t before = gang.h2->files_of("h1");
  Asker owner(*gang.h1, *gang.h2), stranger(*gang.h3, *gang.h2);
  CHECK(stranger.status(HttpMethod::put, "/h1" + pack, rubbish->get()) == 403);
  CHECK(stranger.status(HttpMethod::put, "/h2" + pack, rubbish->get()) == 403);
  CHECK(owner.status(HttpMethod::put, "/h1" + pack, rubbish->get()) == 409);
  CHECK(owner.status(HttpMethod::put, "/h1/images/j7/e13/guest-0.ram", rubbish->get()) == 409);
  CHECK(owner.status(HttpMethod::put, "/h1/packs/evil.pack", rubbish->get()) == 403);
  // An image before its packs: a whole list of pages that are not here.
  Asker third(*gang.h3, *gang.h2);
  gang.h3->put({{"j7"}, {1}, {0}, ImageName::Part::disk}, gang.disk);
  const auto list = system_files().open(gang.site.place.path / "h3/images/hosts/h3/images/j7/e1/guest-0.disk");
  REQUIRE(list.has_value());
  CHECK(third.status(HttpMethod::put, "/h3/images/j7/e1/guest-0.disk", list->get()) == 409);
  CHECK(gang.h2->files_of("h1") == before);
  CHECK(gang.h2->files_of("h3") == 0);

  CHECK(owner.status(HttpMethod::get, "/h1/images/j7/e12/guest-0.ram") == 200);
  CHECK(owner.status(HttpMethod::head, "/h1/images/j7/e99/guest-0.ram") == 404);
  CHECK(owner.status(HttpMethod::get, "/h1/packs/") == 200);
  CHECK(owner.status(HttpMethod::get, "/h1/images/j7/e12/guest-0.ram", nullptr, {"Range: bytes=5-4"}) == 416);
  for (const char* path : {"/", "/h1/", "/h1/lock", "/h1/packs", "/.%2e/packs/", "/h1/packs/..%2f..%2fid",
                           "/h1/images/a/b/c/", "/h1//packs/", "/key-ids"})
    CHECK_MESSAGE(owner.status(HttpMethod::get, path) == 400, path);
  CHECK(owner.status(HttpMethod::remove, "/h1/images/j7/e12/guest-0.ram") == 405);
  CHECK(owner.status(HttpMethod::post, "/h1/packs/") == 405);
}

TEST_CASE("who has no certificate of the site is not let in") {
  Gang gang;
  Site other;
  HostUnderTest stranger(other, "h1");
  HttpSettings settings;
  settings.identity = stranger.identity();
  settings.identity->ca = gang.h1->identity().ca;
  settings.connect_to = gang.h2->peer().endpoint();
  HttpClient client(settings);
  HttpRequest request;
  request.url = "https://h2:1/h1/packs/";
  CHECK_FALSE(client.run(request).has_value());
}

TEST_CASE("names and ranges of requests") {
  CHECK(parse_peer_target("/h1/packs/")->is_directory);
  CHECK(parse_peer_target("/h1/images/j7/e12/guest-0.ram")->name == "images/j7/e12/guest-0.ram");
  CHECK(parse_peer_target("/h1/bad-blocks")->name == "bad-blocks");
  for (const char* bad : {"", "h1/packs/", "/h1/images/j7/e12", "/h1/images/j7/e12/guest-0.ram/", "/h1/../packs/",
                          "/h1/bad-blocks/", "/h1/bad-blocks/x", "/h1/records/j7/e12"})
    CHECK_MESSAGE(!parse_peer_target(bad), bad);
  const auto range = parse_byte_range("bytes=10-19", 20);
  REQUIRE(range.has_value());
  CHECK(range->begin == 10);
  CHECK(range->end == 20);
  for (const char* bad :
       {"bytes=10-20", "bytes=-5", "bytes=5-", "bytes=1-2,4-5", "pages=1-2", "bytes=18446744073709551616-1"})
    CHECK_MESSAGE(!parse_byte_range(bad, 20), bad);
}

}  // namespace
}  // namespace stillpoint::node
