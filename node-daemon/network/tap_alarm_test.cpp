// In a network namespace of its own: a bridge with one port that stands for a guest's tap, packets put in as raw
// frames.
#include "node-daemon/network/tap_alarm.h"

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <sched.h>
#include <sys/socket.h>

#include <thread>

#include "common/process.h"

namespace stillpoint::node {
namespace {

void run(const std::vector<std::string>& argv) {
  auto out = run_checked(argv);
  REQUIRE_MESSAGE(out.has_value(), out.error());
}

void make_bridge() {
  REQUIRE(::unshare(CLONE_NEWNET) == 0);
  run({"ip", "link", "add", "spb9", "type", "bridge"});
  run({"ip", "link", "add", "tap0", "type", "veth", "peer", "name", "guest0"});
  run({"ip", "link", "set", "tap0", "master", "spb9"});
  for (const char* name : {"tap0", "guest0", "spb9"}) run({"ip", "link", "set", name, "up"});
}

// As the guest would send it. No checksums: nobody checks them here.
void send_ip(std::uint8_t protocol, std::uint8_t flags, std::size_t data, std::uint16_t type = ETH_P_IP,
             const char* from = "guest0") {
  std::vector<std::uint8_t> frame(14 + 20 + (protocol == 6 ? 20 : 8) + data, 0);
  frame[12] = static_cast<std::uint8_t>(type >> 8);
  frame[13] = static_cast<std::uint8_t>(type & 0xff);
  std::uint8_t* ip = frame.data() + 14;
  ip[0] = 0x45;
  ip[2] = static_cast<std::uint8_t>((frame.size() - 14) >> 8);
  ip[3] = static_cast<std::uint8_t>((frame.size() - 14) & 0xff);
  ip[9] = protocol;
  const std::uint8_t ends[] = {10, 99, 0, 1, 10, 99, 0, 2, 0x04, 0x00, 0x07, 0xd0};
  std::copy(std::begin(ends), std::end(ends), ip + 12);
  if (protocol == 6) {
    ip[20 + 12] = 0x50;
    ip[20 + 13] = flags;
  }
  // One for all: the kernel waits a while when such a socket is closed.
  static thread_local const Fd fd(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_ifindex = static_cast<int>(::if_nametoindex(from));
  REQUIRE(::sendto(fd.get(), frame.data(), frame.size(), 0, reinterpret_cast<const sockaddr*>(&address),
                   sizeof address) == static_cast<ssize_t>(frame.size()));
}

// Each case in a thread of its own: unshare() is the thread's business.
template <class Case>
void in_namespace(Case body) {
  std::thread([&] {
    make_bridge();
    body();
  }).join();
}

constexpr std::uint8_t kTcp = 6, kUdp = 17, kAck = 0x10, kSyn = 0x02, kFin = 0x01;

TEST_CASE("what a frozen guest's kernel may say is no alarm") {
  in_namespace([] {
    auto alarm = TapAlarm::arm("spb9");
    REQUIRE(alarm.has_value());
    send_ip(kTcp, kAck, 0);            // keepalive, window update
    send_ip(kUdp, 0, 40, ETH_P_ARP);   // any ARP
    send_ip(kUdp, 0, 40, ETH_P_IPV6);  // neighbour discovery
    send_ip(1, 0, 40);                 // ICMP
    CHECK(alarm->read().packets == 0);
  });
}

TEST_CASE("data, the begin or end of a connection, and UDP are, and the first is described") {
  in_namespace([] {
    auto alarm = TapAlarm::arm("spb9");
    REQUIRE(alarm.has_value());
    send_ip(kTcp, kAck, 64);
    send_ip(kTcp, kSyn, 0);
    send_ip(kTcp, kAck | kFin, 0);
    send_ip(kUdp, 0, 8);
    const TapTraffic seen = alarm->read();
    CHECK(seen.packets == 4);
    CHECK(seen.first == "TCP 10.99.0.1:1024 -> 10.99.0.2:2000, 64 bytes, on tap0");
  });
}

TEST_CASE("what goes to a guest counts where it came from, not here") {
  in_namespace([] {
    run({"ip", "link", "add", "tap1", "type", "veth", "peer", "name", "guest1"});
    run({"ip", "link", "set", "tap1", "master", "spb9"});
    for (const char* name : {"tap1", "guest1"}) run({"ip", "link", "set", name, "up"});
    auto alarm = TapAlarm::arm("spb9");
    REQUIRE(alarm.has_value());
    send_ip(kTcp, kAck, 64, ETH_P_IP, "guest1");  // flooded to tap0, for the bridge does not know where it goes
    const TapTraffic seen = alarm->read();
    CHECK(seen.packets == 1);
    CHECK(seen.first.ends_with("on tap1"));
    send_ip(kTcp, kAck, 64, ETH_P_IP, "tap0");  // as from another host: it leaves by the tap
    CHECK(alarm->read().packets == 0);
  });
}

TEST_CASE("what passed before it was armed does not count, and more than its buffer holds does") {
  in_namespace([] {
    send_ip(kTcp, kAck, 64);
    auto alarm = TapAlarm::arm("spb9");
    REQUIRE(alarm.has_value());
    for (int i = 0; i < 2000; ++i) send_ip(kTcp, kAck, 1000);
    CHECK(alarm->read().packets == 2000);
  });
}

TEST_CASE("without a bridge or without taps it sees nothing") {
  auto alarm = TapAlarm::arm("spb4711");
  REQUIRE(alarm.has_value());
  CHECK(alarm->read().packets == 0);
}

}  // namespace
}  // namespace stillpoint::node
