#include "node-daemon/domain/pre_copy.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "common/log.h"
#include "node-daemon/domain/migration.h"

namespace stillpoint::node {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kRateWindow{300};
constexpr milliseconds kRateDeadline{5000};
constexpr milliseconds kLook{5};
constexpr milliseconds kPatience{500};
constexpr auto kEnd = std::chrono::seconds(20);
// What the machine may have changed by the time that its ranks stand still, and what then is left to be sent: at a
// gigabyte per second a tenth of a second.
constexpr double kQuiesceSeconds = 0.3;
constexpr double kMostLeft = 96.0 * (1 << 20);
constexpr double kFastest = 0.8 * kMostLeft / kQuiesceSeconds;  // bytes per second
// The pipe is read no more when so little is left of a pass, but more than fills it. The last of a first pass, and all
// later ones, are sent through a narrow pipe, of which no more is read at a time than a part of what is left: whoever
// reads faster than he looks finds QEMU at the end of the pass, or of the migration, on a busy host most of all. A page
// of zeros is nine bytes of the stream, so the first pass may be over all the same; the next has few of them.
constexpr std::uint64_t kLeftOfPass = 2u << 20, kLeastOfPass = 1u << 16;
// What was changed during the first pass, as far as samples tell: one page that was seen to change stands for 64.
constexpr double kWorthAPass = 8.0 * (1 << 20);
constexpr std::uint64_t kNarrowFrom = 64u << 20, kPart = 8, kLeastPart = 1u << 15;
constexpr int kNarrow = 1 << 14, kWide = 1 << 16;
constexpr std::uint64_t kMostPasses = 30;

}  // namespace

PreCopy::PreCopy(virDomainPtr domain, EventHub& events, MemorySink& sink)
    : domain_(domain),
      name_(virDomainGetName(domain)),
      stream_(domain, events, sink),
      wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

PreCopy::~PreCopy() {
  if (!reader_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    wanted_ = Reader::ended;
  }
  wake();
  reader_.join();
}

void PreCopy::wake() {
  const std::uint64_t one = 1;
  (void)!::write(wake_.get(), &one, sizeof one);
}

Status PreCopy::unsuited(std::string cause) const {
  return Error{ErrorKind::transient, "pre-copy", name_, std::move(cause)};
}

// Not allowed: QEMU ends by itself only when a look finds that nothing at all has changed. It looks when it expects
// less to be left than may be sent in a pause; with nothing, it would end without a look.
Status PreCopy::allow_pause(bool allowed) {
  constexpr Switchover kAny{kLongestDowntimeMs, 0}, kLessThanAPage{1000, 1000};
  return set_switchover(domain_, allowed ? kAny : kLessThanAPage);
}

Status PreCopy::approach() {
  const auto rate = measure_dirty_rate(domain_, kRateWindow, Clock::now() + kRateDeadline);
  if (!rate) return rate.error();
  if (*rate > kFastest)
    return unsuited("the machine changes " + std::to_string(static_cast<long>(*rate / 1e6)) + " MB/s");
  if (auto started = start(); !started) return started;
  reader_ = std::thread([this] { read(); });
  behind_ = put_migration_behind(domain_);
  return converge(*rate);
}

Status PreCopy::start() {
  if (auto set = set_background_snapshot(domain_, false); !set) return set;
  if (auto set = set_unlimited_bandwidth(domain_); !set) return set;
  if (auto set = allow_pause(false); !set) return set;
  if (auto opened = stream_.open(CaptureStream::Writes::pieces); !opened) return opened;
  return stream_.begin();
}

Status PreCopy::converge(double rate) {
  std::uint64_t pass = 0;
  auto pass_began = Clock::now();
  for (;;) {
    auto state = query_migration(domain_);  // beside the reader: a QEMU that waits for the pipe gets it read
    if (!state) return state.error();
    const auto now = Clock::now();
    if (std::exchange(pass, state->passes) != state->passes) pass_began = now;
    const double changed_in_pass = rate * std::chrono::duration<double>(now - pass_began).count();
    std::unique_lock lock(mutex_);
    if (ended_ && !failure_) return failure_;
    if (ended_) return unsuited("the machine changes nothing");
    if (pass > kMostPasses) return unsuited("what the machine changes does not become less");
    const std::uint64_t left = state->remaining_bytes;
    const bool near_end = pass > 0 && narrow_ && left >= kLeastOfPass && left <= kLeftOfPass;
    const bool enough = pass == 1 ? changed_in_pass <= kWorthAPass
                                  : static_cast<double>(left) + changed_in_pass + rate * kQuiesceSeconds <= kMostLeft;
    if (near_end && enough) {
      wanted_ = Reader::waiting;
      return {};
    }
    wanted_ = pass > 1 || (pass == 1 && left <= kNarrowFrom) ? Reader::narrow : Reader::reading;
    granted_ = std::max(left / kPart, kLeastPart);
    wake();
    changed_.wait_for(lock, kLook, [this] { return ended_ || granted_ == 0; });
  }
}

