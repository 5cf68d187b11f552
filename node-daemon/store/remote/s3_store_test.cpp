// The S3 store against a real server that is killed, stalled and filled up.
#include "node-daemon/store/remote/s3_store.h"

#include <doctest/doctest.h>

#include <atomic>
#include <thread>

#include "node-daemon/store/remote/blob_store_checks.h"
#include "node-daemon/store/remote/s3_test_server.h"
#include "node-daemon/store/store_test_data.h"

namespace stillpoint::node::test {
namespace {

constexpr std::size_t kThreeParts = (12u << 20) + 1;

// One for all tests: it takes a second to start.
S3TestServer& server() {
  static S3TestServer one;
  return one;
}

std::unique_ptr<S3Store> store_with(const S3Settings& settings) {
  auto made = S3Store::make(settings);
  REQUIRE(made);
  return std::move(*made);
}

bool says(const Error& error, std::string_view words) {
  INFO(error.message());
  return error.message().find(words) != std::string::npos;
}

TEST_CASE("S3 does what every blob store does") {
  auto store = store_with(server().settings());
  REQUIRE(store->check());
  check_blob_store(*store);
}

TEST_CASE("S3: a chunk store is read out of a bucket") { check_chunk_store_in(store_with(server().settings()), 1); }

TEST_CASE("S3: a large file goes in parts, and comes back whole and in ranges") {
  auto store = store_with(server().settings());
  const MemoryBlob content(flat_bytes(1, kThreeParts));
  REQUIRE(store->put("h1/packs/large", content, {}));
  auto file = store->open("h1/packs/large");
  REQUIRE(file.has_value());
  CHECK((*file)->size() == kThreeParts);
  CHECK((*file)->read(0, kThreeParts).value() == content.bytes());
  CHECK((*file)->read((5u << 20) - 7, 1000).value() == content.bytes().substr((5u << 20) - 7, 1000));
  CHECK((*file)->read(kThreeParts - 1, 1).value() == content.bytes().substr(kThreeParts - 1));
  CHECK(store->end_unfinished("").value() == 0);

  // Opened files outlive the store, and do not mix an old content with a new one.
  REQUIRE(store->put("h1/packs/large", MemoryBlob(std::string(kThreeParts, 'n')), {}));
  store.reset();
  CHECK((*file)->read(0, 10).error().kind == ErrorKind::not_found);
}

TEST_CASE("S3: a listing of several answers") {
  auto store = store_with(server().settings());
  std::vector<std::string> expected;
  for (unsigned i = 0; i < 2 * S3TestServer::kPageOfList + 3; ++i) {
    expected.push_back("p" + std::to_string(1000 + i));
    REQUIRE(store->put("packs/" + expected.back() + (i % 3 == 0 ? "/below" : ""), MemoryBlob("x"), {}));
  }
  CHECK(store->list("packs").value() == expected);
}

TEST_CASE("S3: the bucket as part of the host's name") {
  S3Settings settings = server().settings();
  settings.endpoint = "http://localhost:18080";
  settings.path_style = false;
  auto store = store_with(settings);
  CHECK(store->check());
}

TEST_CASE("S3: wrong credentials, a missing bucket and a missing server are said in words") {
  const S3Settings good = server().settings();
  const auto check = [](const S3Settings& settings) {
    auto checked = store_with(settings)->check();
    REQUIRE_FALSE(checked);
    return checked.error();
  };
  for (const auto& [name, secret] : {std::pair("tester:tester", "wrong"), std::pair("nobody:nobody", "testing")}) {
    S3Settings settings = good;
    settings.credentials = S3TestServer::credentials(name, secret);
    const Error error = check(settings);
    CHECK(error.kind == ErrorKind::refused);
    CHECK(says(error, settings.credentials.string()));
    CHECK(says(error, "wrong"));
    CHECK_FALSE(says(error, "attempts"));
    auto opened = store_with(settings)->open("h1/x");
    REQUIRE(!opened.has_value());
    CHECK(opened.error().kind == ErrorKind::refused);  // and not: there is no such object
  }

  S3Settings no_bucket = good;
  no_bucket.bucket = "no-such-bucket";
  const Error missing = check(no_bucket);
  CHECK(missing.kind == ErrorKind::refused);
  CHECK(says(missing, "create it"));
  CHECK(store_with(no_bucket)->open("h1/x").error().kind == ErrorKind::refused);
  CHECK(store_with(no_bucket)->list("h1").error().kind == ErrorKind::refused);

  S3Settings nobody = good;
  nobody.endpoint = "http://127.0.0.1:1";
  const Error away = check(nobody);
  CHECK(away.kind == ErrorKind::transient);
  CHECK(says(away, "127.0.0.1"));
  CHECK(says(away, "4 attempts"));
}

// Calls something once, at the n-th read from there on. A part of 5 MiB is read in 5 pieces for its hash, and then as
// it is sent.
constexpr unsigned kBeforeSent = 6, kPartlySent = 8;
class ReadHook {
 public:
  ReadHook(std::uint64_t offset, unsigned n, std::function<void()> call)
      : offset_(offset), n_(n), call_(std::move(call)) {}
  Status operator()(std::uint64_t offset) {
    if (offset >= offset_ && ++reads_ == n_) call_();
    return {};
  }

