// The system calls of explored threads, as the machine's own: the program is linked with --wrap for each of them
// (CMakeLists.txt), so the product's sources call them by their names. Outside a history they are the real ones.
//
// A call is a full fence where the kernel makes it one for its own ends (futex, membarrier); a descriptor and a lock
// pass on what happened before, as ThreadSanitizer takes it too.
#pragma GCC diagnostic ignored "-Wunused-parameter"  // of calls that do nothing here

#include <errno.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cstring>
#include <deque>
#include <map>

#include "mpi-hooks/core/explore/explore.h"
#include "mpi-hooks/core/explore/machine.h"

namespace stillpoint::hooks::explore {
namespace {

constexpr int kFirstDescriptor = 1000;

struct Descriptor {
  enum class Kind { closed, bell, link } kind = Kind::closed;
  std::uint64_t count = 0;  // of a bell
  Sync sync;                // of a bell
};
// One helper has one link.
struct Link {
  bool listening = false, waiting = false, agent_there = false, helper_there = false;
  struct Packet {
    RankPacket packet;
    Sync sync;
  };
  std::deque<Packet> to_helper, to_agent;
};
struct Lock {
  bool held = false;
  unsigned holder = 0;
  Sync sync;
};

// Whose history is being run.
Machine& here() { return *Machine::running(); }

struct System {
  std::vector<Descriptor> descriptors;
  Link link;
  std::map<const void*, Lock> locks;
  std::map<const void*, unsigned> woken;  // how often the sleepers at this address have been woken
};
System the_system;

// The caller, in the machine and past a point where another may go on.
struct Caller {
  Caller(Machine& m, const char* what, const void* at, const void* code) : machine(m), inside(m) {
    machine.point();
    machine.memory.commit(me());
    machine.note(what, at, 0, code);
  }
  unsigned me() const noexcept { return machine.current(); }
  Machine& machine;
  Machine::Inside inside;
};

Descriptor& descriptor(int fd) {
  const auto index = static_cast<std::size_t>(fd - kFirstDescriptor);
  if (fd < kFirstDescriptor || index >= the_system.descriptors.size() ||
      the_system.descriptors[index].kind == Descriptor::Kind::closed)
    here().fail("a descriptor that is not open");
  return the_system.descriptors[index];
}

int open_descriptor(Descriptor::Kind kind) {
  the_system.descriptors.push_back({kind, 0, {}});
  return kFirstDescriptor + static_cast<int>(the_system.descriptors.size()) - 1;
}

bool readable(const Descriptor& that) {
  if (that.kind == Descriptor::Kind::bell) return that.count != 0;
  return !the_system.link.to_helper.empty() || !the_system.link.agent_there;
}

long futex(std::uint32_t* word, int operation, std::uint32_t value) {
  Memory& memory = here().memory;
  memory.fence(here().current());
  if (operation == FUTEX_WAKE_PRIVATE) {
    the_system.woken[word]++;
    return 0;
  }
  if (memory.newest(here().current(), word, sizeof *word, {}) != value) return errno = EAGAIN, -1;
  if (here().odd()) return errno = EINTR, -1;
  const unsigned before = the_system.woken[word];
  here().wait("a wake-up of a word", -1, [word, before] { return the_system.woken[word] != before; });
  memory.fence(here().current());
  return 0;
}

// The kernel interrupts one processor after the other.
long membarrier(long command) {
  if (command != MEMBARRIER_CMD_PRIVATE_EXPEDITED) return 0;
  Memory& memory = here().memory;
  memory.fence(here().current());
  for (unsigned thread = 0; thread < here().threads(); thread++) {
    if (thread == here().current()) continue;
    here().point();
    memory.fence(thread);
  }
  memory.fence(here().current());
  return 0;
}

}  // namespace

void reset_system() { the_system = System{}; }

Agent::Agent() { the_system.link.listening = true; }
Agent::~Agent() = default;

void Agent::accept() {
  Caller caller(*Machine::of_caller(), "accept", nullptr, __builtin_return_address(0));
  caller.machine.wait("a rank that connects", -1, [] { return the_system.link.waiting; });
  the_system.link.waiting = false;
}

void Agent::send(const RankPacket& packet) {
  Caller caller(*Machine::of_caller(), "command", nullptr, __builtin_return_address(0));
  Sync sync;
  caller.machine.memory.release(caller.me(), sync);
  the_system.link.to_helper.push_back({packet, sync});
}

void Agent::send(RankMessage message, std::uint64_t epoch) {
  RankPacket packet;
  packet.message = message;
  packet.epoch = epoch;
  send(packet);
}

RankPacket Agent::receive() {
  Caller caller(*Machine::of_caller(), "receive", nullptr, __builtin_return_address(0));
  Link& link = the_system.link;
  caller.machine.wait("a word of the rank's", -1, [&link] { return !link.to_agent.empty() || !link.helper_there; });
  if (link.to_agent.empty()) caller.machine.fail("the helper has hung up");
  const Link::Packet first = link.to_agent.front();
  link.to_agent.pop_front();
  caller.machine.memory.acquire(caller.me(), first.sync);
  caller.machine.note("received", nullptr, static_cast<std::uint64_t>(first.packet.message),
                      __builtin_return_address(0));
  return first.packet;
}

RankPacket Agent::await(RankMessage message) {
  for (;;)
    if (RankPacket packet = receive(); packet.message == message) return packet;
}

void Agent::hang_up() {
  Caller caller(*Machine::of_caller(), "hang up", nullptr, __builtin_return_address(0));
  the_system.link.agent_there = the_system.link.waiting = false;
}

void Agent::go_away() {
  hang_up();
  Caller caller(*Machine::of_caller(), "go away", nullptr, __builtin_return_address(0));
  the_system.link.listening = false;
}

}  // namespace stillpoint::hooks::explore

