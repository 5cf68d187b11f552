#include "mpi-hooks/agent/acknowledgements.h"

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fd.h"

using namespace stillpoint;
using namespace stillpoint::agent;

namespace {

struct Connection {
  Fd sender, receiver;

  Connection() {
    const Fd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    socklen_t size = sizeof address;
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    auto* const any = reinterpret_cast<sockaddr*>(&address);
    REQUIRE(::bind(listener.get(), any, size) == 0);
    REQUIRE(::listen(listener.get(), 1) == 0);
    REQUIRE(::getsockname(listener.get(), any, &size) == 0);
    sender.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const int on = 1;
    REQUIRE(::setsockopt(sender.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0);
    REQUIRE(::connect(sender.get(), any, size) == 0);
    receiver.reset(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    REQUIRE(receiver);
  }

  // A byte that the receiver reads, as one that is about to answer: the kernel waits for the answer.
  void pass_byte() {
    send_byte();
    read_byte();
  }
  void send_byte() {
    const int off = 0;
    REQUIRE(::setsockopt(receiver.get(), IPPROTO_TCP, TCP_QUICKACK, &off, sizeof off) == 0);
    REQUIRE(::send(sender.get(), "x", 1, 0) == 1);
    char byte = 0;
    REQUIRE(::recv(receiver.get(), &byte, 1, MSG_PEEK) == 1);  // it is there
    ++passed;
    ++unread;
  }
  void read_byte() {
    char byte = 0;
    REQUIRE(::recv(receiver.get(), &byte, 1, 0) == 1);
    --unread;
  }

  unsigned unacknowledged() const {
    tcp_info info{};
    socklen_t size = sizeof info;
    REQUIRE(::getsockopt(sender.get(), IPPROTO_TCP, TCP_INFO, &info, &size) == 0);
    return info.tcpi_unacked;
  }

  wire::SocketFigures figures() const {
    struct stat status {};
    REQUIRE(::fstat(receiver.get(), &status) == 0);
    wire::SocketFigures one;
    one.set_inode(status.st_ino);
    one.set_bytes_received(passed);
    one.set_receive_queue(unread);
    return one;
  }

  unsigned passed = 0, unread = 0;
};

}  // namespace

TEST_CASE("an acknowledgement that the kernel holds back is sent at once") {
  Connection connection;
  SocketOwners owners;
  Acknowledgements acknowledgements(owners);
  unsigned held_back = 0;
  for (int i = 0; i < 200 && held_back < 3; ++i) {
    connection.pass_byte();
    const bool waits =
        connection.unacknowledged() != 0;  // not when this thread was away for as long as the kernel waits
    acknowledgements.send_now({connection.figures()}, {::getpid()});
    CHECK(connection.unacknowledged() == 0);
    held_back += waits ? 1 : 0;
  }
  CHECK(held_back == 3);
}

TEST_CASE("what was not read at the first look is acknowledged at a later one") {
  Connection connection;
  SocketOwners owners;
  Acknowledgements acknowledgements(owners);
  unsigned held_back = 0;
  for (int i = 0; i < 200 && held_back < 3; ++i) {
    connection.send_byte();
    acknowledgements.send_now({connection.figures()}, {::getpid()});
    connection.read_byte();
    const bool waits = connection.unacknowledged() != 0;
    acknowledgements.send_now({connection.figures()}, {::getpid()});
    CHECK(connection.unacknowledged() == 0);
    held_back += waits ? 1 : 0;
  }
  CHECK(held_back == 3);
}

TEST_CASE("a descriptor that has become another file is left alone, and so is a process that is gone") {
  Connection connection;
  SocketOwners owners;
  Acknowledgements acknowledgements(owners);
  const wire::SocketFigures figures = connection.figures();
  REQUIRE(owners.owner(figures.inode(), {::getpid()}).fd == connection.receiver.get());
  // The number of the closed descriptor goes to another connection's socket.
  Connection other;
  const int number = connection.receiver.get();
  REQUIRE(::dup3(other.receiver.get(), number, O_CLOEXEC) == number);
  const int off = 0;
  REQUIRE(::setsockopt(number, IPPROTO_TCP, TCP_QUICKACK, &off, sizeof off) == 0);
  acknowledgements.send_now({figures}, {::getpid()});
  int quick = -1;
  socklen_t size = sizeof quick;
  REQUIRE(::getsockopt(number, IPPROTO_TCP, TCP_QUICKACK, &quick, &size) == 0);
  CHECK(quick == 0);
  owners.forget();
  acknowledgements.forget();
  acknowledgements.send_now({figures}, {});
  CHECK(owners.owner(figures.inode(), {}).pid == 0);
}
