#include "mpi-hooks/core/helper.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "mpi-hooks/core/futex.h"
#include "mpi-hooks/core/locked.h"

namespace stillpoint::hooks {
namespace {

constexpr int kTurnsPerBurst = 24;  // of progress, between two looks at the socket
constexpr int kTurnsPerYield = 16;
constexpr int kTurnsPerCount = 32;  // before an answer to count: what has arrived is taken up first
constexpr int kRestMs = 1;           // between bursts: the other ranks of the guest need the CPU to come to rest
constexpr int kNice = -10;
constexpr int kReconnectMs = 1000;
constexpr int kLookMs = 1000;      // at the threads, with the gate open: how exact "since when" is
constexpr int kAgentTimeoutS = 5;  // for connect and send: an agent that takes longer is lost

std::int64_t now_ns() noexcept {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<std::int64_t>(time.tv_sec) * 1'000'000'000 + time.tv_nsec;
}

}  // namespace

bool Helper::start(const char* socket_path) noexcept {
  Locked locked(start_lock_);
  if (started()) return true;
  socket_path_ = socket_path;
  if (!connect_agent()) return false;
  bell_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (bell_ < 0) {
    close(agent_.exchange(-1));
    return false;
  }
  gate_.prepare(bell_);
  // The thread must start with every signal blocked: the program's handlers belong to the program's threads.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const int failed = pthread_create(&thread_, nullptr, &Helper::thread_main, this);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (failed != 0) {
    close(agent_.exchange(-1));
    close(bell_);
    bell_ = -1;
    return false;
  }
  pthread_setname_np(thread_, "stillpoint");
  started_.store(true, std::memory_order_release);
  return true;
}

void Helper::stop() noexcept {
  if (!started()) return;
  stopping_.store(true);
  ring();
  pthread_join(thread_, nullptr);
  if (const int agent = agent_.exchange(-1); agent >= 0) close(agent);
  close(bell_);
  started_.store(false);
}

void Helper::initialized(const World& world) noexcept {
  if (phase_.load(std::memory_order_relaxed) == Phase::starting) world_ = world;
  multiple_.store(world.multiple, std::memory_order_relaxed);
  progress_.store(world.progress, std::memory_order_relaxed);
  phase_.store(Phase::running, std::memory_order_release);
  ring();
}

void Helper::keep_out() noexcept {
  while (in_mpi_.fetch_or(0, std::memory_order_acq_rel) != 0) futex_wait(in_mpi_, 1);
}

void Helper::finalizing() noexcept {
  phase_.store(Phase::finalizing, std::memory_order_release);
  keep_out();
  ring();
}

void Helper::finalized() noexcept {
  phase_.store(Phase::finalized, std::memory_order_release);
  ring();
}

void Helper::peer_failed(int rank) noexcept {
  int none = kNoFailure;
  failed_rank_.compare_exchange_strong(none, rank);
  ring();
}

void Helper::peer_killed(int rank) noexcept {
  int none = kNoFailure;
  killed_rank_.compare_exchange_strong(none, rank);
  ring();
}

void Helper::own_end(int exit_code) noexcept {
  if (!started()) return;
  exit_code_.store(exit_code);
  ring();
  constexpr int kLook = 50, kLooks = 20;
  for (int i = 0; i < kLooks && told_end_.load() == 0; i++) futex_wait_for(told_end_, 0, kLook);
}

void Helper::wish(RankWish kind) noexcept {
  wishes_.fetch_or(1u << static_cast<std::uint32_t>(kind));
  ring();
}

void Helper::forbid(Thread& thread, const Call& call, std::int64_t for_ns) noexcept {
  forbid_from_inside(for_ns);
  gate_.enter(thread, call);
  gate_.leave(thread);
}

void Helper::forbid_from_inside(std::int64_t for_ns) noexcept {
  const std::uint64_t wanted_us = static_cast<std::uint64_t>(now_ns() + for_ns) / 1000 + 1;
  std::uint64_t before = forbids_.load(std::memory_order_relaxed), after;
  do {
    const std::uint64_t number = before & kMostForbids, until_us = before >> kForbidsBits;
    if (number == kMostForbids) break;  // nobody means that: the deadline ends them all
    after = (number == 0 || until_us < wanted_us ? wanted_us : until_us) << kForbidsBits | (number + 1);
  } while (!forbids_.compare_exchange_weak(before, after, std::memory_order_relaxed));
}

