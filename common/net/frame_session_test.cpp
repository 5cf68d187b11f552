#include "common/net/frame_session.h"

#include <doctest/doctest.h>

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/write.hpp>
#include <fstream>
#include <optional>
#include <thread>

#include "common/net/test_certificates.h"

using namespace stillpoint;
using namespace stillpoint::net;
namespace asio = boost::asio;
using namespace std::chrono_literals;

namespace {

struct End {
  std::shared_ptr<FrameSession> session;
  std::optional<std::string> peer;
  std::vector<std::string> frames;
  std::optional<Error> closed;
  FrameSession::Handlers handlers() {
    return {[this](const std::string& name) { peer = name; },
            [this](std::string payload) { frames.push_back(std::move(payload)); },
            [this](const Error& why) {
              CHECK_FALSE(closed);
              closed = why;
            }};
  }
};

struct Loop {
  asio::io_context io;
  template <class Condition>
  bool until(Condition condition, std::chrono::milliseconds deadline = 60s) {
    const auto end = std::chrono::steady_clock::now() + deadline;
    while (!condition() && std::chrono::steady_clock::now() < end) {
      io.restart();
      io.run_one_for(100ms);
    }
    return condition();
  }
};

struct Pair : Loop {
  TestSite site;
  End server, client;
  std::shared_ptr<FrameListener> listener;
  SessionLimits limits{};
  std::string endpoint;

  void listen(std::size_t max_unopened = 8) {
    auto tls = TlsContext::load(site.identity("coordinator"), TlsRole::coordinator);
    REQUIRE(tls.has_value());
    auto made = listen_for_sessions(io.get_executor(), *tls, "127.0.0.1:0", limits, max_unopened,
                                    [this](const std::shared_ptr<FrameSession>& session) {
                                      server.session = session;
                                      return server.handlers();
                                    });
    REQUIRE(made.has_value());
    listener = *made;
    endpoint = "127.0.0.1:" + std::to_string(listener->port());
  }
  void dial(const std::filesystem::path& identity, TlsRole role = TlsRole::host) {
    auto tls = TlsContext::load(identity, role);
    REQUIRE(tls.has_value());
    client.session = connect_session(io.get_executor(), *tls, endpoint, limits, client.handlers());
  }
  void open() {
    listen();
    dial(site.identity("h1"));
    REQUIRE(until([&] { return server.peer && client.peer; }));
  }
  ~Pair() {
    if (listener) listener->close();
    for (End* end : {&server, &client})
      if (end->session && !end->closed) end->session->close(Error{ErrorKind::transient, "test", "", "end"});
    until([&] { return (!server.session || server.closed) && (!client.session || client.closed); });
  }
};

}  // namespace

TEST_CASE("frames go both ways, in order, and both ends know the other's certified name") {
  Pair pair;
  pair.open();
  CHECK(*pair.server.peer == "h1");
  CHECK(*pair.client.peer == "coordinator");
  for (int i = 0; i < 300; ++i) pair.client.session->send("to server " + std::to_string(i));
  pair.server.session->send(std::string(3u << 20, 'x'));
  pair.server.session->send("");
  REQUIRE(pair.until([&] { return pair.server.frames.size() == 300 && pair.client.frames.size() == 2; }));
  for (int i = 0; i < 300; ++i) CHECK(pair.server.frames[i] == "to server " + std::to_string(i));
  CHECK(pair.client.frames[0].size() == 3u << 20);
  CHECK(pair.client.frames[1].empty());
}

TEST_CASE("a payload's shared rest follows its own bytes, in each session that it goes out on") {
  Pair pair;
  pair.open();
  const auto shared = std::make_shared<const std::string>(3u << 20, 'r');
  pair.server.session->send("one: ", shared);
  pair.server.session->send("", shared);
  pair.client.session->send("two: ", shared);
  pair.server.session->send("alone");
  REQUIRE(pair.until([&] { return pair.server.frames.size() == 1 && pair.client.frames.size() == 3; }));
  CHECK(pair.client.frames[0] == "one: " + *shared);
  CHECK(pair.client.frames[1] == *shared);
  CHECK(pair.client.frames[2] == "alone");
  CHECK(pair.server.frames[0] == "two: " + *shared);
  CHECK(pair.until([&] { return shared.use_count() == 1; }));  // and the queues let go of it
}

