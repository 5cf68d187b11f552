// The agent in real virtual machines: two guests, mpirun through the launch relay, standstills while ranks exchange
// messages. Label "vm": needs scripts/guest-image.
#include <doctest/doctest.h>

#include <algorithm>
#include <fstream>
#include <iterator>

#include "mpi-hooks/agent/vm_gang.h"

using namespace stillpoint;
using namespace stillpoint::agent;
using std::chrono::milliseconds;

namespace {

constexpr milliseconds kLong{120'000}, kShort{20'000};

std::string file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

wire::GuestRequest start_job(std::vector<std::string> command) {
  wire::GuestRequest request;
  wire::StartJob& start = *request.mutable_start_job();
  start.mutable_command()->Assign(command.begin(), command.end());
  (*start.mutable_env())["GREETING"] = "hello, \"world\"; a=b";
  start.add_ranks_per_guest(1);
  start.add_ranks_per_guest(1);
  return request;
}

const wire::SocketFigures* other_end(const wire::GuestCut& cut, const wire::SocketFigures& socket) {
  for (const wire::SocketFigures& s : cut.sockets())
    if (s.local_ip() == socket.remote_ip() && s.local_port() == socket.remote_port() &&
        s.remote_ip() == socket.local_ip() && s.remote_port() == socket.local_port())
      return &s;
  return nullptr;
}

// Whether each byte that one end's kernel knows acknowledged is one that the other end's kernel received, both ways.
void check_quiet(const wire::GuestCut& a, const wire::GuestCut& b) {
  CHECK(a.sockets_size() >= 1);
  CHECK(a.sockets_size() == b.sockets_size());
  for (const wire::SocketFigures& socket : a.sockets()) {
    const wire::SocketFigures* peer = other_end(b, socket);
    REQUIRE(peer != nullptr);
    CHECK(socket.state() == 1);
    CHECK(socket.send_queue() + socket.notsent() + socket.unacked() == 0);
    CHECK(peer->send_queue() + peer->notsent() + peer->unacked() == 0);
    const std::int64_t there =
        static_cast<std::int64_t>(socket.bytes_acked()) - static_cast<std::int64_t>(peer->bytes_received());
    const std::int64_t back =
        static_cast<std::int64_t>(peer->bytes_acked()) - static_cast<std::int64_t>(socket.bytes_received());
    CHECK((there == 0 || there == 1));  // the active opener counts its SYN
    CHECK((back == 0 || back == 1));
    CHECK(there + back == 1);
  }
}

struct Standstill {
  VmGang& gang;
  bool hooks;
  unsigned hold_ms = 30'000;

  std::vector<wire::GuestReply> all(const std::function<void(wire::GuestRequest&)>& fill) {
    auto replies = gang.ask_all(
        [&](unsigned) {
          wire::GuestRequest r;
          fill(r);
          return r;
        },
        kShort);
    REQUIRE_MESSAGE(replies.has_value(), gang.problem());
    for (const wire::GuestReply& reply : *replies) REQUIRE_MESSAGE(!reply.has_failure(), reply.failure().cause());
    return *replies;
  }
  void close() {
    if (!hooks) return;
    all([this](auto& r) {
      r.mutable_close_gates()->set_deadline_ms(10'000);
      r.mutable_close_gates()->set_hold_ms(hold_ms);
      r.mutable_close_gates()->set_expected_ranks(1);
    });
    for (std::uint64_t before = ~0ull, now = 0; before != now;) {
      before = now;
      now = 0;
      for (const auto& reply : all([](auto& r) { r.mutable_count_round(); }))
        now += reply.round().busy()
                   ? before + 1
                   : reply.round().bytes_acked() + reply.round().bytes_received() + reply.round().mpi_calls();
    }
  }
  std::vector<wire::GuestReply> freeze() {
    all([](auto& r) { r.mutable_freeze_ranks()->set_settle_ms(2000); });
    // Each guest's figures of a moment when all stand still.
    return all([](auto& r) { r.mutable_freeze_ranks()->set_settle_ms(2000); });
  }
  bool release() {
    bool held = true;
    for (const auto& reply : all([](auto& r) { r.mutable_release_ranks(); })) held = held && reply.release().held();
    return held;
  }
};

// A gang that runs pingpong, which has begun its exchanges.
struct RunningGang {
  VmGang gang{std::string(STILLPOINT_BINARY_DIR) + "/guest"};
  const bool hooks = !file(std::string(STILLPOINT_BINARY_DIR) + "/guest-files/libstillpoint-mpi.so").empty();

