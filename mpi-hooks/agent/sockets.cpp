#include "mpi-hooks/agent/sockets.h"

#include <arpa/inet.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "common/fd.h"

namespace stillpoint::agent {
namespace {

// The states of the kernel's net/tcp_states.h, which it does not export.
constexpr unsigned kTimeWait = 6, kClose = 7, kListen = 10;
constexpr std::uint32_t kWantedStates = 0xfff & ~(1u << kTimeWait | 1u << kClose | 1u << kListen);

constexpr std::size_t align4(std::size_t n) { return (n + 3) & ~std::size_t{3}; }

void read_tcp_info(std::string_view attribute, wire::SocketFigures& figures) {
  tcp_info info{};
  std::memcpy(&info, attribute.data(), std::min(attribute.size(), sizeof info));
  figures.set_bytes_acked(info.tcpi_bytes_acked);
  figures.set_bytes_received(info.tcpi_bytes_received);
  figures.set_unacked(info.tcpi_unacked);
  figures.set_notsent(info.tcpi_notsent_bytes);
}

// The IPv4 address in host byte order, mapped into IPv6 or not; nothing where it is none.
std::optional<std::uint32_t> ipv4_of(unsigned char family, const __be32 (&address)[4]) {
  if (family == AF_INET) return ntohl(address[0]);
  const bool mapped = address[0] == 0 && address[1] == 0 && address[2] == htonl(0xffff);
  if (mapped) return ntohl(address[3]);
  return std::nullopt;
}

std::string ipv6_end(const __be32 (&address)[4], std::uint16_t port) {
  char text[INET6_ADDRSTRLEN] = "";
  ::inet_ntop(AF_INET6, address, text, sizeof text);
  return "[" + std::string(text) + "]:" + std::to_string(port);
}

void parse_socket(std::string_view message, const AddressSet& gang, std::vector<wire::SocketFigures>& sockets,
                  std::string& foreign) {
  inet_diag_msg diag{};
  if (message.size() < sizeof diag) return;
  std::memcpy(&diag, message.data(), sizeof diag);
  const auto local = ipv4_of(diag.idiag_family, diag.id.idiag_src);
  const auto remote = ipv4_of(diag.idiag_family, diag.id.idiag_dst);
  if (!local || !remote) {
    if (std::memcmp(diag.id.idiag_src, diag.id.idiag_dst, sizeof diag.id.idiag_src) != 0)
      foreign = ipv6_end(diag.id.idiag_src, ntohs(diag.id.idiag_sport)) + " - " +
                ipv6_end(diag.id.idiag_dst, ntohs(diag.id.idiag_dport));
    return;
  }
  wire::SocketFigures figures;
  figures.set_local_ip(*local);
  figures.set_remote_ip(*remote);
  if (!gang.contains(figures.local_ip()) || !gang.contains(figures.remote_ip())) return;
  if (figures.local_ip() == figures.remote_ip()) return;  // both ends are in this guest's own memory
  figures.set_local_port(ntohs(diag.id.idiag_sport));
  figures.set_remote_port(ntohs(diag.id.idiag_dport));
  figures.set_state(diag.idiag_state);
  figures.set_inode(diag.idiag_inode);
  figures.set_receive_queue(diag.idiag_rqueue);
  figures.set_send_queue(diag.idiag_wqueue);
  message.remove_prefix(sizeof diag);
  while (message.size() >= sizeof(rtattr)) {
    rtattr attribute{};
    std::memcpy(&attribute, message.data(), sizeof attribute);
    if (attribute.rta_len < sizeof attribute || attribute.rta_len > message.size()) break;
    if (attribute.rta_type == INET_DIAG_INFO)
      read_tcp_info(message.substr(sizeof attribute, attribute.rta_len - sizeof attribute), figures);
    message.remove_prefix(std::min(message.size(), align4(attribute.rta_len)));
  }
  sockets.push_back(std::move(figures));
}

}  // namespace

namespace {

// Each socket's message of a dump; false where the datagram is malformed or carries an error.
template <class Each>
bool walk_dump(std::string_view datagram, bool& end, Each each) {
  while (datagram.size() >= sizeof(nlmsghdr)) {
    nlmsghdr header{};
    std::memcpy(&header, datagram.data(), sizeof header);
    if (header.nlmsg_len < sizeof header || header.nlmsg_len > datagram.size()) return false;
    if (header.nlmsg_type == NLMSG_ERROR) return false;
    if (header.nlmsg_type == NLMSG_DONE) {
      end = true;
      return true;
    }
    if (header.nlmsg_type == SOCK_DIAG_BY_FAMILY)
      each(datagram.substr(sizeof header, header.nlmsg_len - sizeof header));
    datagram.remove_prefix(std::min(datagram.size(), align4(header.nlmsg_len)));
  }
  return datagram.empty();
}

std::string address_text(std::uint8_t family, const void* address, std::uint16_t port) {
  char text[INET6_ADDRSTRLEN] = "?";
  ::inet_ntop(family, address, text, sizeof text);
  return std::string(text) + ":" + std::to_string(ntohs(port));
}

// Whether the other end of a socket is another machine than the gang's. Unconnected ones have none.
bool leaves_gang(const inet_diag_msg& diag, const AddressSet& gang) {
  const auto& remote = diag.id.idiag_dst;
  const auto ipv4 = ipv4_of(diag.idiag_family, remote);
  if (!ipv4) return !(remote[0] == 0 && remote[1] == 0 && remote[2] == 0 && ntohl(remote[3]) <= 1);  // :: and ::1
  return diag.id.idiag_dport != 0 && *ipv4 != 0 && *ipv4 >> 24 != 127 && !gang.contains(*ipv4);
}

}  // namespace

bool parse_socket_dump(std::string_view datagram, const AddressSet& gang, std::vector<wire::SocketFigures>& sockets,
                       bool& end, std::string& foreign) {
  return walk_dump(datagram, end, [&](std::string_view message) { parse_socket(message, gang, sockets, foreign); });
}

bool parse_outside(std::string_view datagram, const AddressSet& gang, const char* protocol, OutsideSockets& sockets,
                   bool& end) {
  return walk_dump(datagram, end, [&](std::string_view message) {
    inet_diag_msg diag{};
    if (message.size() < sizeof diag) return;
    std::memcpy(&diag, message.data(), sizeof diag);
    if (!leaves_gang(diag, gang)) return;
    sockets[diag.idiag_inode] = std::string(protocol) + " " +
                                address_text(diag.idiag_family, diag.id.idiag_src, diag.id.idiag_sport) + " -> " +
                                address_text(diag.idiag_family, diag.id.idiag_dst, diag.id.idiag_dport);
  });
}

namespace {

constexpr char kStep[] = "read the kernel's socket figures";

// Every datagram of a dump to take, which says false for one that makes no sense and sets end with the last.
template <class Take>
Done dump_sockets(std::uint8_t family, std::uint8_t protocol, std::uint32_t states, Take take) {
  const Fd link(::socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  if (!link) return errno_failure(kStep, "sock_diag");
  struct {
    nlmsghdr header;
    inet_diag_req_v2 request;
  } query{};
  query.header.nlmsg_len = sizeof query;
  query.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  query.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  query.request.sdiag_family = family;
  query.request.sdiag_protocol = protocol;
  query.request.idiag_ext = 1u << (INET_DIAG_INFO - 1);
  query.request.idiag_states = states;
  if (::send(link.get(), &query, sizeof query, 0) != static_cast<ssize_t>(sizeof query))
    return errno_failure(kStep, "sock_diag");
  std::string datagram(64u << 10, '\0');
  for (bool end = false; !end;) {
    const ssize_t n = ::recv(link.get(), datagram.data(), datagram.size(), 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return errno_failure(kStep, "sock_diag");
    if (!take(std::string_view(datagram).substr(0, static_cast<std::size_t>(n)), end))
      return failure(wire::Failure::PERMANENT, kStep, "sock_diag",
                     "the kernel's answer makes no sense; is the module tcp_diag loaded?");
  }
  return Nothing{};
}

}  // namespace

Outcome<std::vector<wire::SocketFigures>> gang_sockets(const AddressSet& gang) {
  std::vector<wire::SocketFigures> sockets;
  std::string foreign;
  for (const std::uint8_t family : {AF_INET, AF_INET6}) {
    auto done = dump_sockets(family, IPPROTO_TCP, kWantedStates, [&](std::string_view datagram, bool& end) {
      return parse_socket_dump(datagram, gang, sockets, end, foreign);
    });
    if (!done.ok()) return done.failure();
  }
  if (!foreign.empty())
    return failure(wire::Failure::NOT_QUIET, kStep, foreign,
                   "a connection over IPv6 leaves this guest, and only IPv4 is followed; let the program use IPv4");
  return sockets;
}

OutsideSockets outside_sockets(const AddressSet& gang) {
  OutsideSockets found;
  for (const std::uint8_t family : {AF_INET, AF_INET6})
    for (const std::uint8_t protocol : {IPPROTO_TCP, IPPROTO_UDP}) {
      // A kernel without udp_diag or IPv6 answers with an error: then there is less to see, and nothing to refuse.
      (void)dump_sockets(family, protocol, kWantedStates, [&](std::string_view datagram, bool& end) {
        return parse_outside(datagram, gang, protocol == IPPROTO_TCP ? "TCP" : "UDP", found, end);
      }).ok();
    }
  return found;
}

std::uint64_t in_flight(const wire::SocketFigures& socket) {
  const std::uint64_t bytes = std::max<std::uint64_t>(socket.send_queue(), socket.notsent());
  return bytes != 0 ? bytes : socket.unacked();
}

}  // namespace stillpoint::agent
