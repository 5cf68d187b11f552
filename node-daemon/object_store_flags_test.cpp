#include "node-daemon/object_store_flags.h"

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <stdlib.h>
#include <sys/socket.h>

#include <cstdio>
#include <thread>

#include "common/fd.h"
#include "common/file.h"

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;

struct Place {
  fs::path path;
  Place() {
    char name[] = "/tmp/stillpoint-s3-flags-XXXXXX";
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

// Gives every request the same answer.
class Server {
 public:
  explicit Server(std::string answer) : answer_(std::move(answer)), listening_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof at;
    REQUIRE(::bind(listening_.get(), reinterpret_cast<sockaddr*>(&at), size) == 0);
    REQUIRE(::listen(listening_.get(), 8) == 0);
    REQUIRE(::getsockname(listening_.get(), reinterpret_cast<sockaddr*>(&at), &size) == 0);
    endpoint = "http://127.0.0.1:" + std::to_string(ntohs(at.sin_port));
    thread_ = std::thread([this] { run(); });
  }
  ~Server() {
    ::shutdown(listening_.get(), SHUT_RDWR);
    thread_.join();
  }
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;
  std::string endpoint;

 private:
  void run() {
    for (;;) {
      const Fd one(::accept(listening_.get(), nullptr, nullptr));
      if (!one) return;
      char request[4096];
      if (::recv(one.get(), request, sizeof request, 0) <= 0) continue;
      (void)::send(one.get(), answer_.data(), answer_.size(), MSG_NOSIGNAL);
      ::shutdown(one.get(), SHUT_WR);
      while (::recv(one.get(), request, sizeof request, 0) > 0) {}
    }
  }
  const std::string answer_;
  const Fd listening_;
  std::thread thread_;
};

ObjectStoreFlags flags_for(const Place& place, const std::string& endpoint) {
  ObjectStoreFlags flags;
  flags.s3.endpoint = endpoint;
  flags.s3.bucket = "checkpoints";
  REQUIRE(publish_file(place.path / "s3.credentials", "aws_access_key_id = me\naws_secret_access_key = hush\n", 0600));
  return flags;
}

std::string refusal(const std::string& code) {
  const std::string body = "<?xml version=\"1.0\"?><Error><Code>" + code + "</Code><Message>no</Message></Error>";
  return "HTTP/1.1 403 Forbidden\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: " +
         std::to_string(body.size()) + "\r\n\r\n" + body;
}

TEST_CASE("an S3 store that refuses the credentials does not keep the daemon from starting: it is known, not used") {
  const Place place;
  for (const char* code : {"InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "NoSuchBucket"}) {
    CAPTURE(code);
    Server server(refusal(code));
    const auto opened = open_object_store(flags_for(place, server.endpoint), place.path, {"h1"}, nullptr);
    REQUIRE_MESSAGE(opened.has_value(), opened.error());
    CHECK(opened->store != nullptr);
    CHECK_FALSE(opened->usable);
  }
}

TEST_CASE("an S3 store that does not answer is used when it does; where none is named there is none") {
  const Place place;
  const auto away = open_object_store(flags_for(place, "http://127.0.0.1:1"), place.path, {"h1"}, nullptr);
  REQUIRE_MESSAGE(away.has_value(), away.error());
  CHECK(away->store != nullptr);
  CHECK(away->usable);
  const auto none = open_object_store({}, place.path, {"h1"}, nullptr);
  REQUIRE(none.has_value());
  CHECK(none->store == nullptr);
  CHECK_FALSE(none->usable);
}

TEST_CASE("flags and files of credentials that cannot be are errors") {
  const Place place;
  const auto refused = [&](const ObjectStoreFlags& flags) {
    return !open_object_store(flags, place.path, {"h1"}, nullptr).has_value();
  };
  CHECK(refused(flags_for(place, "s3.example.org")));
  ObjectStoreFlags bucket = flags_for(place, "http://127.0.0.1:1");
  bucket.s3.bucket = "a/b";
  CHECK(refused(bucket));
  ObjectStoreFlags ca = flags_for(place, "https://127.0.0.1:1");
  ca.s3.ca = place.path / "ca.pem";
  CHECK(refused(ca));
  const ObjectStoreFlags good = flags_for(place, "http://127.0.0.1:1");
  REQUIRE(publish_file(place.path / "s3.credentials", "nothing of use\n", 0600));
  CHECK(refused(good));
  fs::remove(place.path / "s3.credentials");
  CHECK(refused(good));
}

}  // namespace
}  // namespace stillpoint::node