  explicit RunningGang(const std::string& exchanges) {
    const std::string program = file(std::string(STILLPOINT_BINARY_DIR) + "/tests/agent/pingpong");
    REQUIRE_MESSAGE(!program.empty(), "build the target stillpoint-agent-pingpong first");
    REQUIRE_MESSAGE(gang.boot(std::chrono::seconds(120)), gang.problem());
    CHECK(gang.hello(0)->phase() == wire::GuestHello::BLANK);
    REQUIRE_MESSAGE(gang.configure("/job"), gang.problem());
    for (unsigned guest : {0u, 1u}) REQUIRE(gang.put_file(guest, "bin/pingpong", program, 0755));
    const auto started = gang.ask(0, start_job({"bin/pingpong", exchanges}), kShort);
    REQUIRE(started);
    REQUIRE_MESSAGE(!started->has_failure(), started->failure().cause());
    const auto stepping = [&] { return gang.output().find("step 50\n") != std::string::npos || gang.exited(); };
    REQUIRE_MESSAGE(gang.serve_until(stepping, kLong), gang.problem());
    REQUIRE_MESSAGE(!gang.exited(), gang.problem());
  }
  bool goes_on() {
    const std::size_t before = gang.output().size();
    return gang.serve_until([&] { return gang.output().size() > before + 20 || gang.exited(); }, kLong);
  }
  void check_end(const std::string& last_line) {
    CHECK_MESSAGE(gang.serve_until([&] { return gang.exited().has_value(); }, kLong), gang.problem());
    REQUIRE(gang.exited());
    CHECK(gang.exited()->exit_code() == 0);
    CHECK(gang.output().size() == gang.exited()->output_offset());
    CHECK_MESSAGE(gang.output().find(last_line) != std::string::npos, gang.problem());
    // Every tenth step once, in order.
    std::size_t at = 0;
    for (int step = 10; (at = gang.output().find("step ", at)) != std::string::npos; step += 10, ++at)
      CHECK(gang.output().substr(at, gang.output().find('\n', at) - at) == "step " + std::to_string(step));
  }
};

}  // namespace

TEST_CASE("a gang of two guests runs mpirun through the launch relay, stands still and goes on") {
  RunningGang running("700");
  VmGang& gang = running.gang;
  CHECK(gang.launches() == 1);

  Standstill standstill{gang, running.hooks};
  for (int cycle = 0; cycle < 3; ++cycle) {
    ++gang.epoch;
    standstill.close();
    const auto cuts = standstill.freeze();
    if (running.hooks) check_quiet(cuts[0].cut(), cuts[1].cut());
    CHECK(cuts[0].cut().output_offset() >= gang.output().size());
    // Nothing moves: the same figures again.
    const auto again = standstill.freeze();
    CHECK(again[0].cut().output_offset() == cuts[0].cut().output_offset());
    CHECK(standstill.release());
    CHECK(standstill.release());  // asked again, answered the same
    gang.guest(0).reconnect();    // a daemon that restarted
    CHECK_MESSAGE(running.goes_on(), gang.problem());
  }
  running.check_end("done: 700 exchanges, 0 wrong bytes");
  CHECK_MESSAGE(gang.output().find("hello, \"world\"; a=b") != std::string::npos, gang.output());
}

TEST_CASE("images of a standstill: the machines let go by themselves, the restored ones wait to be adopted and go on") {
  RunningGang running("700");
  VmGang& gang = running.gang;
  REQUIRE_MESSAGE(running.hooks, "this test needs the hook library");
  Standstill standstill{gang, true, 4000};
  // Nobody speaks to frozen guests any more: after hold_ms they run on, and this epoch is lost for good.
  gang.epoch = 3;
  standstill.close();
  standstill.freeze();
  CHECK_MESSAGE(running.goes_on(), gang.problem());
  CHECK_FALSE(standstill.release());
  wire::GuestRequest round;
  round.mutable_count_round();
  const auto lost = gang.ask(0, round, kShort);
  REQUIRE(lost);
  CHECK(lost->failure().cause().find("EPOCH_LOST") == 0);

  gang.epoch = 4;
  standstill.close();
  const auto cuts = standstill.freeze();
  check_quiet(cuts[0].cut(), cuts[1].cut());
  REQUIRE(gang.save());
  CHECK(standstill.release());
  CHECK_MESSAGE(running.goes_on(), gang.problem());

  // The same state from the images: as long as nobody adopts them they stand, whatever the hold.
  gang.output().resize(cuts[0].cut().output_offset());
  REQUIRE_MESSAGE(gang.restore(), gang.problem());
  CHECK_FALSE(
      gang.serve_until([&] { return gang.output().size() != cuts[0].cut().output_offset(); }, milliseconds(8000)));
  for (unsigned guest : {0u, 1u}) {
    REQUIRE(gang.hello(guest));
    CHECK(gang.hello(guest)->phase() == wire::GuestHello::HELD);
    CHECK(gang.hello(guest)->epoch() == 4);
  }
  standstill.all([](auto& r) { r.mutable_adopt()->set_new_incarnation(2); });
  standstill.all([](auto& r) { r.mutable_adopt()->set_new_incarnation(2); });  // the answer was lost
  CHECK(gang.ask(0, round, kShort)->failure().cause().find("has incarnation 2") != std::string::npos);
  gang.incarnation = 2;
  const auto links = standstill.all([](auto& r) { r.mutable_check_links()->set_deadline_ms(10'000); });
  for (unsigned guest : {0u, 1u}) {
    CHECK(links[guest].links().reached_size() == 1);
    CHECK(links[guest].links().cut().SerializeAsString() != "");
    check_quiet(links[guest].links().cut(), cuts[1 - guest].cut());
  }
  CHECK(standstill.release());
  CHECK_MESSAGE(running.goes_on(), gang.problem());
  running.check_end("done: 700 exchanges, 0 wrong bytes");
}

TEST_CASE("machines whose daemon says no more of the host's lease end by themselves; to stand still costs no lease") {
  constexpr std::uint32_t kLeaseMs = 20'000;
  RunningGang running("1000000");
  VmGang& gang = running.gang;
  const auto& abilities = gang.hello(0)->abilities();
  CHECK(std::find(abilities.begin(), abilities.end(), "lease") != abilities.end());
  gang.lease_ms = kLeaseMs;
  gang.tell_of_lease();
  gang.lease_ms = 0;  // and from here on nothing, until it is told again
  gang.pause(milliseconds(kLeaseMs + 2'000));
  CHECK_MESSAGE(running.goes_on(), gang.problem());
  CHECK_FALSE(gang.all_off());
  REQUIRE_MESSAGE(gang.serve_until([&] { return gang.all_off(); }, kLong), gang.problem());
  for (unsigned guest : {0u, 1u})
    CHECK_MESSAGE(gang.guest(guest).story().find("no word of the host's lease any more") != std::string::npos,
                  gang.problem());
}
