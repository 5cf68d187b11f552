// Blob stores and what they are built on, without a server of S3's.
#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <atomic>
#include <fstream>
#include <thread>

#include "common/fd.h"
#include "common/file.h"
#include "common/net/test_certificates.h"
#include "node-daemon/store/memory_files.h"
#include "node-daemon/store/remote/backoff.h"
#include "node-daemon/store/remote/blob_store_checks.h"
#include "node-daemon/store/remote/http_client.h"
#include "node-daemon/store/remote/local_blobs.h"
#include "node-daemon/store/remote/remote_files.h"
#include "node-daemon/store/remote/s3_answers.h"
#include "node-daemon/store/remote/s3_credentials.h"
#include "node-daemon/store/remote/s3_store.h"
#include "node-daemon/store/remote/test_process.h"
#include "node-daemon/store/store_test_data.h"

namespace stillpoint::node::test {
namespace {

namespace fs = std::filesystem;

struct TemporaryDirectory {
  fs::path path;
  TemporaryDirectory() {
    std::string name = (fs::temp_directory_path() / "stillpoint-blobs-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
};

TEST_CASE("local blobs do what every blob store does") {
  const TemporaryDirectory directory;
  auto blobs = LocalBlobs::make(system_files(), directory.path / "partner", "host h3");
  REQUIRE(blobs.has_value());
  CHECK((*blobs)->where() == "host h3");
  check_blob_store(**blobs);
  CHECK(fs::is_empty(directory.path / "partner" / ".incoming"));
}

TEST_CASE("a chunk store is read out of local blobs") {
  const TemporaryDirectory directory;
  auto blobs = LocalBlobs::make(system_files(), directory.path / "partner", "host h3");
  REQUIRE(blobs.has_value());
  check_chunk_store_in(std::move(*blobs), 4);
}

TEST_CASE("local blobs: a crash at any step leaves the old blob or the new one, and nothing else") {
  const std::string before(5000, 'b'), after(3u << 20, 'a');
  for (const bool lose : {true, false}) {
    bool reached_end = false;
    for (std::uint64_t step = 0; !reached_end; ++step) {
      CAPTURE(step);
      MemoryFiles files;
      REQUIRE(files.make_directory("/d"));
      bool done = false;
      {
        auto blobs = LocalBlobs::make(files, "/d/partner", "host h3");
        REQUIRE(blobs.has_value());
        REQUIRE((*blobs)->put("h1/packs/a", MemoryBlob(before), {}));
        files.die_after(step);
        done = (*blobs)->put("h1/packs/a", MemoryBlob(after), {}).has_value();
        reached_end = !files.dead();
      }
      files.reboot(lose);
      auto blobs = LocalBlobs::make(files, "/d/partner", "host h3");
      REQUIRE(blobs.has_value());
      const std::string found = read_all(**blobs, "h1/packs/a").value();
      CHECK((found == after || (!done && found == before)));
      CHECK(files.names().size() == 1);
    }
  }
}

TEST_CASE("local blobs: a full disk is said, and leaves nothing") {
  MemoryFiles files;
  REQUIRE(files.make_directory("/d"));
  auto blobs = LocalBlobs::make(files, "/d/partner", "host h3");
  REQUIRE(blobs.has_value());
  files.limit(2u << 20);
  CHECK((*blobs)->put("h1/a", MemoryBlob(std::string(3u << 20, 'x')), {}).error().kind == ErrorKind::storage_full);
  CHECK(files.names().empty());
}

TEST_CASE("local blobs: stop ends a put") {
  const TemporaryDirectory directory;
  auto blobs = LocalBlobs::make(system_files(), directory.path / "partner", "host h3");
  REQUIRE(blobs.has_value());
  std::stop_source stop;
  const WatchedBlob content(std::string(8u << 20, 'x'), [&](std::uint64_t offset) -> Status {
    CHECK(offset <= 4u << 20);
    if (offset == 4u << 20) stop.request_stop();
    return {};
  });
  CHECK((*blobs)->put("h1/a", content, stop.get_token()).error().kind == ErrorKind::refused);
  CHECK((*blobs)->list("").value().empty());
}

// Counts what is asked of the other side.
class CountedBlobs final : public BlobStore {
 public:
  explicit CountedBlobs(std::string bytes) : bytes_(std::move(bytes)) {}
  const std::string& where() const override { return where_; }
  Status put(const std::string&, const ReadableFile&, std::stop_token) override { return {}; }
  Result<std::vector<std::string>> list(const std::string&) override { return std::vector<std::string>(); }
  Status remove(const std::string&) override { return {}; }
  Result<std::shared_ptr<const ReadableFile>> open(const std::string&) override {
    return std::make_shared<WatchedBlob>(bytes_, [this](std::uint64_t) -> Status {
      ++reads;
      return {};
    });
  }
  mutable std::atomic<unsigned> reads = 0;

 private:
  const std::string where_ = "a test", bytes_;
};

TEST_CASE("remote files: blocks read in order are fetched in large pieces") {
  const std::string bytes = flat_bytes(3, 16u << 20);
  const auto blobs = std::make_shared<CountedBlobs>(bytes);
  RemoteFiles files(blobs);
  auto file = files.open("packs/a");
  REQUIRE(file.has_value());
  for (std::size_t at = 0; at < bytes.size(); at += 80'000) {
    const std::size_t count = std::min<std::size_t>(80'000, bytes.size() - at);
    REQUIRE((*file)->read(at, count).value() == std::string_view(bytes).substr(at, count));
  }
  CHECK(blobs->reads < 12);
  CHECK((*file)->read(bytes.size() - 1, 2).error().kind == ErrorKind::damaged);

  // Nothing was asked twice of places far apart.
  const auto others = std::make_shared<CountedBlobs>(bytes);
  RemoteFiles scattered(others);
  auto again = scattered.open("packs/a");
  REQUIRE(again.has_value());
  for (const std::size_t at : {0u, 8u << 20, 15u << 20, 0u, 8u << 20, 15u << 20})
    REQUIRE((*again)->read(at, 40).value() == std::string_view(bytes).substr(at, 40));
  CHECK(others->reads == 3);
}

TEST_CASE("remote files: readers of one file side by side do not make each other fetch again; memory has a bound") {
  const std::string bytes = flat_bytes(3, 8u << 20);
  const auto blobs = std::make_shared<CountedBlobs>(bytes);
  ReadAheadSettings settings;
  settings.most = 256u << 10;
  const auto memory = std::make_shared<MemoryPool>(2u << 20);
  RemoteFiles files(blobs, memory, settings);
  auto file = files.open("packs/a");
  REQUIRE(file.has_value());
  for (std::size_t at = 0; at + 64'000 < bytes.size() / 2; at += 64'000)
    for (const std::size_t from : {at, at + bytes.size() / 2})
      REQUIRE((*file)->read(from, 64'000).value() == std::string_view(bytes).substr(from, 64'000));
  CHECK(blobs->reads < 40);  // 32 pieces of 256 KiB, and the first ones
  CHECK(memory->used() <= 2u << 20);
  // The beginning is forgotten since, and asked for again.
  const unsigned before = blobs->reads;
  CHECK((*file)->read(0, 10).value() == bytes.substr(0, 10));
  CHECK(blobs->reads == before + 1);
}

TEST_CASE("remote files: nothing is written through them") {
  RemoteFiles files(std::make_shared<CountedBlobs>("x"));
  CHECK(files.create("a").error().kind == ErrorKind::refused);
  CHECK(files.rename("a", "b").error().kind == ErrorKind::refused);
}

TEST_CASE("backoff: so many attempts, none after stop") {
  Backoff pauses({3, std::chrono::milliseconds(1), std::chrono::milliseconds(2)});
  CHECK(pauses.wait({}));
  CHECK(pauses.wait({}));
  CHECK_FALSE(pauses.wait({}));
  CHECK(pauses.attempts() == 3);
  // A pause of hours ends with stop.
  std::stop_source stop;
  Backoff long_pauses({3, std::chrono::hours(5), std::chrono::hours(5)});
  std::jthread stopper([&] { stop.request_stop(); });
  CHECK_FALSE(long_pauses.wait(stop.get_token()));
}

TEST_CASE("credentials: AWS's form, one section, 0600") {
  const auto good =
      parse_s3_credentials("# ours\n[default]\naws_access_key_id = me\r\n\naws_secret_access_key=a=b/c+ \n");
  REQUIRE(good.has_value());
  CHECK(good->access_key == "me");
  CHECK(good->secret_key == "a=b/c+");
  for (const char* bad :
       {"", "aws_access_key_id = me\n", "aws_secret_access_key = x\n", "me:secret\n", "aws_access_key_id =\n",
        "aws_access_key_id = a\naws_access_key_id = b\naws_secret_access_key = c\n",
        "[backup]\naws_access_key_id = a\n", "aws_access_key_id = a\n[default]\naws_secret_access_key = c\n",
        "aws_session_token = t\n"}) {
    CAPTURE(bad);
    const auto parsed = parse_s3_credentials(bad);
    REQUIRE(!parsed.has_value());
    CHECK(parsed.error().kind == ErrorKind::refused);
    CHECK(parsed.error().cause.find("secret\n") == std::string::npos);
  }

  const TemporaryDirectory directory;
  const fs::path file = directory.path / "s3.credentials";
  const std::string text = "aws_access_key_id = me\naws_secret_access_key = hush\n";
  CHECK(load_s3_credentials(file).error().kind == ErrorKind::not_found);
  REQUIRE(publish_file(file, text, 0640));
  const auto open_to_others = load_s3_credentials(file);
  REQUIRE(!open_to_others.has_value());
  CHECK(open_to_others.error().message().find("0600") != std::string::npos);
  REQUIRE(publish_file(file, text, 0600));
  CHECK(load_s3_credentials(file).value().secret_key == "hush");
}

TEST_CASE("S3: settings that cannot be are refused") {
  const TemporaryDirectory directory;
  S3Settings good;
  good.endpoint = "https://s3.example.org:9000/";
  good.bucket = "checkpoints";
  good.prefix = "backup/site-a";
  good.credentials = directory.path / "s3.credentials";
  REQUIRE(publish_file(good.credentials, "aws_access_key_id = me\naws_secret_access_key = hush\n", 0600));
  auto store = S3Store::make(good);
  REQUIRE(store.has_value());
  CHECK((*store)->where() == "s3://checkpoints/backup/site-a");

  const auto refused = [&](auto change) {
    S3Settings bad = good;
    change(bad);
    auto made = S3Store::make(bad);
    return !made && made.error().kind == ErrorKind::refused;
  };
  for (const char* endpoint : {"", "s3.example.org", "ftp://s3.example.org", "https://", "https://a/b", "https://a?b",
                               "https://me:hush@s3.example.org"})
    CHECK(refused([&](S3Settings& bad) { bad.endpoint = endpoint; }));
  for (const char* bucket : {"", "ab", "a/b", "a b", "a?b"})
    CHECK(refused([&](S3Settings& bad) { bad.bucket = bucket; }));
  for (const char* prefix : {"/", "/a", "a/", "a//b", "..", "a b"})
    CHECK(refused([&](S3Settings& bad) { bad.prefix = prefix; }));
  CHECK(refused([](S3Settings& bad) { bad.region = "us:east"; }));
  CHECK(refused([](S3Settings& bad) { bad.part_bytes = 1u << 20; }));
}

TEST_CASE("S3: what is no answer is damaged, never taken for an empty one") {
  for (const char* xml : {"", "<", "<html/>", "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
                          "<ListMultipartUploadsResult><IsTruncated>true</IsTruncated></ListMultipartUploadsResult>",
                          "<InitiateMultipartUploadResult/>", "<ListBucketResult>"}) {
    CAPTURE(xml);
    CHECK(parse_s3_listing(xml).has_error());
    CHECK(parse_s3_uploads(xml).has_error());
    CHECK(parse_s3_upload_id(xml).has_error());
  }
  CHECK_FALSE(parse_s3_failure("<html>502</html>").has_value());
  const auto failure = parse_s3_failure("<Error><Code>SlowDown</Code><Message>a &amp; b</Message></Error>");
  REQUIRE(failure.has_value());
  CHECK(failure->code == "SlowDown");
  CHECK(failure->message == "a & b");
  CHECK(s3_completion({"\"a<b\""}) ==
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>\"a&lt;b\"</ETag></Part>"
        "</CompleteMultipartUpload>");
}

// A web server with a certificate of the site for "h3", which serves the directory that it runs in and takes nobody
// without a certificate of the site.
struct TlsServer {
  net::TestSite site;
  TemporaryDirectory directory;
  std::optional<TestProcess> process;
  std::string address;

  TlsServer() {
    std::ofstream(directory.path / "hello") << "hello";
    const fs::path own = site.identity("h3");
    // "ACCEPT 127.0.0.1:PORT" comes first.
    process.emplace(std::vector<std::string>{"env", "--chdir=" + directory.path.string(), "openssl", "s_server", "-WWW",
                                             "-accept", "127.0.0.1:0", "-tls1_3", "-Verify", "2",
                                             "-verify_return_error", "-cert", own / "cert.pem", "-key", own / "key.pem",
                                             "-CAfile", own / "ca.pem"});
    for (std::string line; !line.starts_with("ACCEPT ");)
      line = process->line(std::chrono::seconds(20)), address = line;
    address.erase(0, std::string_view("ACCEPT ").size());
  }
  HttpSettings settings(const fs::path& identity) const {
    HttpSettings settings;
    settings.identity = SiteIdentity{identity / "ca.pem", identity / "cert.pem", identity / "key.pem"};
    settings.connect_to = address;
    return settings;
  }
};

Result<HttpResponse> get(const HttpSettings& settings, const std::string& url) {
  HttpRequest request;
  request.url = url;
  return HttpClient(settings).run(request);
}

TEST_CASE("HTTP: mutual TLS, the other side by its certificate's name, whatever its address") {
  TlsServer server;
  const HttpSettings settings = server.settings(server.site.identity("h1"));
  const auto got = get(settings, "https://h3/hello");
  INFO((got ? "" : got.error().message()));
  REQUIRE(got.has_value());
  CHECK(got->body.find("hello") != std::string::npos);

  // Another name than the certificate's.
  const auto other_name = get(settings, "https://h2/hello");
  REQUIRE(!other_name.has_value());
  CHECK(other_name.error().kind == ErrorKind::refused);
  CHECK(other_name.error().message().find("not who it should be") != std::string::npos);

  // A CA of another site.
  net::TestSite stranger;
  HttpSettings other_ca = settings;
  other_ca.identity->ca = stranger.identity("h1") / "ca.pem";
  CHECK(get(other_ca, "https://h3/hello").error().kind == ErrorKind::refused);

  // We are of another site: the server hangs up.
  HttpSettings of_stranger = server.settings(stranger.identity("h1"));
  of_stranger.identity->ca = settings.identity->ca;
  CHECK_FALSE(get(of_stranger, "https://h3/hello").has_value());

  // A key that is not there.
  HttpSettings no_key = settings;
  no_key.identity->key = "/nowhere/key.pem";
  CHECK(get(no_key, "https://h3/hello").error().kind == ErrorKind::refused);
}

TEST_CASE("HTTP: nobody there is transient, a bad URL is not; an answer over the limit is damaged") {
  TlsServer server;
  HttpSettings settings = server.settings(server.site.identity("h1"));
  HttpRequest request;
  request.url = "https://h3/hello";
  request.body_limit = 2;
  CHECK(HttpClient(settings).run(request).error().kind == ErrorKind::damaged);
  CHECK(get(settings, "gopher://h3/hello").error().kind == ErrorKind::permanent);
  server.process.reset();
  const auto nobody = get(settings, "https://h3/hello?secret=1");
  REQUIRE(!nobody.has_value());
  CHECK(nobody.error().kind == ErrorKind::transient);
  CHECK(nobody.error().message().find("secret") == std::string::npos);
}

// Promises a long answer and gives ten bytes of it a second, until the other side has had enough.
class SlowServer {
 public:
  SlowServer() : listening_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof at;
    REQUIRE(::bind(listening_.get(), reinterpret_cast<sockaddr*>(&at), size) == 0);
    REQUIRE(::listen(listening_.get(), 1) == 0);
    REQUIRE(::getsockname(listening_.get(), reinterpret_cast<sockaddr*>(&at), &size) == 0);
    url = "http://127.0.0.1:" + std::to_string(ntohs(at.sin_port)) + "/";
    thread_ = std::thread([this] { run(); });
  }
  ~SlowServer() {
    ::shutdown(listening_.get(), SHUT_RDWR);
    thread_.join();
  }
  SlowServer(const SlowServer&) = delete;
  SlowServer& operator=(const SlowServer&) = delete;
  std::string url;

 private:
  static constexpr int kAnswer = 300;  // bytes
  void run() {
    const Fd one(::accept(listening_.get(), nullptr, nullptr));
    char request[4096];
    if (!one || ::recv(one.get(), request, sizeof request, 0) <= 0) return;
    const std::string head = "HTTP/1.1 200 OK\r\nContent-Length: " + std::to_string(kAnswer) + "\r\n\r\n";
    bool there = ::send(one.get(), head.data(), head.size(), MSG_NOSIGNAL) > 0;
    for (int sent = 0; there && sent < kAnswer; ++sent) {
      pollfd hung_up{one.get(), POLLIN, 0};
      there = ::poll(&hung_up, 1, 100) == 0 && ::send(one.get(), "x", 1, MSG_NOSIGNAL) == 1;
    }
  }
  const Fd listening_;
  std::thread thread_;
};

TEST_CASE("HTTP: a server that gives some bytes a second is given up, caps on what is sent or not") {
  SlowServer slow;
  HttpSettings settings;
  settings.stall_timeout = std::chrono::seconds(1);
  settings.caps = std::make_shared<UploadCaps>(UploadLimits{64u << 10, 0});
  const auto got = get(settings, slow.url);
  REQUIRE(!got.has_value());
  CHECK_MESSAGE(got.error().kind == ErrorKind::transient, got.error());
  CHECK(got.error().message().find("under 1024 bytes/s for 1 s") != std::string::npos);
}

}  // namespace
}  // namespace stillpoint::node::test