TEST_CASE("what was sent before the session is open goes out when it is") {
  Pair pair;
  pair.listen();
  pair.dial(pair.site.identity("h1"));
  pair.client.session->send("early");
  REQUIRE(pair.until([&] { return pair.server.frames.size() == 1; }));
  CHECK(pair.server.frames[0] == "early");
}

TEST_CASE("send from other threads") {
  Pair pair;
  pair.open();
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t)
    threads.emplace_back([&pair] {
      for (int i = 0; i < 200; ++i) pair.client.session->send(std::string(1000, 'a'));
    });
  CHECK(pair.until([&] { return pair.server.frames.size() == 600; }));
  for (auto& thread : threads) thread.join();
}

TEST_CASE("close reaches both ends with a reason, once") {
  Pair pair;
  pair.open();
  pair.client.session->close(Error{ErrorKind::refused, "session", "h1", "had enough"});
  pair.client.session->close(Error{ErrorKind::refused, "session", "h1", "again"});
  REQUIRE(pair.until([&] { return pair.client.closed && pair.server.closed; }));
  CHECK(pair.client.closed->cause == "had enough");
  CHECK(pair.server.closed->kind == ErrorKind::transient);
  pair.client.session->send("into the void");
}

TEST_CASE("close_after_sending delivers what was sent") {
  Pair pair;
  pair.open();
  for (int i = 0; i < 5; ++i) pair.client.session->send(std::string(2000, 'a'));  // it has a second for it
  pair.client.session->close_after_sending(Error{ErrorKind::refused, "session", "h1", "goodbye"});
  pair.client.session->send("too late");
  REQUIRE(pair.until([&] { return pair.client.closed && pair.server.closed; }));
  CHECK(pair.server.frames.size() == 5);
}

TEST_CASE("a full send queue closes the session") {
  Pair pair;
  pair.limits.send_queue_bytes = 8u << 20;
  pair.open();
  pair.server.session->pause_reading();
  for (int i = 0; i < 9; ++i) pair.client.session->send(std::string(1u << 20, 'a'));
  REQUIRE(pair.until([&] { return pair.client.closed.has_value(); }));
  CHECK(pair.client.closed->cause.find("queue is full") != std::string::npos);
  pair.server.session->resume_reading();
  CHECK(pair.until([&] { return pair.server.closed.has_value(); }));
}

TEST_CASE("a payload over the limit closes the session at the sender") {
  Pair pair;
  pair.open();
  SUBCASE("by itself") { pair.client.session->send(std::string(kMaxFramePayload + 1, 'a')); }
  SUBCASE("with the rest that follows it") {
    pair.client.session->send("a", std::make_shared<const std::string>(kMaxFramePayload, 'a'));
  }
  REQUIRE(pair.until([&] { return pair.client.closed.has_value(); }));
  CHECK(pair.client.closed->kind == ErrorKind::permanent);
  CHECK(pair.server.frames.empty());
}

TEST_CASE("paused reading delivers nothing new until it is resumed") {
  Pair pair;
  pair.open();
  pair.server.session->pause_reading();
  // Larger than what one read and the kernel take: the tail cannot be there while the server does not read.
  for (int i = 0; i < 4; ++i) pair.client.session->send(std::string(4u << 20, 'a'));
  CHECK_FALSE(pair.until([&] { return pair.server.frames.size() == 4; }, 300ms));
  pair.server.session->resume_reading();
  CHECK(pair.until([&] { return pair.server.frames.size() == 4; }));
}

TEST_CASE("a silent peer is given up after the idle deadline") {
  Pair pair;
  pair.limits.idle_deadline = 200ms;
  pair.open();
  REQUIRE(pair.until([&] { return pair.client.closed && pair.server.closed; }));
  CHECK((pair.client.closed->kind == ErrorKind::deadline || pair.server.closed->kind == ErrorKind::deadline));
}