Status PreCopy::take(const std::function<Status()>& switch_disk) {
  if (auto switched = switch_disk(); !switched) return switched;
  {
    const std::lock_guard lock(mutex_);
    if (ended_ || early_) return failure_ ? unsuited("the machine had changed nothing") : failure_;
    taking_ = true;
    wanted_ = Reader::about_to;
  }
  wake();
  // Before the pipe is read on: QEMU takes up what it is allowed once in a tenth of a second.
  const Status allowed = allow_pause(true);
  put_migration_back(behind_);
  {
    const std::lock_guard lock(mutex_);
    wanted_ = allowed ? Reader::reading : Reader::ended;
  }
  wake();
  reader_.join();
  if (!allowed) return allowed;
  const std::lock_guard lock(mutex_);
  if (!failure_) return failure_;
  if (!stream_.stopped() || !stream_.wait_resumed(Clock::now() + kEnd))
    return Error{ErrorKind::deadline, "capture", name_, "QEMU did not say that the machine goes on"};
  return {};
}

// The reader's thread.
void PreCopy::read() {
  Status failure;
  for (bool more = true; more;) {
    if (!wait_at_pipe()) {
      stream_.close();
      break;
    }
    const std::uint64_t before = stream_.bytes();
    auto pumped = stream_.pump();
    if (pumped && *pumped) account(stream_.bytes() - before);
    if (!pumped) {
      failure = pumped.error();
      stream_.close();
    }
    more = pumped && *pumped;
  }
  // At the stream's end QEMU has come to an end, and the machine stands still until it is told to go on.
  {
    const std::lock_guard lock(mutex_);
    early_ = !taking_;  // whatever comes now, this is no image of the instant
  }
  if (failure) resume();
  const std::lock_guard lock(mutex_);
  ended_ = true;
  failure_ = failure;
  changed_.notify_all();
}

void PreCopy::account(std::uint64_t read) {
  const std::lock_guard lock(mutex_);
  const bool wanted = wanted_ == Reader::narrow || wanted_ == Reader::waiting;
  if (narrow_ != wanted && stream_.set_room(wanted ? kNarrow : kWide)) narrow_ = wanted;
  granted_ -= std::min(granted_, read);
  if (granted_ == 0) changed_.notify_all();
}

// False: it is over. QEMU that ends although it is to wait, because nothing is left, holds the machine still, and its
// own lock, so that it answers no command until the pipe has room: hence no more than some patience with one.
bool PreCopy::wait_at_pipe() {
  for (;;) {
    bool patient = true;
    {
      const std::lock_guard lock(mutex_);
      if (wanted_ == Reader::ended) return false;
      const bool waits =
          wanted_ == Reader::waiting || wanted_ == Reader::about_to || (wanted_ == Reader::narrow && granted_ == 0);
      if (!waits || stream_.stopped()) return true;
      patient = wanted_ == Reader::waiting;
    }
    pollfd polls[2] = {{stream_.events_fd(), POLLIN, 0}, {wake_.get(), POLLIN, 0}};
    if (::poll(polls, 2, patient ? -1 : static_cast<int>(kPatience.count())) == 0) {
      const std::lock_guard lock(mutex_);
      if (wanted_ == Reader::about_to) wanted_ = Reader::reading;
      granted_ = kLeastPart;
    }
    std::uint64_t count = 0;
    (void)!::read(wake_.get(), &count, sizeof count);
    stream_.take_events();
  }
}

// Not by libvirt's resume: libvirt learns of the stop a little later than we do, and refuses until then.
void PreCopy::resume() {
  while (!stream_.wait_stopped(Clock::now() + kLook)) {
    const auto state = query_migration(domain_);
    if (!state || state->status == "failed" || state->status == "cancelled") return;  // it was not stopped, or runs
  }
  Result<nlohmann::json> told = monitor_command(domain_, {{"execute", "cont"}});
  for (const auto end = Clock::now() + kEnd;
       !told && !stream_.wait_resumed(Clock::now() + kLook) && Clock::now() < end;)
    told = monitor_command(domain_, {{"execute", "cont"}});
  if (!told && !stream_.resumed())
    log_warn("a machine was not resumed after its capture", {{"domain", name_}, {"cause", told.error().message()}});
}

}  // namespace stillpoint::node