 private:
  const std::uint64_t offset_;
  const unsigned n_;
  const std::function<void()> call_;
  unsigned reads_ = 0;
};

TEST_CASE("S3: a server that is killed in the middle of an upload and comes back: the upload goes on") {
  S3Settings settings = server().settings();
  settings.retries = {30, std::chrono::milliseconds(100), std::chrono::milliseconds(1000)};
  auto store = store_with(settings);
  REQUIRE(store->put("h1/packs/large", MemoryBlob("before"), {}));
  bool killed = false;
  const WatchedBlob content(flat_bytes(2, kThreeParts), ReadHook(5u << 20, kPartlySent, [&] {
                              killed = true;
                              server().kill();
                              server().start();
                            }));
  const auto put = store->put("h1/packs/large", content, {});
  INFO((put ? "" : put.error().message()));
  REQUIRE(put);
  CHECK(killed);
  CHECK(read_all(*store, "h1/packs/large").value() == content.bytes());
  CHECK(store->list("h1/packs").value() == std::vector<std::string>{"large"});
}

TEST_CASE("S3: a server that is killed in the middle of an upload and stays away: nothing of it is ever visible") {
  auto store = store_with(server().settings());
  REQUIRE(store->put("h1/packs/old", MemoryBlob("before"), {}));
  for (const char* name : {"h1/packs/old", "h1/packs/new"}) {
    const WatchedBlob content(flat_bytes(2, kThreeParts), ReadHook(5u << 20, kPartlySent, [&] { server().kill(); }));
    const auto put = store->put(name, content, {});
    REQUIRE_FALSE(put);
    CHECK(put.error().kind == ErrorKind::transient);
    CHECK(says(put.error(), "4 attempts"));
    server().start();
  }
  CHECK(read_all(*store, "h1/packs/old").value() == "before");
  CHECK(store->open("h1/packs/new").error().kind == ErrorKind::not_found);
  CHECK(store->list("h1/packs").value() == std::vector<std::string>{"old"});
  // What takes room there and shows nowhere goes at the next start. Others' uploads are left alone.
  CHECK(store->end_unfinished("h2").value() == 0);
  CHECK(store->end_unfinished("h1").value() == 2);
  CHECK(store->end_unfinished("").value() == 0);
}

TEST_CASE("S3: a server that says nothing any more is given up after the stall timeout, and used again when it does") {
  S3Settings settings = server().settings();
  settings.stall_timeout = std::chrono::seconds(1);
  settings.retries.attempts = 1;
  auto store = store_with(settings);
  const WatchedBlob content(flat_bytes(2, 5u << 20), ReadHook(0, kBeforeSent, [&] { server().stall(); }));
  const auto put = store->put("h1/packs/a", content, {});
  const auto read = read_all(*store, "h1/packs/a");
  server().go_on();
  REQUIRE_FALSE(put);
  CHECK(put.error().kind == ErrorKind::transient);
  CHECK(says(put.error(), "for 1 s"));
  REQUIRE(!read.has_value());
  CHECK(read.error().kind == ErrorKind::transient);
  settings.stall_timeout = std::chrono::seconds(30);
  CHECK(store_with(settings)->check());
}

TEST_CASE("S3: a full server says so, keeps nothing of what did not fit, and works again when there is room") {
  auto store = store_with(server().settings());
  server().fill_disk();
  const MemoryBlob content(flat_bytes(3, kThreeParts));
  const auto put = store->put("h1/packs/a", content, {});
  server().clear_disk();
  REQUIRE_FALSE(put);
  CHECK((put.error().kind == ErrorKind::storage_full || put.error().kind == ErrorKind::transient));
  CHECK(says(put.error(), "the server says"));
  CHECK(says(put.error(), "full"));
  CHECK(says(put.error(), "4 attempts"));
  CHECK(store->list("").value().empty());
  REQUIRE(store->put("h1/packs/a", content, {}));
  CHECK(read_all(*store, "h1/packs/a").value() == content.bytes());
  CHECK(store->end_unfinished("").value() == 0);
}

TEST_CASE("S3: stop ends an upload that would take minutes, and leaves nothing of it") {
  S3Settings settings = server().settings();
  settings.caps = std::make_shared<UploadCaps>(UploadLimits{64u << 10, 0});
  auto store = store_with(settings);
  std::stop_source stop;
  const WatchedBlob content(flat_bytes(4, kThreeParts), ReadHook(0, kBeforeSent, [&] { stop.request_stop(); }));
  const auto put = store->put("h1/packs/a", content, stop.get_token());
  REQUIRE_FALSE(put);
  CHECK(put.error().kind == ErrorKind::refused);
  CHECK(store->list("").value().empty());
  CHECK(store->end_unfinished("").value() == 0);
}

TEST_CASE("S3: the rate is kept by all stores of a daemon together") {
  S3Settings settings = server().settings();
  settings.caps = std::make_shared<UploadCaps>(UploadLimits{1u << 20, 0});
  const auto begin = std::chrono::steady_clock::now();
  {
    std::vector<std::jthread> stores;
    for (const char* name : {"h1/packs/a", "h1/packs/b"})
      stores.emplace_back(
          [&settings, name] { CHECK(store_with(settings)->put(name, MemoryBlob(flat_bytes(4, 1u << 20)), {})); });
  }
  // A tenth of a second's worth was saved up before.
  CHECK(std::chrono::steady_clock::now() - begin > std::chrono::milliseconds(1800));
}

TEST_CASE("S3: many threads with one store") {
  auto store = store_with(server().settings());
  std::atomic<int> good = 0;
  {
    std::vector<std::jthread> threads;
    for (unsigned t = 0; t < 4; ++t)
      threads.emplace_back([&, t] {
        const MemoryBlob content(flat_bytes(t, (5u << 20) + t + 1));
        const std::string name = "h" + std::to_string(t) + "/large";
        if (!store->put(name, content, {})) return;
        if (auto back = read_all(*store, name); back && *back == content.bytes()) ++good;
      });
  }
  CHECK(good == 4);
}

}  // namespace
}  // namespace stillpoint::node::test