TEST_CASE("a host of another site is refused, and refuses") {
  Pair pair;
  pair.listen();
  TestSite other;
  pair.dial(other.identity("h1"));
  REQUIRE(pair.until([&] { return pair.client.closed && pair.server.closed; }));
  CHECK_FALSE(pair.server.peer);
  CHECK_FALSE(pair.client.peer);
  CHECK(pair.client.closed->kind == ErrorKind::refused);
}

TEST_CASE("a host whose certificate has expired is refused") {
  Pair pair;
  pair.listen();
  pair.dial(pair.site.identity("h1", -60));
  REQUIRE(pair.until([&] { return pair.server.closed.has_value(); }));
  CHECK_FALSE(pair.server.peer);
  CHECK(pair.server.closed->cause.find("expired") != std::string::npos);
}

TEST_CASE("a server that is not the coordinator is refused") {
  TestSite site;
  Loop loop;
  // A host's certificate of the right site, used to play the coordinator.
  const auto identity = site.identity("h2");
  asio::ssl::context context(asio::ssl::context::tls_server);
  context.use_certificate_chain_file((identity / "cert.pem").string());
  context.use_private_key_file((identity / "key.pem").string(), asio::ssl::context::pem);
  context.load_verify_file((identity / "ca.pem").string());
  context.set_verify_mode(asio::ssl::verify_peer | asio::ssl::verify_fail_if_no_peer_cert);
  asio::ip::tcp::acceptor acceptor(loop.io, {asio::ip::make_address("127.0.0.1"), 0});
  asio::ssl::stream<asio::ip::tcp::socket> impostor(loop.io, context);
  acceptor.async_accept(impostor.next_layer(), [&](auto failed) {
    if (!failed) impostor.async_handshake(asio::ssl::stream_base::server, [](auto) {});
  });
  End client;
  auto tls = TlsContext::load(site.identity("h1"), TlsRole::host);
  REQUIRE(tls.has_value());
  client.session =
      connect_session(loop.io.get_executor(), *tls, "127.0.0.1:" + std::to_string(acceptor.local_endpoint().port()), {},
                      client.handlers());
  REQUIRE(loop.until([&] { return client.closed.has_value(); }));
  CHECK_FALSE(client.peer);
  CHECK(client.closed->message().find("not the coordinator") != std::string::npos);
}

namespace {

// A client of the right site that speaks TLS but whatever else it likes.
struct RawClient {
  asio::ssl::context context{asio::ssl::context::tls_client};
  std::unique_ptr<asio::ssl::stream<asio::ip::tcp::socket>> stream;
  RawClient(Pair& pair, const std::filesystem::path& identity) {
    context.load_verify_file((identity / "ca.pem").string());
    context.use_certificate_chain_file((identity / "cert.pem").string());
    context.use_private_key_file((identity / "key.pem").string(), asio::ssl::context::pem);
    stream = std::make_unique<asio::ssl::stream<asio::ip::tcp::socket>>(pair.io, context);
    stream->next_layer().connect({asio::ip::make_address("127.0.0.1"), pair.listener->port()});
  }
};

}  // namespace

TEST_CASE("bytes that are no frame close the session") {
  Pair pair;
  pair.listen();
  RawClient raw(pair, pair.site.identity("h1"));
  std::string bytes;
  SUBCASE("garbage") { bytes = "GET / HTTP/1.1\r\n\r\n"; }
  SUBCASE("broken checksum") {
    bytes = encode_frame("hello");
    bytes.back() ^= 1;
  }
  SUBCASE("a length over the limit") { bytes = std::string("SPF1\xff\xff\xff\xff", 8) + std::string(8, 'x'); }
  bool done = false;
  raw.stream->async_handshake(asio::ssl::stream_base::client, [&](auto failed) {
    REQUIRE_FALSE(failed);
    asio::async_write(*raw.stream, asio::buffer(bytes), [&](auto, std::size_t) { done = true; });
  });
  REQUIRE(pair.until([&] { return done && pair.server.closed; }));
  CHECK(pair.server.closed->cause.find("not a frame") != std::string::npos);
  CHECK(pair.server.frames.empty());
}

