// The agent's rules, without a VM.
#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/tcp.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "common/fd.h"
#include "mpi-hooks/agent/checks/check.h"
#include "mpi-hooks/agent/files.h"
#include "mpi-hooks/agent/hold.h"
#include "mpi-hooks/agent/host_link.h"
#include "mpi-hooks/agent/lease.h"
#include "mpi-hooks/agent/mpirun.h"
#include "mpi-hooks/agent/network.h"
#include "mpi-hooks/agent/output_buffer.h"
#include "mpi-hooks/agent/paths.h"
#include "mpi-hooks/agent/sockets.h"

using namespace stillpoint;
using namespace stillpoint::agent;

TEST_CASE("paths that leave the work directory are refused") {
  for (const char* good : {"a", "a/b", "in.melt", "..a", "a..", "a b"}) CHECK(is_plain_relative_path(good));
  for (const char* bad : {"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", "a/.."})
    CHECK_FALSE(is_plain_relative_path(bad));
  CHECK_FALSE(is_plain_relative_path(std::string("a\0b", 3)));
  CHECK_FALSE(is_plain_relative_path(std::string(300, 'x')));
}

TEST_CASE("a hold that nobody extends runs out, and its epoch is lost for good") {
  Hold hold;
  CHECK_FALSE(hold.begin(5, 1000, 0).has_value());
  CHECK(hold.deadline() == 1000);
  CHECK_FALSE(hold.require(5, 400).has_value());
  CHECK(hold.deadline() == 1400);
  CHECK(hold.lets_go(std::nullopt, 1400));
  hold.lost();
  CHECK_FALSE(hold.held());
  CHECK_FALSE(hold.release(5));
  REQUIRE(hold.require(5, 1500).has_value());
  CHECK(hold.require(5, 1500)->cause().find("EPOCH_LOST") == 0);
  CHECK(hold.begin(5, 1000, 1500)->cause().find("EPOCH_LOST") == 0);
  CHECK_FALSE(hold.begin(6, 1000, 1500).has_value());
}

TEST_CASE("an order that comes behind a later one of its epoch is refused; what has no number passes") {
  Hold hold;
  CHECK_FALSE(hold.overtaken(5, 1).has_value());
  CHECK_FALSE(hold.begin(5, 1000, 0).has_value());
  CHECK_FALSE(hold.overtaken(5, 2).has_value());
  CHECK_FALSE(hold.overtaken(5, 2).has_value());  // the same one again
  CHECK_FALSE(hold.overtaken(5, 4).has_value());
  REQUIRE(hold.overtaken(5, 3).has_value());
  CHECK(hold.overtaken(5, 3)->cause() == "step 3 of this epoch comes behind step 4");
  CHECK_FALSE(hold.overtaken(5, 0).has_value());
  CHECK_FALSE(hold.overtaken(4, 9).has_value());
  CHECK(hold.overtaken(5, 3).has_value());
  CHECK_FALSE(hold.overtaken(6, 1).has_value());
  CHECK_FALSE(hold.overtaken(0, 0).has_value());  // of no epoch
}

