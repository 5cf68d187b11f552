#include "node-daemon/network/tap_alarm.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <optional>

namespace stillpoint::node {
namespace {

constexpr std::uint32_t kAll = 0x40000;  // bytes of a packet that the filter lets through
constexpr std::size_t kEthernet = 14;
constexpr std::uint8_t kTcp = 6, kUdp = 17;
constexpr std::uint8_t kFinSynRst = 0x07;

// Offsets are of the Ethernet frame. X holds the length of the IPv4 header, then of both headers.
std::array<sock_filter, 19> filter() {
  return {{
      BPF_STMT(BPF_LD | BPF_B | BPF_ABS, static_cast<std::uint32_t>(SKF_AD_OFF + SKF_AD_PKTTYPE)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, PACKET_OUTGOING, 16, 0),  // to the guest
      BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 12),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ETH_P_IP, 0, 14),
      BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 23),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kUdp, 11, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kTcp, 0, 11),
      BPF_STMT(BPF_LDX | BPF_B | BPF_MSH, kEthernet),
      BPF_STMT(BPF_LD | BPF_B | BPF_IND, kEthernet + 13),  // flags
      BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, kFinSynRst, 7, 0),
      BPF_STMT(BPF_LD | BPF_B | BPF_IND, kEthernet + 12),  // data offset, in words, in the upper half
      BPF_STMT(BPF_ALU | BPF_RSH | BPF_K, 4),
      BPF_STMT(BPF_ALU | BPF_LSH | BPF_K, 2),
      BPF_STMT(BPF_ALU | BPF_ADD | BPF_X, 0),
      BPF_STMT(BPF_MISC | BPF_TAX, 0),
      BPF_STMT(BPF_LD | BPF_H | BPF_ABS, kEthernet + 2),  // length of the IPv4 packet
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_X, 0, 1, 0),       // no data
      BPF_STMT(BPF_RET | BPF_K, kAll),
      BPF_STMT(BPF_RET | BPF_K, 0),
  }};
}

Error failed(const std::string& tap) { return {ErrorKind::transient, "listen on", tap, std::strerror(errno)}; }

// The names of a bridge's ports. Asked of the bridge itself: /sys may show another network namespace. None: no bridge.
std::vector<std::string> ports_of(const std::string& bridge) {
  constexpr unsigned long kGetPortList = 7;  // BRCTL_GET_PORT_LIST of linux/if_bridge.h
  std::array<int, 256> indices{};
  unsigned long arguments[4] = {kGetPortList, reinterpret_cast<unsigned long>(indices.data()), indices.size(), 0};
  ifreq request{};
  std::vector<std::string> names;
  const Fd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd || bridge.size() >= sizeof request.ifr_name) return names;
  std::memcpy(request.ifr_name, bridge.c_str(), bridge.size() + 1);
  request.ifr_data = reinterpret_cast<char*>(arguments);
  if (::ioctl(fd.get(), SIOCDEVPRIVATE, &request) < 0) return names;
  for (const int index : indices) {
    char name[IF_NAMESIZE] = "";
    if (index > 0 && ::if_indextoname(static_cast<unsigned>(index), name) != nullptr) names.emplace_back(name);
  }
  return names;
}

// Filtered before it is bound: nothing gets in unseen by the filter.
Result<Fd> listen_on(const std::string& tap) {
  Fd fd(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return failed(tap);
  auto program = filter();
  const sock_fprog filtered{static_cast<unsigned short>(program.size()), program.data()};
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(ETH_P_ALL);
  address.sll_ifindex = static_cast<int>(::if_nametoindex(tap.c_str()));
  if (address.sll_ifindex == 0 ||
      ::setsockopt(fd.get(), SOL_SOCKET, SO_ATTACH_FILTER, &filtered, sizeof filtered) != 0 ||
      ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return failed(tap);
  return fd;
}

std::uint32_t number(const std::uint8_t* bytes, std::size_t count) {
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < count; ++i) value = value << 8 | bytes[i];
  return value;
}

std::string address(const std::uint8_t* ip, const std::uint8_t* port) {
  return fmt::format("{}.{}.{}.{}:{}", ip[0], ip[1], ip[2], ip[3], number(port, 2));
}

// The oldest packet that is still there.
std::optional<std::string> describe_first(const Fd& socket, const std::string& tap) {
  std::array<std::uint8_t, 128> frame{};
  const auto got = ::recv(socket.get(), frame.data(), frame.size(), MSG_DONTWAIT);
  if (got < static_cast<ssize_t>(kEthernet + 20)) return std::nullopt;
  const std::uint8_t* ip = frame.data() + kEthernet;
  const std::size_t header = (ip[0] & 0x0fu) * std::size_t{4};
  if (static_cast<std::size_t>(got) < kEthernet + header + 14) return std::nullopt;
  const std::uint8_t* ports = ip + header;
  const bool tcp = ip[9] == kTcp;
  const std::size_t headers = header + (tcp ? (ports[12] >> 4) * std::size_t{4} : 8);
  const std::size_t length = number(ip + 2, 2);
  return fmt::format("{} {} -> {}, {} bytes, on {}", tcp ? "TCP" : "UDP", address(ip + 12, ports),
                     address(ip + 16, ports + 2), length > headers ? length - headers : 0, tap);
}

}  // namespace

Result<TapAlarm> TapAlarm::arm(const std::string& bridge) {
  TapAlarm alarm;
  for (std::string& tap : ports_of(bridge)) {
    if (tap.starts_with("spx")) continue;  // the way to the other hosts: what goes there came from a tap
    auto socket = listen_on(tap);
    if (!socket) return socket.error();
    alarm.listeners_.push_back({std::move(tap), std::move(*socket)});
  }
  return alarm;
}

TapTraffic TapAlarm::read() {
  TapTraffic traffic;
  for (const auto& [tap, socket] : listeners_) {
    tpacket_stats stats{};
    socklen_t size = sizeof stats;
    if (::getsockopt(socket.get(), SOL_PACKET, PACKET_STATISTICS, &stats, &size) != 0 || stats.tp_packets == 0)
      continue;
    traffic.packets += stats.tp_packets;
    if (traffic.first.empty()) traffic.first = describe_first(socket, tap).value_or("on " + tap);
  }
  return traffic;
}

}  // namespace stillpoint::node
