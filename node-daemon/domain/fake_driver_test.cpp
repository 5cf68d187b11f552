#include "node-daemon/domain/fake_driver.h"

#include <doctest/doctest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <thread>

using namespace stillpoint;
using namespace stillpoint::node;
using namespace std::chrono_literals;

namespace {

struct Collect : MemorySink {
  Status write(std::string_view more) override {
    bytes += more;
    return {};
  }
  Status restart() override {
    bytes.clear();
    return {};
  }
  std::string bytes;
};
struct Feed : MemorySource {
  explicit Feed(std::string text) : left(std::move(text)) {}
  Result<std::string> read() override { return std::exchange(left, ""); }
  std::string left;
};

struct Scratch {
  Scratch() {
    char pattern[] = "/tmp/sp-fake-XXXXXX";
    path = ::mkdtemp(pattern);
  }
  ~Scratch() { std::filesystem::remove_all(path); }
  std::filesystem::path path;
};

DomainSpec spec(unsigned incarnation = 1) {
  DomainSpec out;
  out.id = {JobId{"j1"}, Incarnation{incarnation}, GuestIndex{0}};
  out.disk = "/disk";
  out.mac = "52:54:00:00:00:01";
  return out;
}
const Error broken{ErrorKind::transient, "script", "fake", "broken"};

}  // namespace

TEST_CASE("a fake domain is captured, destroyed and restored as the next incarnation") {
  Scratch scratch;
  FakeDriver fake;
  REQUIRE(fake.start(spec()).has_value());
  fake.set_memory(spec().id, "precious");
  Collect sink;
  int captured = 0;
  CaptureNow now([&](CaptureTimes) { ++captured; });
  REQUIRE(fake.capture(spec().id, scratch.path / "layer", sink, now).has_value());
  CHECK(captured == 1);
  CHECK(sink.bytes == "precious");
  CHECK(std::filesystem::exists(scratch.path / "layer"));
  const auto xml = fake.describe(spec().id);
  REQUIRE(xml.has_value());
  REQUIRE(fake.destroy(spec().id).has_value());
  Feed source(sink.bytes);
  REQUIRE(fake.restore(spec(2), *xml, source).has_value());
  CHECK(fake.domain(spec(2).id)->paused);
  REQUIRE(fake.resume(spec(2).id).has_value());
  REQUIRE(fake.resume(spec(2).id).has_value());  // a daemon that died before it wrote it down asks again
  CHECK(fake.domain(spec(2).id)->memory == "precious");
  CHECK(fake.calls().front() == "start j1/1/guest-0");
}

TEST_CASE("a scripted failure comes as often as asked for, then no more") {
  FakeDriver fake;
  fake.fail(FakeDriver::Call::start, broken, 2);
  CHECK_FALSE(fake.start(spec()).has_value());
  CHECK_FALSE(fake.start(spec()).has_value());
  CHECK(fake.start(spec()).has_value());
}

TEST_CASE("a capture can fail after the instant has passed") {
  Scratch scratch;
  FakeDriver fake;
  REQUIRE(fake.start(spec()).has_value());
  fake.fail_capture_half_way(broken);
  Collect sink;
  int captured = 0;
  CaptureNow now([&](CaptureTimes) { ++captured; });
  CHECK_FALSE(fake.capture(spec().id, scratch.path / "a", sink, now).has_value());
  CHECK(captured == 1);
  CHECK(fake.capture(spec().id, scratch.path / "b", sink, now).has_value());
  CHECK(captured == 2);
}

TEST_CASE("a held call waits for its release") {
  FakeDriver fake;
  fake.hold(FakeDriver::Call::start);
  std::thread starter([&] { CHECK(fake.start(spec()).has_value()); });
  CHECK(fake.wait_held(FakeDriver::Call::start, 10s));
  CHECK_FALSE(fake.domain(spec().id));
  fake.release(FakeDriver::Call::start);
  starter.join();
  CHECK(fake.domain(spec().id));
}

TEST_CASE("the end of a domain is told, that by destroy() is not") {
  FakeDriver fake;
  std::vector<DomainEvent> events;
  fake.on_event([&](DomainEvent event) { events.push_back(event); });
  REQUIRE(fake.start(spec()).has_value());
  REQUIRE(fake.destroy(spec().id).has_value());
  CHECK(events.empty());
  fake.add_running(spec(2));
  fake.end(spec(2).id, DomainEvent::Kind::crashed, "test");
  REQUIRE(events.size() == 1);
  CHECK(events[0].kind == DomainEvent::Kind::crashed);
  CHECK(fake.running()->empty());
}

TEST_CASE("a domain that stops says why, and can be let go on") {
  FakeDriver fake;
  std::vector<DomainEvent> events;
  fake.on_event([&](DomainEvent event) { events.push_back(event); });
  REQUIRE(fake.start(spec()).has_value());
  fake.pause(spec().id, "no space");
  REQUIRE(events.size() == 1);
  CHECK(events[0].kind == DomainEvent::Kind::paused);
  CHECK(fake.domain(spec().id)->paused);
  REQUIRE(fake.carry_on(spec().id).has_value());
  CHECK_FALSE(fake.domain(spec().id)->paused);
}

TEST_CASE("a test plays the agent on the other end of the link") {
  FakeDriver fake;
  CHECK_FALSE(fake.open_guest_link(spec().id).has_value());
  REQUIRE(fake.start(spec()).has_value());
  auto link = fake.open_guest_link(spec().id);
  REQUIRE(link.has_value());
  const Fd agent = fake.take_agent_end(spec().id, 1s);
  REQUIRE(agent.get() >= 0);
  REQUIRE(::write(agent.get(), "hi", 2) == 2);
  char text[2];
  CHECK(::read(link->get(), text, 2) == 2);
  CHECK(fake.take_agent_end(spec().id, 0ms).get() < 0);
}