using namespace stillpoint::hooks;
using namespace stillpoint::hooks::explore;

// The linker has the program call __wrap_NAME, and the real function is __real_NAME. What follows the macro is what the
// call does in an explored thread.
#define WRAP(result, name, parameters, arguments)                         \
  static result explored_##name parameters;                               \
  extern "C" result __real_##name parameters;                             \
  extern "C" result __wrap_##name parameters;                             \
  result __wrap_##name parameters {                                       \
    Machine* machine = Machine::of_caller();                              \
    if (machine == nullptr) return __real_##name arguments;               \
    Caller caller(*machine, #name, nullptr, __builtin_return_address(0)); \
    return explored_##name arguments;                                     \
  }                                                                       \
  static result explored_##name parameters

extern "C" long __real_syscall(long number, long a, long b, long c, long d, long e, long f);
extern "C" long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f);
long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f) {
  Machine* machine = Machine::of_caller();
  if (machine == nullptr) return __real_syscall(number, a, b, c, d, e, f);
  Caller caller(*machine, number == SYS_futex ? "futex" : "barrier", reinterpret_cast<void*>(a),
                __builtin_return_address(0));
  if (number == SYS_membarrier) return membarrier(a);
  if (number != SYS_futex) caller.machine.fail("a system call that the exploring machine does not know");
  return futex(reinterpret_cast<std::uint32_t*>(a), static_cast<int>(b), static_cast<std::uint32_t>(c));
}

WRAP(int, pthread_mutex_lock, (pthread_mutex_t * mutex), (mutex)) {
  Lock& lock = the_system.locks[mutex];
  if (lock.held && lock.holder == here().current()) here().fail("a lock taken twice");
  while (lock.held) here().wait("a lock", -1, [&lock] { return !lock.held; });
  lock.held = true;
  lock.holder = here().current();
  here().memory.acquire(here().current(), lock.sync);
  return 0;
}

WRAP(int, pthread_mutex_unlock, (pthread_mutex_t * mutex), (mutex)) {
  Lock& lock = the_system.locks[mutex];
  if (!lock.held || lock.holder != here().current()) here().fail("a lock given back that is not held");
  lock.held = false;
  here().memory.release(here().current(), lock.sync);
  return 0;
}

WRAP(int, pthread_create, (pthread_t * thread, const pthread_attr_t* attributes, void* (*body)(void*), void* argument),
     (thread, attributes, body, argument)) {
  *thread = here().begin_thread("helper", [body, argument] { body(argument); });
  return 0;
}

WRAP(int, pthread_join, (pthread_t thread, void** result), (thread, result)) {
  here().wait_for_end(static_cast<unsigned>(thread));
  return 0;
}

