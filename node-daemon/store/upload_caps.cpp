#include "node-daemon/store/upload_caps.h"

#include <algorithm>
#include <ctime>
#include <utility>

namespace stillpoint::node {
namespace {

using std::chrono::nanoseconds;

constexpr nanoseconds kSaved{100'000'000};     // what is not used for longer is lost
constexpr nanoseconds kPieceTime{50'000'000};  // that a piece of bytes takes
constexpr nanoseconds kChildPiece{10'000'000};
constexpr std::size_t kLeastPiece = 4u << 10, kMostPiece = 512u << 10;

// Whose work this thread is doing, and what of its time has been charged.
struct Working {
  UploadCaps* caps = nullptr;
  unsigned depth = 0;
  nanoseconds charged{};
};
thread_local Working working;

nanoseconds time_of(clockid_t id) {
  timespec time{};
  ::clock_gettime(id, &time);
  return std::chrono::seconds(time.tv_sec) + nanoseconds(time.tv_nsec);
}

class SystemPaceClock final : public PaceClock {
 public:
  Time now() override { return time_of(CLOCK_MONOTONIC); }
  Time thread_cpu() override { return time_of(CLOCK_THREAD_CPUTIME_ID); }
  void wait_until(Time then, std::unique_lock<std::mutex>& lock, std::condition_variable_any& changed,
                  const std::stop_token& stop) override {
    bool asked = false;  // any call ends the wait
    changed.wait_for(lock, stop, std::max(then - now(), Time(0)), [&] { return std::exchange(asked, true); });
  }
};

}  // namespace

PaceClock& system_pace_clock() {
  static SystemPaceClock clock;
  return clock;
}

UploadCaps::UploadCaps(const UploadLimits& limits, PaceClock& clock) : limits_(limits), clock_(clock) {
  bytes_.per_nanosecond = static_cast<double>(limits.bytes_per_second) / 1e9;
  cpu_.per_nanosecond = limits.cores;
  const double piece = bytes_.per_nanosecond * static_cast<double>(kPieceTime.count());
  piece_bytes_ = limits_bytes() ? std::clamp(static_cast<std::size_t>(piece), kLeastPiece, kMostPiece) : kMostPiece;
}

void UploadCaps::take(Bucket& bucket, double units, const std::stop_token& stop) {
  if (bucket.per_nanosecond == 0) return;
  std::unique_lock lock(mutex_);
  if (held_ > 0) return;
  // Who comes later waits longer: the order is that of the calls.
  bucket.paid_until = std::max(bucket.paid_until, clock_.now() - kSaved) +
                      nanoseconds(static_cast<nanoseconds::rep>(units / bucket.per_nanosecond));
  const nanoseconds until = bucket.paid_until;
  while (held_ == 0 && !stop.stop_requested() && clock_.now() < until) clock_.wait_until(until, lock, changed_, stop);
}

void UploadCaps::pause(const std::stop_token& stop) {
  if (working.caps != this) return;
  const nanoseconds now = clock_.thread_cpu();
  take(cpu_, static_cast<double>((now - working.charged).count()), stop);
  working.charged = now;
}

void UploadCaps::charge(nanoseconds cpu, const std::stop_token& stop) {
  // A little at a time, so that others have their turns between.
  for (; cpu.count() > 0 && !stop.stop_requested(); cpu -= kChildPiece)
    take(cpu_, static_cast<double>(std::min(cpu, kChildPiece).count()), stop);
}

void UploadCaps::sending(std::uint64_t bytes, const std::stop_token& stop) {
  take(bytes_, static_cast<double>(bytes), stop);
}

UploadCaps::Work::Work(UploadCaps* caps) : caps_(caps) {
  if (caps_ == nullptr || working.depth++ > 0) return;
  working.caps = caps_;
  working.charged = caps_->clock_.thread_cpu();
}

UploadCaps::Work::~Work() {
  if (caps_ == nullptr || --working.depth > 0) return;
  working.caps = nullptr;
}

UploadCaps::Held::Held(UploadCaps& caps) : caps_(caps) {
  const std::lock_guard lock(caps_.mutex_);
  ++caps_.held_;
  caps_.changed_.notify_all();
}

UploadCaps::Held::~Held() {
  const std::lock_guard lock(caps_.mutex_);
  --caps_.held_;
}

void UploadCaps::lift() {
  const std::lock_guard lock(mutex_);
  ++held_;
  changed_.notify_all();
}

}  // namespace stillpoint::node
