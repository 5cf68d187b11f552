#include "mpi-hooks/agent/network.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "common/fd.h"

namespace stillpoint::agent {
namespace {

constexpr char kInterface[] = "eth0";

sockaddr_in ipv4(std::uint32_t address) {
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_addr.s_addr = htonl(address);
  return to;
}

void store(sockaddr& slot, std::uint32_t address) {
  const sockaddr_in value = ipv4(address);
  std::memcpy(&slot, &value, sizeof value);
}

ifreq interface(const char* name) {
  ifreq request{};
  std::strncpy(request.ifr_name, name, sizeof request.ifr_name - 1);
  return request;
}

bool bring_up(int control, const char* name) {
  ifreq request = interface(name);
  if (::ioctl(control, SIOCGIFFLAGS, &request) != 0) return false;
  request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP | IFF_RUNNING);
  return ::ioctl(control, SIOCSIFFLAGS, &request) == 0;
}

bool set_address(int control, std::uint32_t address, unsigned prefix_length) {
  ifreq request = interface(kInterface);
  store(request.ifr_addr, address);
  if (::ioctl(control, SIOCSIFADDR, &request) != 0) return false;
  store(request.ifr_netmask, prefix_length == 0 ? 0 : ~std::uint32_t{0} << (32 - prefix_length));
  return ::ioctl(control, SIOCSIFNETMASK, &request) == 0;
}

bool add_neighbour(int control, std::uint32_t address, const std::string& mac) {
  arpreq request{};
  store(request.arp_pa, address);
  request.arp_ha.sa_family = ARPHRD_ETHER;
  std::memcpy(request.arp_ha.sa_data, mac.data(), mac.size());
  request.arp_flags = ATF_PERM | ATF_COM;
  std::strncpy(request.arp_dev, kInterface, sizeof request.arp_dev - 1);
  return ::ioctl(control, SIOCSARP, &request) == 0;
}

Done write_file(const char* path, const std::string& text) {
  const Fd file(::open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!file || ::write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    return errno_failure("write", path);
  return Nothing{};
}

std::uint16_t internet_checksum(const void* data, std::size_t size) {
  std::uint32_t sum = 0;
  const auto* bytes = static_cast<const unsigned char*>(data);
  for (std::size_t i = 0; i + 1 < size; i += 2) sum += static_cast<std::uint32_t>(bytes[i] | bytes[i + 1] << 8);
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<std::uint16_t>(~sum);
}

}  // namespace

std::optional<std::uint32_t> parse_ipv4(const std::string& text) {
  in_addr address{};
  if (::inet_pton(AF_INET, text.c_str(), &address) != 1) return std::nullopt;
  return ntohl(address.s_addr);
}

std::optional<std::string> parse_mac(const std::string& text) {
  unsigned b[6];
  char more;
  if (std::sscanf(text.c_str(), "%2x:%2x:%2x:%2x:%2x:%2x%c", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5], &more) != 6)
    return std::nullopt;
  std::string mac;
  for (unsigned byte : b) mac.push_back(static_cast<char>(byte));
  return mac;
}

std::string hosts_file(const std::vector<wire::Neighbour>& gang) {
  std::string text = "127.0.0.1 localhost\n";
  for (const wire::Neighbour& n : gang) text += n.ip() + " " + n.name() + "\n";
  return text;
}

Done configure_network(const wire::ConfigureGuest& configuration) {
  const std::string step = "configure the network";
  const Fd control(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!control) return errno_failure(step, "socket");
  if (!bring_up(control.get(), "lo")) return errno_failure(step, "lo");
  if (configuration.prefix_length() > 32)
    return failure(wire::Failure::REFUSED, step, kInterface, "the prefix length is over 32");

  for (const wire::Neighbour& n : configuration.gang()) {
    const auto address = parse_ipv4(n.ip());
    if (!address) return failure(wire::Failure::REFUSED, step, n.name(), "no IPv4 address: " + n.ip());
    if (n.guest() != configuration.guest()) continue;
    if (::sethostname(n.name().data(), n.name().size()) != 0) return errno_failure(step, n.name());
    ifreq request = interface(kInterface);
    request.ifr_mtu = static_cast<int>(configuration.mtu());
    if (configuration.mtu() != 0 && ::ioctl(control.get(), SIOCSIFMTU, &request) != 0)
      return errno_failure(step, "MTU of eth0");
    if (!set_address(control.get(), *address, configuration.prefix_length()) || !bring_up(control.get(), kInterface))
      return errno_failure(step, kInterface);
  }
  for (const wire::Neighbour& n : configuration.gang()) {
    const auto mac = parse_mac(n.mac());
    if (n.guest() == configuration.guest() || !mac) continue;
    if (!add_neighbour(control.get(), *parse_ipv4(n.ip()), *mac)) return errno_failure(step, "neighbour " + n.name());
  }
  return write_file("/etc/hosts", hosts_file({configuration.gang().begin(), configuration.gang().end()}));
}

Outcome<std::vector<std::uint32_t>> ping(const std::vector<std::uint32_t>& addresses, Millis deadline) {
  const std::string step = "reach the other guests";
  const Fd raw(::socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_ICMP));
  if (!raw) return errno_failure(step, "ICMP socket");
  icmphdr echo{};
  echo.type = ICMP_ECHO;
  echo.un.echo.id = htons(static_cast<std::uint16_t>(::getpid() & 0xffff));
  echo.un.echo.sequence = htons(1);
  echo.checksum = internet_checksum(&echo, sizeof echo);

  std::vector<std::uint32_t> reached;
  const auto answered = [&](std::uint32_t a) { return std::find(reached.begin(), reached.end(), a) != reached.end(); };
  for (Millis next_send = 0; reached.size() < addresses.size();) {
    const Millis now = monotonic_ms();
    if (now >= deadline) break;
    if (now >= next_send) {
      next_send = now + 200;
      for (std::uint32_t address : addresses) {
        const sockaddr_in to = ipv4(address);
        if (!answered(address))
          ::sendto(raw.get(), &echo, sizeof echo, 0, reinterpret_cast<const sockaddr*>(&to), sizeof to);
      }
    }
    pollfd wait{raw.get(), POLLIN, 0};
    ::poll(&wait, 1, static_cast<int>(std::min(next_send, deadline) - now));
    unsigned char packet[1500];
    sockaddr_in from{};
    socklen_t length = sizeof from;
    for (ssize_t n;
         (n = ::recvfrom(raw.get(), packet, sizeof packet, 0, reinterpret_cast<sockaddr*>(&from), &length)) > 0;) {
      const std::size_t header = static_cast<std::size_t>(packet[0] & 0xf) * 4;
      if (static_cast<std::size_t>(n) < header + sizeof(icmphdr) || packet[header] != ICMP_ECHOREPLY) continue;
      const std::uint32_t address = ntohl(from.sin_addr.s_addr);
      if (std::find(addresses.begin(), addresses.end(), address) != addresses.end() && !answered(address))
        reached.push_back(address);
    }
  }
  return reached;
}

}  // namespace stillpoint::agent