TEST_CASE("what runs beyond the host's lease stands still, and a moment later the guest ends") {
  Lease lease;
  CHECK(lease.deadline(false) == kNever);
  CHECK(lease.due(false, 1'000'000) == Lease::Due::nothing);  // no word was ever said
  CHECK_FALSE(lease.word(10'000, 0));
  CHECK_FALSE(lease.word(10'000, 500));
  CHECK_FALSE(lease.word(0, 800));  // says nothing
  CHECK(lease.deadline(false) == 10'500);
  CHECK(lease.due(false, 10'499) == Lease::Due::nothing);
  CHECK(lease.due(false, 10'500) == Lease::Due::stand_still);
  CHECK(lease.ended());
  CHECK(lease.deadline(false) == 10'500 + kLeaseGrace);
  CHECK(lease.due(false, 10'500 + kLeaseGrace - 1) == Lease::Due::nothing);
  CHECK(lease.due(false, 10'500 + kLeaseGrace) == Lease::Due::power_off);
}

TEST_CASE("a word that was late has the job go on; a shorter one counts, too") {
  Lease lease;
  lease.word(1'000, 0);
  REQUIRE(lease.due(false, 1'000) == Lease::Due::stand_still);
  CHECK(lease.word(9'000, 1'200));
  CHECK_FALSE(lease.ended());
  CHECK(lease.due(false, 4'500) == Lease::Due::nothing);
  CHECK_FALSE(lease.word(100, 5'000));  // of a daemon that has not heard its coordinator for long
  CHECK(lease.due(false, 5'100) == Lease::Due::stand_still);
}

TEST_CASE("what is frozen for a checkpoint is left alone, however long that takes") {
  Lease lease;
  lease.word(1'000, 0);
  CHECK(lease.deadline(true) == kNever);
  CHECK(lease.due(true, 900'000) == Lease::Due::nothing);
  CHECK_FALSE(lease.ended());
  // It would go on by itself, or was told to by a daemon that says nothing of a lease.
  CHECK(lease.due(false, 900'000) == Lease::Due::stand_still);
}

TEST_CASE(
    "only a heartbeat begins a lease; what is said beside other things prolongs it, and a late word is asked for") {
  Lease lease;
  CHECK_FALSE(lease.prolong(10'000, 0));  // of a daemon that does not know that it is watched
  CHECK(lease.deadline(false) == kNever);
  CHECK(lease.asks_at() == kNever);
  lease.word(10'000, 0);
  CHECK(lease.asks_at() == 5'000);
  lease.prolong(8'000, 1'000);
  CHECK(lease.deadline(false) == 9'000);
  CHECK(lease.asks_at() == 5'000);
  REQUIRE(lease.due(false, 9'000) == Lease::Due::stand_still);
  CHECK(lease.prolong(4'000, 9'500));
  CHECK_FALSE(lease.ended());
  lease.forget();
  CHECK(lease.asks_at() == kNever);
  lease.prolong(10'000, 10'000);
  CHECK(lease.deadline(false) == kNever);
}

TEST_CASE("a restored guest has no lease until its own daemon's first word") {
  Lease lease;
  lease.word(1'000, 0);
  CHECK_FALSE(lease.forget());
  CHECK(lease.due(false, 50'000) == Lease::Due::nothing);
  lease.word(1'000, 50'000);
  REQUIRE(lease.due(false, 51'000) == Lease::Due::stand_still);
  CHECK(lease.forget());  // it stood still
  CHECK(lease.due(false, 99'000) == Lease::Due::nothing);
}

TEST_CASE("a release says whether the cut stood, and says it again when asked again") {
  Hold hold;
  CHECK_FALSE(hold.release(7));
  REQUIRE_FALSE(hold.begin(7, 1000, 0).has_value());
  CHECK(hold.release(7));
  CHECK_FALSE(hold.held());
  CHECK(hold.release(7));
  CHECK_FALSE(hold.release(6));
  CHECK(hold.begin(7, 1000, 10).has_value());  // a duplicate of the CloseGates that came late
}

TEST_CASE("a newer epoch takes over, and the older one is lost") {
  Hold hold;
  REQUIRE_FALSE(hold.begin(3, 1000, 0).has_value());
  REQUIRE_FALSE(hold.begin(4, 1000, 10).has_value());
  CHECK_FALSE(hold.release(3));
  CHECK(hold.held());
  CHECK(hold.require(3, 20)->cause().find("EPOCH_LOST") == 0);
  CHECK(hold.begin(3, 1000, 20).has_value());
  CHECK(hold.release(4));
}

TEST_CASE("a frozen guest lets go by itself only when it is surely not a restored one") {
  Hold hold;
  REQUIRE_FALSE(hold.begin(1, 1000, 0).has_value());
  hold.froze(100);
  SUBCASE("the same machine") { CHECK(hold.lets_go(101, 1000)); }
  SUBCASE("the host's clock ran on while the state lay in an image") { CHECK_FALSE(hold.lets_go(160, 1000)); }
  SUBCASE("the clock chip cannot be read") { CHECK_FALSE(hold.lets_go(std::nullopt, 1000)); }
  SUBCASE("a daemon has opened the link anew") {
    hold.link_opened();
    CHECK_FALSE(hold.lets_go(100, 1000));
  }
  SUBCASE("thawed for another drain, it may go") {
    hold.thawed();
    CHECK(hold.lets_go(500, 1000));
  }
  CHECK(hold.held());
}

TEST_CASE("output is sent in order, kept until acknowledged, and sent again") {
  OutputBuffer out;
  out.append("hello ");
  out.append("world");
  auto piece = out.next(0);
  REQUIRE(piece.has_value());
  CHECK(piece->offset() == 0);
  CHECK(piece->data() == "hello world");
  CHECK_FALSE(out.next(1).has_value());
  out.acked(6, 2);
  CHECK(out.deadline() == 2 + OutputBuffer::kSendAgainAfter);
  piece = out.next(out.deadline());
  REQUIRE(piece.has_value());
  CHECK(piece->offset() == 6);
  CHECK(piece->data() == "world");
  out.send_again();
  CHECK(out.next(5000)->offset() == 6);
  out.append("!");
  out.acked(12, 5001);  // of an incarnation that had written more: this one has not sent the last byte
  CHECK_FALSE(out.all_sent());
  CHECK(out.next(5001)->data() == "!");
  out.acked(12, 5002);
  CHECK(out.produced() == 12);
  CHECK(out.all_sent());
  CHECK(out.deadline() == kNever);
}

TEST_CASE("output has a bound and a window") {
  OutputBuffer out;
  out.append(std::string(OutputBuffer::kMaxKept, 'x'));
  CHECK(out.room() == 0);
  std::size_t sent = 0;
  while (auto piece = out.next(0)) sent += piece->data().size();
  CHECK(sent == OutputBuffer::kWindow);
  out.acked(sent, 1);
  CHECK(out.room() == sent);
  CHECK(out.next(1).has_value());
}

namespace {

std::string socket_message(const char* from, std::uint16_t from_port, const char* to, std::uint16_t to_port,
                           std::uint64_t acked, unsigned char family = AF_INET) {
  nlmsghdr header{};
  inet_diag_msg diag{};
  rtattr attribute{};
  tcp_info info{};
  header.nlmsg_len = sizeof header + sizeof diag + sizeof attribute + sizeof info;
  header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  diag.idiag_family = family;
  diag.idiag_state = 1;
  diag.idiag_wqueue = 17;
  inet_pton(family, from, diag.id.idiag_src);
  inet_pton(family, to, diag.id.idiag_dst);
  diag.id.idiag_sport = htons(from_port);
  diag.id.idiag_dport = htons(to_port);
  attribute.rta_type = INET_DIAG_INFO;
  attribute.rta_len = sizeof attribute + sizeof info;
  info.tcpi_bytes_acked = acked;
  std::string message;
  const auto append = [&](const auto& part) { message.append(reinterpret_cast<const char*>(&part), sizeof part); };
  append(header);
  append(diag);
  append(attribute);
  append(info);
  message.resize((message.size() + 3) & ~std::size_t{3});
  return message;
}

}  // namespace

TEST_CASE("a socket dump gives the figures of the gang's connections alone") {
  const AddressSet gang{0x0a630001, 0x0a630002};
  std::string dump = socket_message("10.99.0.1", 1000, "10.99.0.2", 2000, 42) +
                     socket_message("10.99.0.1", 1, "10.0.0.9", 2, 1) +
                     socket_message("10.99.0.1", 7, "10.99.0.1", 8, 1);
  std::vector<wire::SocketFigures> sockets;
  bool end = false;
  std::string foreign;
  REQUIRE(parse_socket_dump(dump, gang, sockets, end, foreign));
  CHECK_FALSE(end);
  REQUIRE(sockets.size() == 1);
  CHECK(sockets[0].local_ip() == 0x0a630001);
  CHECK(sockets[0].remote_port() == 2000);
  CHECK(sockets[0].bytes_acked() == 42);
  CHECK(in_flight(sockets[0]) == 17);

  nlmsghdr done{};
  done.nlmsg_len = sizeof done;
  done.nlmsg_type = NLMSG_DONE;
  CHECK(parse_socket_dump({reinterpret_cast<const char*>(&done), sizeof done}, gang, sockets, end, foreign));
  CHECK(end);
  for (std::size_t cut = 1; cut < dump.size(); cut += 3) {
    bool ended = false;
    std::vector<wire::SocketFigures> some;
    if (cut % (dump.size() / 3) != 0)
      CHECK_FALSE(parse_socket_dump(std::string_view(dump).substr(0, cut), gang, some, ended, foreign));
  }
}

TEST_CASE("connections of IPv6 sockets count where they run over IPv4, and are a problem where they do not") {
  const AddressSet gang{0x0a630001, 0x0a630002};
  std::vector<wire::SocketFigures> sockets;
  bool end = false;
  std::string foreign;
  REQUIRE(parse_socket_dump(socket_message("::ffff:10.99.0.1", 1000, "::ffff:10.99.0.2", 2000, 42, AF_INET6) +
                                socket_message("::ffff:10.99.0.1", 1, "::ffff:10.0.0.9", 2, 1, AF_INET6) +
                                socket_message("::1", 1, "::1", 2, 1, AF_INET6),
                            gang, sockets, end, foreign));
  REQUIRE(sockets.size() == 1);
  CHECK(sockets[0].local_ip() == 0x0a630001);
  CHECK(sockets[0].remote_ip() == 0x0a630002);
  CHECK(foreign.empty());
  REQUIRE(
      parse_socket_dump(socket_message("fe80::1", 1000, "fe80::2", 2000, 42, AF_INET6), gang, sockets, end, foreign));
  CHECK(sockets.size() == 1);
  CHECK(foreign == "[fe80::1]:1000 - [fe80::2]:2000");
}

TEST_CASE("the kernel's figures of a connection have both its ends, also where one end is an IPv6 socket") {
  const int listener = ::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
  REQUIRE_MESSAGE(listener >= 0, std::strerror(errno));
  const int no = 0;
  ::setsockopt(listener, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof no);
  sockaddr_in6 any{};
  any.sin6_family = AF_INET6;
  REQUIRE(::bind(listener, reinterpret_cast<sockaddr*>(&any), sizeof any) == 0);
  REQUIRE(::listen(listener, 1) == 0);
  socklen_t size = sizeof any;
  REQUIRE(::getsockname(listener, reinterpret_cast<sockaddr*>(&any), &size) == 0);
  const int client = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in from{}, to{};
  from.sin_family = to.sin_family = AF_INET;
  from.sin_addr.s_addr = htonl(0x7f000301);
  to.sin_addr.s_addr = htonl(0x7f000302);
  to.sin_port = any.sin6_port;
  REQUIRE(::bind(client, reinterpret_cast<sockaddr*>(&from), sizeof from) == 0);
  REQUIRE(::connect(client, reinterpret_cast<sockaddr*>(&to), sizeof to) == 0);
  const int server = ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
  REQUIRE(::write(client, "hello", 5) == 5);
  char got[5];
  REQUIRE(::recv(server, got, sizeof got, MSG_WAITALL) == 5);

  auto sockets = gang_sockets({0x7f000301, 0x7f000302});
  REQUIRE_MESSAGE(sockets.ok(), sockets.failure().cause());
  REQUIRE(sockets.value().size() == 2);
  CHECK(sockets.value()[0].local_ip() == 0x7f000301);
  CHECK(sockets.value()[0].bytes_acked() >= 5);
  CHECK(sockets.value()[1].local_ip() == 0x7f000302);
  CHECK(sockets.value()[1].bytes_received() == 5);
  for (const int fd : {listener, client, server}) ::close(fd);
}

TEST_CASE("of the sockets, those whose other end is out of the gang are found, with their owner's inode") {
  const AddressSet gang{0x0a630001, 0x0a630002};
  const std::string dump = socket_message("10.99.0.1", 1000, "10.99.0.2", 2000, 42) +
                           socket_message("10.99.0.1", 5000, "192.0.2.1", 443, 1) +
                           socket_message("127.0.0.1", 7, "127.0.0.1", 8, 1) +  // within the guest
                           socket_message("0.0.0.0", 68, "0.0.0.0", 0, 1);      // not connected
  OutsideSockets found;
  bool end = false;
  REQUIRE(parse_outside(dump, gang, "TCP", found, end));
  REQUIRE(found.size() == 1);
  CHECK(found.begin()->second == "TCP 10.99.0.1:5000 -> 192.0.2.1:443");
}

TEST_CASE("this very process, as the kernel shows it") {
  const Fd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const Proc proc;
  const auto open = proc.open_files(::getpid());
  CHECK(std::find(open.begin(), open.end(), "/dev/null") != open.end());
  CHECK_FALSE(proc.mapped_files(::getpid()).empty());
  CHECK(proc.state(::getpid()) == 'R');
  const OutsideSockets outside;
  CHECK_FALSE(examine({proc, ::getpid(), false, "", proc.mapped_files(::getpid()), open, outside}).has_value());
}

TEST_CASE("an answer that the host would not read is a failure that says so") {
  wire::GuestReply reply;
  reply.set_id(7);
  reply.mutable_file()->set_data(std::string(1'000'000, 'x'));
  refuse_too_large(reply);
  CHECK(reply.file().data().size() == 1'000'000);
  reply.mutable_file()->set_data(std::string(1'050'000, 'x'));
  refuse_too_large(reply);
  CHECK(reply.id() == 7);
  CHECK(reply.failure().cause().find("1050") != std::string::npos);
}

TEST_CASE("mpirun's command line pins what quiescing rests on and keeps the user's values whole") {
  wire::StartJob job;
  job.add_command("heat");
  job.add_command("--size=3");
  job.add_ranks_per_guest(2);
  job.add_ranks_per_guest(0);
  job.add_ranks_per_guest(1);
  (*job.mutable_env())["A"] = "x;y,z=1";
  (*job.mutable_env())["LD_PRELOAD"] = "/lib/own.so";
  MpirunInputs inputs{&job, {"guest-0", "guest-1", "guest-2"}, "/job", 1, true};
  auto argv = mpirun_command(inputs);
  REQUIRE(argv.ok());
  std::string line;
  for (const std::string& word : argv.value()) line += word + " ";
  for (const char* part : {"--with-ft ulfm", "--mca pml ob1", "--mca btl self,sm,tcp", "--mca osc ^ucx",
                           "btl_tcp_if_include eth0", "--host guest-0:2,guest-2:1 -n 3", "mpi_yield_when_idle 1",
                           "-x A ", "plm_ssh_agent /run/stillpoint/stillpoint-launch",
                           "-x LD_PRELOAD=/run/stillpoint/libstillpoint-mpi.so:/lib/own.so heat --size=3 "})
    CHECK_MESSAGE(line.find(part) != line.npos, line);
  const auto env = job_environment("/job", &job, true);
  CHECK(env.at("A") == "x;y,z=1");
  CHECK(env.at("LD_PRELOAD") == "/run/stillpoint/libstillpoint-mpi.so");  // and not the manifest's
  CHECK_FALSE(job_environment("/job", &job, false).contains("LD_PRELOAD"));

  (*job.mutable_env())["A=B"] = "c";
  CHECK_FALSE(mpirun_command(inputs).ok());
  job.clear_env();
  job.clear_ranks_per_guest();
  CHECK_FALSE(mpirun_command(inputs).ok());
}

TEST_CASE("a gang's names and addresses") {
  CHECK(parse_ipv4("10.99.0.1") == 0x0a630001u);
  CHECK_FALSE(parse_ipv4("10.99.0").has_value());
  CHECK(parse_mac("52:54:00:01:02:ff") == std::string("\x52\x54\x00\x01\x02\xff", 6));
  CHECK_FALSE(parse_mac("52:54:00:01:02").has_value());
  CHECK_FALSE(parse_mac("52:54:00:01:02:03:04").has_value());
  wire::Neighbour one;
  one.set_name("guest-0");
  one.set_ip("10.99.0.1");
  CHECK(hosts_file({one}) == "127.0.0.1 localhost\n10.99.0.1 guest-0\n");
}

TEST_CASE("files arrive in pieces, appear whole, and never outside of the work directory") {
  std::string directory = (std::filesystem::temp_directory_path() / "stillpoint-agent-XXXXXX").string();
  REQUIRE(::mkdtemp(directory.data()) != nullptr);
  const auto put = [&](const char* path, std::uint64_t offset, const char* data, bool last) {
    wire::PutFile piece;
    piece.set_path(path);
    piece.set_mode(0750);
    piece.set_offset(offset);
    piece.set_data(data);
    piece.set_last(last);
    return put_file(directory, piece);
  };
  const auto read = [&](const char* path) {
    wire::ReadFile request;
    request.set_path(path);
    request.set_length(100);
    return read_file_piece(directory, request);
  };
  CHECK(put("sub/a", 0, "hello ", false).ok());
  CHECK_FALSE(read("sub/a").ok());
  CHECK(put("sub/a", 6, "world", true).ok());
  CHECK(put("sub/a", 6, "world", true).ok());       // the reply was lost
  CHECK_FALSE(put("sub/b", 3, "late", true).ok());  // a gap
  auto piece = read("sub/a");
  REQUIRE(piece.ok());
  CHECK(piece.value().data() == "hello world");
  CHECK(piece.value().end());
  CHECK(piece.value().mode() == 0750);
  CHECK_FALSE(put("../a", 0, "x", true).ok());
  CHECK_FALSE(read("/etc/passwd").ok());
  std::filesystem::create_symlink("/etc", directory + "/out");
  CHECK_FALSE(read("out/passwd").ok());
  CHECK_FALSE(put("out/stillpoint-must-not-exist", 0, "x", true).ok());
  REQUIRE(::mkfifo((directory + "/fifo").c_str(), 0600) == 0);
  CHECK_FALSE(read("fifo").ok());
  CHECK(read("missing").failure().kind() == wire::Failure::NOT_FOUND);
  std::filesystem::remove_all(directory);
}
