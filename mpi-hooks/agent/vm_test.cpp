// The agent in real virtual machines: two guests, mpirun through the launch relay, standstills while ranks exchange
// messages. Label "vm": needs scripts/guest-image.
#include <doctest/doctest.h>

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
    if (s.local_ip() == socket.remote_ip() && s.local_port() == socket.remote_port() && s.remote_ip() == socket.local_ip() &&
        s.remote_port() == socket.local_port())
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
    const std::int64_t there = static_cast<std::int64_t>(socket.bytes_acked()) - static_cast<std::int64_t>(peer->bytes_received());
    const std::int64_t back = static_cast<std::int64_t>(peer->bytes_acked()) - static_cast<std::int64_t>(socket.bytes_received());
    CHECK((there == 0 || there == 1));  // the active opener counts its SYN
    CHECK((back == 0 || back == 1));
    CHECK(there + back == 1);
  }
}

struct Standstill {
  VmGang& gang;
  bool hooks;

  std::vector<wire::GuestReply> all(const std::function<void(wire::GuestRequest&)>& fill) {
    auto replies = gang.ask_all([&](unsigned) { wire::GuestRequest r; fill(r); return r; }, kShort);
    REQUIRE_MESSAGE(replies.has_value(), gang.problem());
    for (const wire::GuestReply& reply : *replies) REQUIRE_MESSAGE(!reply.has_failure(), reply.failure().cause());
    return *replies;
  }
  void close() {
    if (!hooks) return;
    all([](auto& r) {
      r.mutable_close_gates()->set_deadline_ms(10'000);
      r.mutable_close_gates()->set_hold_ms(30'000);
      r.mutable_close_gates()->set_expected_ranks(1);
    });
    for (std::uint64_t before = ~0ull, now = 0; before != now;) {
      before = now;
      now = 0;
      for (const auto& reply : all([](auto& r) { r.mutable_count_round(); }))
        now += reply.round().busy() ? before + 1 : reply.round().bytes_acked() + reply.round().bytes_received() + reply.round().mpi_calls();
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

}  // namespace

TEST_CASE("a gang of two guests runs mpirun through the launch relay, stands still and goes on") {
  const std::string image = std::string(STILLPOINT_BINARY_DIR) + "/guest";
  const std::string program = file(std::string(STILLPOINT_BINARY_DIR) + "/tests/agent/pingpong");
  REQUIRE_MESSAGE(!program.empty(), "build the target stillpoint-agent-pingpong first");
  const bool hooks = !file(std::string(STILLPOINT_BINARY_DIR) + "/guest-files/libstillpoint-mpi.so").empty();
  VmGang gang(image);
  REQUIRE_MESSAGE(gang.boot(std::chrono::seconds(120)), gang.problem());
  CHECK(gang.hello(0)->phase() == wire::GuestHello::BLANK);
  REQUIRE_MESSAGE(gang.configure("/job"), gang.problem());
  for (unsigned guest : {0u, 1u}) REQUIRE(gang.put_file(guest, "bin/pingpong", program, 0755));

  // 2000 exchanges, then the checksum; "step N" now and then.
  const auto started = gang.ask(0, start_job({"bin/pingpong", "2000"}), kShort);
  REQUIRE(started);
  REQUIRE_MESSAGE(!started->has_failure(), started->failure().cause());
  const bool stepping = gang.serve_until([&] { return gang.output().find("step 100\n") != std::string::npos || gang.exited(); }, kLong);
  REQUIRE_MESSAGE(stepping, gang.problem());
  REQUIRE_MESSAGE(!gang.exited(), gang.problem());
  CHECK(gang.launches() == 1);

  Standstill standstill{gang, hooks};
  for (int cycle = 0; cycle < 3; ++cycle) {
    ++gang.epoch;
    standstill.close();
    const auto cuts = standstill.freeze();
    if (hooks) check_quiet(cuts[0].cut(), cuts[1].cut());
    const std::size_t output = gang.output().size();
    CHECK(cuts[0].cut().output_offset() >= output);
    // Nothing moves: the same figures again.
    const auto again = standstill.freeze();
    CHECK(again[0].cut().output_offset() == cuts[0].cut().output_offset());
    CHECK(standstill.release());
    CHECK(standstill.release());  // asked again, answered the same
    gang.vm(0).reconnect();       // a daemon that restarted
    const std::size_t steps = gang.output().size();
    CHECK_MESSAGE(gang.serve_until([&] { return gang.output().size() > steps + 20 || gang.exited(); }, kLong), gang.problem());
  }
  CHECK_MESSAGE(gang.serve_until([&] { return gang.exited().has_value(); }, kLong), gang.problem());
  CHECK(gang.exited()->exit_code() == 0);
  CHECK(gang.output().size() == gang.exited()->output_offset());
  CHECK_MESSAGE(gang.output().find("hello, \"world\"; a=b") != std::string::npos, gang.output());
  CHECK_MESSAGE(gang.output().find("done: 2000 exchanges, 0 wrong bytes") != std::string::npos, gang.problem());
}