WRAP(int, eventfd, (unsigned count, int flags), (count, flags)) { return open_descriptor(Descriptor::Kind::bell); }

WRAP(int, socket, (int domain, int type, int protocol), (domain, type, protocol)) {
  return open_descriptor(Descriptor::Kind::link);
}

WRAP(int, connect, (int fd, const sockaddr* address, socklen_t length), (fd, address, length)) {
  descriptor(fd);
  Link& link = the_system.link;
  if (!link.listening) return errno = ECONNREFUSED, -1;
  link.waiting = link.agent_there = link.helper_there = true;
  link.to_helper.clear();
  link.to_agent.clear();
  return 0;
}

WRAP(int, close, (int fd), (fd)) {
  Descriptor& that = descriptor(fd);
  if (that.kind == Descriptor::Kind::link) the_system.link.helper_there = false;
  that.kind = Descriptor::Kind::closed;
  return 0;
}

WRAP(ssize_t, write, (int fd, const void* from, size_t size), (fd, from, size)) {
  Descriptor& that = descriptor(fd);
  that.count++;
  here().memory.release(here().current(), that.sync);
  return static_cast<ssize_t>(size);
}

WRAP(ssize_t, read, (int fd, void* to, size_t size), (fd, to, size)) {
  Descriptor& that = descriptor(fd);
  if (that.count == 0) return errno = EAGAIN, -1;
  memcpy(to, &that.count, sizeof that.count);
  that.count = 0;
  here().memory.acquire(here().current(), that.sync);
  return static_cast<ssize_t>(size);
}

WRAP(ssize_t, recv, (int fd, void* to, size_t size, int flags), (fd, to, size, flags)) {
  descriptor(fd);
  Link& link = the_system.link;
  if (link.to_helper.empty()) return link.agent_there ? (errno = EAGAIN, -1) : 0;
  memcpy(to, &link.to_helper.front().packet, sizeof(RankPacket));
  here().memory.acquire(here().current(), link.to_helper.front().sync);
  link.to_helper.pop_front();
  return sizeof(RankPacket);
}

WRAP(ssize_t, send, (int fd, const void* from, size_t size, int flags), (fd, from, size, flags)) {
  descriptor(fd);
  Link& link = the_system.link;
  if (!link.agent_there) return errno = EPIPE, -1;
  Link::Packet packet;
  memcpy(&packet.packet, from, sizeof packet.packet);
  here().note("tells", nullptr, static_cast<std::uint64_t>(packet.packet.message), __builtin_return_address(0));
  here().memory.release(here().current(), packet.sync);
  link.to_agent.push_back(packet);
  return static_cast<ssize_t>(size);
}

WRAP(int, poll, (pollfd * fds, nfds_t count, int timeout_ms), (fds, count, timeout_ms)) {
  for (nfds_t i = 0; i < count; i++)
    if (fds[i].fd >= 0) descriptor(fds[i].fd);
  const auto any = [fds, count] {
    for (nfds_t i = 0; i < count; i++)
      if (fds[i].fd >= 0 && readable(the_system.descriptors[static_cast<std::size_t>(fds[i].fd - kFirstDescriptor)]))
        return true;
    return false;
  };
  const std::int64_t deadline_ns = timeout_ms < 0 ? -1 : here().now_ns() + timeout_ms * std::int64_t{1'000'000};
  return here().wait("a bell or a word", deadline_ns, any) ? 1 : 0;
}

WRAP(int, clock_gettime, (clockid_t clock, timespec* time), (clock, time)) {
  const std::int64_t now_ns = here().now_ns();
  *time = {now_ns / 1'000'000'000, now_ns % 1'000'000'000};
  return 0;
}

WRAP(int, sched_yield, (void), ()) { return 0; }

// Nothing here depends on these.
WRAP(int, setsockopt, (int fd, int level, int name, const void* value, socklen_t length),
     (fd, level, name, value, length)) {
  return 0;
}
WRAP(int, setpriority, (__priority_which_t which, id_t who, int priority), (which, who, priority)) { return 0; }
WRAP(int, pthread_sigmask, (int how, const sigset_t* set, sigset_t* before), (how, set, before)) { return 0; }
WRAP(int, pthread_setname_np, (pthread_t thread, const char* name), (thread, name)) { return 0; }
