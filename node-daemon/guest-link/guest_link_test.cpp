#include "node-daemon/guest-link/guest_link.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <boost/asio/io_context.hpp>
#include <chrono>
#include <vector>

#include "common/framing.h"

namespace stillpoint::node {
namespace {

// A link on an io_context that the test turns by hand; every connection it asks for is a socket pair.
struct World {
  boost::asio::io_context io{1};
  std::vector<Fd> guest_ends;
  std::vector<std::string> frames;
  int opened = 0;
  int failures = 0;  // so many connections fail first
  std::shared_ptr<GuestLink> link;

  World() {
    link = GuestLink::make(io.get_executor(), "j1/1/guest-0",
                           {.connect = [this] { connect(); },
                            .opened = [this] { ++opened; },
                            .frame = [this](std::string payload) { frames.push_back(std::move(payload)); }});
  }
  World(const World&) = delete;
  World& operator=(const World&) = delete;
  ~World() {
    link->close();
    io.poll();
  }

  void connect() {
    if (failures > 0) {
      --failures;
      return link->connected(Error{ErrorKind::transient, "connect", "socket", "not there yet"});
    }
    int ends[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
    guest_ends.emplace_back(ends[1]);
    link->connected(Fd(ends[0]));
  }
  template <class Condition>
  void until(Condition condition) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (!condition()) {
      REQUIRE(std::chrono::steady_clock::now() < end);
      io.restart();
      io.run_one_for(std::chrono::milliseconds(100));
    }
  }
  void guest_writes(std::string_view bytes) {
    REQUIRE(::write(guest_ends.back().get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
  }
};

TEST_CASE("frames go both ways; half a frame from before a restore costs that frame alone") {
  World w;
  w.link->start();
  w.until([&] { return w.opened == 1; });
  w.guest_writes(encode_frame("lost").substr(6) + encode_frame("first"));
  w.guest_writes(encode_frame("second"));
  w.until([&] { return w.frames.size() == 2; });
  CHECK(w.frames == std::vector<std::string>{"first", "second"});

  CHECK(w.link->send("to the guest"));
  FrameReader reader;
  std::optional<std::string> got;
  w.until([&] {
    char block[4096];
    const ssize_t n = ::read(w.guest_ends.back().get(), block, sizeof block);
    if (n > 0) reader.feed(std::string_view(block, static_cast<std::size_t>(n)));
    got = reader.next();
    return got.has_value();
  });
  CHECK(*got == "to the guest");
}

TEST_CASE("a link that breaks, or does not come up at first, is made anew") {
  World w;
  w.failures = 2;
  w.link->start();
  w.until([&] { return w.opened == 1; });
  w.guest_ends.clear();
  w.until([&] { return w.opened == 2; });
  w.guest_writes(encode_frame("again"));
  w.until([&] { return w.frames.size() == 1; });
}

TEST_CASE("a guest that does not read fills the queue and no more") {
  World w;
  w.link->start();
  w.until([&] { return w.opened == 1; });
  const std::string piece(256u << 10, 'x');
  int taken = 0;
  while (w.link->send(piece)) REQUIRE(++taken < 100);
  CHECK(taken >= 16);
  CHECK(taken <= 64);
}

TEST_CASE("a closed link asks for no connection and calls nobody") {
  World w;
  w.link->start();
  w.until([&] { return w.opened == 1; });
  w.guest_writes(encode_frame("too late"));
  w.link->close();
  w.guest_ends.clear();
  w.io.restart();
  w.io.run_for(std::chrono::milliseconds(200));
  CHECK(w.frames.empty());
  CHECK(w.opened == 1);
  CHECK(!w.link->send("x"));
}

}  // namespace
}  // namespace stillpoint::node