void Helper::allow() noexcept {
  std::uint64_t before = forbids_.load(std::memory_order_relaxed);
  while ((before & kMostForbids) != 0 &&
         !forbids_.compare_exchange_weak(before, before - 1, std::memory_order_relaxed)) {}
  ring();
}

bool Helper::add_callbacks(const Callbacks& callbacks) noexcept {
  const std::uint32_t used = callbacks_used_.load(std::memory_order_relaxed);
  if (used == kMostCallbacks) return false;
  callbacks_[used] = callbacks;
  callbacks_used_.store(used + 1, std::memory_order_release);
  return true;
}

void Helper::forget_after_fork() noexcept {
  // Close the copy: the agent must see the rank's end even if the child lives on.
  if (const int agent = agent_.exchange(-1); agent >= 0) close(agent);
  if (bell_ >= 0) close(bell_);
  bell_ = -1;
}

void* Helper::thread_main(void* self) noexcept {
  static_cast<Helper*>(self)->run();
  return nullptr;
}

void Helper::run() noexcept {
  // It sleeps but for a checkpoint, and then ranks that spin in blocking calls must not keep it from answering. Where
  // raising the priority is not permitted the answers are slower, nothing else. Of this thread only (setpriority(2)).
  setpriority(PRIO_PROCESS, 0, kNice);
  greet();
  while (!stopping_.load()) {
    if (agent_ < 0 && connect_agent()) greet();
    read_mail();
    tell_news();
    if (gate_.is_shut()) pump(kTurnsPerBurst);
    wait();
  }
}

bool Helper::connect_agent() noexcept {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::size_t length = strlen(socket_path_);
  if (length >= sizeof address.sun_path) return false;
  memcpy(address.sun_path, socket_path_, length);
  const int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  const timeval patience{kAgentTimeoutS, 0};
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    close(fd);
    return false;
  }
  agent_ = fd;
  return true;
}

void Helper::lose_agent() noexcept {
  if (const int agent = agent_.exchange(-1); agent >= 0) close(agent);
  owes_closed_ = false;
  if (gate_.is_shut()) gate_.open();
  opened(0);
}

void Helper::greet() noexcept {
  said_ready_ = said_finalizing_ = said_finalized_ = said_failed_ = said_killed_ = false;
  send(RankMessage::hello);
}

void Helper::read_mail() noexcept {
  while (agent_ >= 0) {
    RankPacket packet;
    const ssize_t size = recv(agent_, &packet, sizeof packet, MSG_DONTWAIT | MSG_TRUNC);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
    // End of the stream, an error, or an agent of another build: there is nobody to obey.
    if (size != sizeof packet || packet.version != kRankLinkVersion) return lose_agent();
    handle(packet);
  }
}

void Helper::handle(const RankPacket& request) noexcept {
  switch (request.message) {
    case RankMessage::close:
      epoch_ = request.epoch;
      owes_closed_ = true;
      said_deferring_ = false;
      break;  // tell_news() goes on: closed, at once or when what has to finish first is over
    case RankMessage::welcome:
      if (incarnation_ == 0) incarnation_ = request.value;
      break;
    case RankMessage::count:
      epoch_ = request.epoch;
      pump(kTurnsPerCount);
      send(RankMessage::figures);
      break;
    case RankMessage::query:
      epoch_ = request.epoch;
      send(RankMessage::figures);
      break;
    case RankMessage::open:
      epoch_ = request.epoch;
      owes_closed_ = false;
      gate_.open();
      send(RankMessage::opened);
      opened(request.value);
      break;
    case RankMessage::hello:
    case RankMessage::ready:
    case RankMessage::closed:
    case RankMessage::figures:
    case RankMessage::opened:
    case RankMessage::finalizing:
    case RankMessage::finalized:
    case RankMessage::peer_failed:
    case RankMessage::peer_killed:
    case RankMessage::own_end:
    case RankMessage::deferring:
    case RankMessage::wish:
      lose_agent();  // a rank's own words: whoever is at the other end is no agent
      break;
  }
}