TEST_CASE("TLS 1.2 and a client without certificate are refused") {
  Pair pair;
  pair.listen();
  const auto identity = pair.site.identity("h1");
  RawClient raw(pair, identity);
  asio::ssl::context bare(asio::ssl::context::tls_client);
  SUBCASE("TLS 1.2") { SSL_set_max_proto_version(raw.stream->native_handle(), TLS1_2_VERSION); }
  SUBCASE("no certificate") {
    raw.stream = std::make_unique<asio::ssl::stream<asio::ip::tcp::socket>>(pair.io, bare);
    raw.stream->next_layer().connect({asio::ip::make_address("127.0.0.1"), pair.listener->port()});
  }
  raw.stream->async_handshake(asio::ssl::stream_base::client, [](auto) {});
  REQUIRE(pair.until([&] { return pair.server.closed.has_value(); }));
  CHECK_FALSE(pair.server.peer);
}

TEST_CASE("strangers that only connect are bounded and end at the deadline") {
  Loop loop;
  TestSite site;
  auto tls = TlsContext::load(site.identity("coordinator"), TlsRole::coordinator);
  REQUIRE(tls.has_value());
  SessionLimits limits;
  limits.open_deadline = 300ms;
  int opened = 0, closed = 0;
  auto listener = listen_for_sessions(loop.io.get_executor(), *tls, "127.0.0.1:0", limits, 2, [&](const auto&) {
    return FrameSession::Handlers{[&](const std::string&) { ++opened; },
                                  {},
                                  [&](const Error& why) {
                                    CHECK(why.kind == ErrorKind::deadline);
                                    ++closed;
                                  }};
  });
  REQUIRE(listener.has_value());
  std::vector<asio::ip::tcp::socket> strangers;
  int ended = 0;
  char byte = 0;
  for (int i = 0; i < 5; ++i) {
    strangers.emplace_back(loop.io);
    strangers.back().connect({asio::ip::make_address("127.0.0.1"), (*listener)->port()});
  }
  for (auto& stranger : strangers)
    stranger.async_read_some(asio::buffer(&byte, 1), [&](auto failed, std::size_t) {
      CHECK(failed);
      ++ended;
    });
  CHECK(loop.until([&] { return ended == 5; }));
  CHECK(opened == 0);
  CHECK(closed == 2);
  (*listener)->close();
}

TEST_CASE("an identity that cannot be right is refused with the reason") {
  TestSite site;
  auto load = [](const std::filesystem::path& directory, TlsRole role) {
    auto loaded = TlsContext::load(directory, role);
    REQUIRE(loaded.has_error());
    return loaded.error().message();
  };
  const auto host = site.identity("h1");
  CHECK(load(site.identity("coordinator"), TlsRole::host).find("coordinator") != std::string::npos);
  CHECK(load(host, TlsRole::coordinator).find("h1") != std::string::npos);
  CHECK(load(site.directory() / "none", TlsRole::host).find("key.pem") != std::string::npos);
  std::filesystem::permissions(host / "key.pem", std::filesystem::perms::group_read,
                               std::filesystem::perm_options::add);
  CHECK(load(host, TlsRole::host).find("chmod 600") != std::string::npos);
  const auto mixed = site.identity("h2");
  std::filesystem::copy_file(site.identity("h3") / "key.pem", mixed / "key.pem",
                             std::filesystem::copy_options::overwrite_existing);
  CHECK(load(mixed, TlsRole::host).find("key.pem") != std::string::npos);
  const auto odd = site.identity("h 1/..");
  CHECK(load(odd, TlsRole::host).find("common name") != std::string::npos);
}

TEST_CASE("an address that cannot be dialled is an error that closes the session") {
  Pair pair;
  pair.endpoint = "no port here";
  SUBCASE("no port") {}
  SUBCASE("nobody listens") { pair.endpoint = "127.0.0.1:1"; }
  pair.dial(pair.site.identity("h1"));
  REQUIRE(pair.until([&] { return pair.client.closed.has_value(); }));
  CHECK_FALSE(pair.client.peer);
}