// What the agent has not been told yet. Each send may lose the agent; the next greeting starts afresh.
void Helper::tell_news() noexcept {
  if (agent_ < 0) return;
  const Phase phase = phase_.load(std::memory_order_acquire);
  if (phase == Phase::running && said_finalizing_)
    said_ready_ = said_finalizing_ = said_finalized_ = false;  // a session after the last one
  if (phase != Phase::starting && !said_ready_) {
    said_ready_ = true;
    send(RankMessage::ready);
  }
  if ((phase == Phase::finalizing || phase == Phase::finalized) && !said_finalizing_) {
    said_finalizing_ = true;
    send(RankMessage::finalizing);
  }
  if (phase == Phase::finalized && !said_finalized_) {
    said_finalized_ = true;
    send(RankMessage::finalized);
  }
  if (exit_code_.load() != kNoEnd && told_end_.load() == 0) {
    send(RankMessage::own_end);
    told_end_.store(1);
    futex_wake_all(told_end_);
  }
  if (killed_rank_.load() != kNoFailure && !said_killed_) {
    said_killed_ = true;
    send(RankMessage::peer_killed);
  }
  if (failed_rank_.load() != kNoFailure && !said_failed_) {
    said_failed_ = true;
    send(RankMessage::peer_failed);
  }
  if (const std::uint32_t wishes = wishes_.exchange(0); wishes != 0 && agent_ >= 0)
    for (std::uint32_t kind = 0; kind < 32; kind++) {
      if ((wishes & 1u << kind) == 0) continue;
      RankPacket packet = figures(RankMessage::wish);
      packet.value = kind;
      send(packet);
    }
  if (!owes_closed_) return;
  if (!gate_.is_shut()) try_to_shut();
  if (gate_.is_shut() && gate_.survey().in_defer == 0) {
    owes_closed_ = false;
    wanted_.store(false, std::memory_order_relaxed);
    stood_for_.store(epoch_, std::memory_order_relaxed);
    send(RankMessage::closed);
  } else if (!said_deferring_) {
    said_deferring_ = true;
    send(RankMessage::deferring);
  }
}

std::int64_t Helper::forbidden_until_us() const noexcept {
  const std::uint64_t forbids = forbids_.load(std::memory_order_relaxed);
  const auto until_us = static_cast<std::int64_t>(forbids >> kForbidsBits);
  return (forbids & kMostForbids) != 0 && now_ns() / 1000 < until_us ? until_us : 0;
}

void Helper::try_to_shut() noexcept {
  if (!forbidden()) {
    if (!called_before_) call_back(&Callbacks::before);
    called_before_ = true;
    gate_.shut();
    if (!forbidden()) return;
    gate_.open();
  }
  wanted_.store(true, std::memory_order_relaxed);
}

// The gate is open again. incarnation: the job's, 0 where it is not known.
void Helper::opened(std::uint32_t incarnation) noexcept {
  const bool restarted = incarnation > incarnation_ && incarnation_ != 0;
  if (incarnation != 0) incarnation_ = incarnation;
  if (restarted) restarts_.fetch_add(1, std::memory_order_relaxed);
  if (!called_before_) return;
  called_before_ = false;
  call_back(restarted ? &Callbacks::restarted : &Callbacks::after);
}

void Helper::call_back(void (*Callbacks::*which)(void*)) noexcept {
  const std::uint32_t used = callbacks_used_.load(std::memory_order_acquire);
  for (std::uint32_t i = 0; i < used; i++)
    if (callbacks_[i].*which != nullptr) (callbacks_[i].*which)(callbacks_[i].context);
}

bool Helper::pumping_allowed() noexcept {
  if (phase_.load(std::memory_order_acquire) != Phase::running || !gate_.is_shut()) return false;
  const Survey survey = gate_.survey();  // before the partitioned sends are looked at
  if (progress_.load(std::memory_order_relaxed) == nullptr || partitioned_.any_unready()) return false;
  if (!multiple_.load(std::memory_order_relaxed)) return !survey.inside();
  return survey.in_defer == 0 && (survey.in_gate == 0 || !partitioned_.any());
}

// True when it ran. Yields between turns: the ranks of a guest may share one CPU with the agent.
bool Helper::pump(int turns) noexcept {
  if (!pumping_allowed()) return false;
  in_mpi_.exchange(1, std::memory_order_acq_rel);
  const bool allowed = pumping_allowed();  // still: from here on whoever changes it waits
  const Progress progress = progress_.load(std::memory_order_relaxed);
  for (int turn = 0; allowed && turn < turns; turn++) {
    progress();
    if (turn % kTurnsPerYield == kTurnsPerYield - 1) sched_yield();
  }
  in_mpi_.store(0, std::memory_order_release);
  futex_wake_all(in_mpi_);
  return allowed;
}

int Helper::rest_ms() noexcept {
  if (pumping_allowed()) return kRestMs;
  if (agent_ < 0) return kReconnectMs;
  const std::int64_t now = now_ns();
  gate_.survey(now);
  const std::int64_t until_us = owes_closed_ ? forbidden_until_us() : 0;
  if (until_us == 0) return kLookMs;
  // Put off by a critical section: its deadline comes without a bell.
  const std::int64_t left_ms = (until_us - now / 1000) / 1000 + 1;
  return left_ms < 0 ? 0 : left_ms < kLookMs ? static_cast<int>(left_ms) : kLookMs;
}

void Helper::wait() noexcept {
  pollfd fds[2] = {{bell_, POLLIN, 0}, {agent_, POLLIN, 0}};  // a negative descriptor is passed over
  poll(fds, 2, rest_ms());
  std::uint64_t rung;
  [[maybe_unused]] const auto size = read(bell_, &rung, sizeof rung);
}

RankPacket Helper::figures(RankMessage message) noexcept {
  const Survey survey = gate_.survey(now_ns());
  const Phase phase = phase_.load(std::memory_order_acquire);
  const bool failed = failed_rank_.load() != kNoFailure || killed_rank_.load() != kNoFailure;
  RankPacket packet{};
  packet.message = message;
  packet.epoch = epoch_;
  if (phase != Phase::starting) {
    packet.rank = world_.rank;
    packet.value = static_cast<std::uint32_t>(world_.size);
    packet.spawned = world_.spawned;
    strncpy(packet.transport, world_.transport, sizeof packet.transport - 1);
  }
  if (message == RankMessage::peer_failed) packet.value = static_cast<std::uint32_t>(failed_rank_.load());
  if (message == RankMessage::own_end) packet.value = static_cast<std::uint32_t>(exit_code_.load());
  if (message == RankMessage::peer_killed) packet.value = static_cast<std::uint32_t>(killed_rank_.load());
  packet.state = phase == Phase::finalized  ? RankState::finalized
                 : survey.in_defer != 0     ? RankState::deferring
                 : phase == Phase::starting ? RankState::starting
                 : survey.inside()          ? RankState::in_call
                 : survey.parked != 0       ? RankState::gated
                                            : RankState::computing;
  // A rank whose peer has died never comes to rest: no checkpoint of a broken job.
  packet.busy = gate_.is_shut() && (survey.in_gate != 0 || survey.in_defer != 0 || failed);
  packet.calls = survey.calls;
  packet.since_ns = static_cast<std::uint64_t>(survey.since_ns);
  if (owes_closed_ && !gate_.is_shut() && forbidden()) {
    packet.state = RankState::deferring;
    strncpy(packet.call, "stillpoint_forbid", sizeof packet.call - 1);
  } else if (survey.shown != nullptr) {
    strncpy(packet.call, survey.shown->name(), sizeof packet.call - 1);
    if (CommunicatorNote note; communicators_.find(survey.communicator, note)) {
      memcpy(packet.communicator, note.name, sizeof packet.communicator);
      packet.peers = note.peers;
    }
  }
  return packet;
}

void Helper::send(RankMessage message) noexcept { send(figures(message)); }

void Helper::send(const RankPacket& packet) noexcept {
  if (agent_ < 0) return;
  ssize_t size;
  do size = ::send(agent_, &packet, sizeof packet, MSG_NOSIGNAL);
  while (size < 0 && errno == EINTR);
  if (size != sizeof packet) lose_agent();
}

void Helper::ring() noexcept {
  const std::uint64_t one = 1;
  if (bell_ >= 0) [[maybe_unused]]
    const auto size = write(bell_, &one, sizeof one);
}

}  // namespace stillpoint::hooks
