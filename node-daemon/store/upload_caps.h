// What the upload of checkpoints may take from the jobs that run beside it: bytes a second that leave for other places,
// and a share of one core for hashing, compressing, sealing and copying. One for the whole daemon, shared by all that
// uploads.
//
// Both are kept on average: what is used is charged, and whoever has charged waits until the charges of all are paid
// for by time gone by. A little is saved up while nobody uploads. Nothing waits while a machine of this host is held
// for a checkpoint: what is used then is not charged either.
//
// Threads: any number, side by side. Work belongs to the thread that made it.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <stop_token>

namespace stillpoint::node {

struct UploadLimits {
  std::uint64_t bytes_per_second = 0;  // 0: no limit
  double cores = 0;                    // 0.5: half of one core; 0: no limit
};

// Time and how it passes, for tests to replace.
class PaceClock {
 public:
  using Time = std::chrono::nanoseconds;  // since any moment
  virtual ~PaceClock() = default;
  virtual Time now() = 0;
  virtual Time thread_cpu() = 0;  // processor time of the calling thread
  // Waits until then, or until `changed` or `stop` calls; may return early.
  virtual void wait_until(Time then, std::unique_lock<std::mutex>& lock, std::condition_variable_any& changed,
                          const std::stop_token& stop) = 0;
};
PaceClock& system_pace_clock();

class UploadCaps {
 public:
  // clock: borrowed.
  explicit UploadCaps(const UploadLimits& limits, PaceClock& clock = system_pace_clock());
  UploadCaps(const UploadCaps&) = delete;
  UploadCaps& operator=(const UploadCaps&) = delete;

  // While one of these is alive its thread's processor time is charged. One within another counts for nothing.
  class Work {
   public:
    explicit Work(UploadCaps* caps);  // null: nothing is charged
    ~Work();
    Work(const Work&) = delete;
    Work& operator=(const Work&) = delete;

   private:
    UploadCaps* const caps_;
  };
  // Between two pieces of work, some milliseconds each: charges what the thread has used since the last call and waits.
  // Nothing where the thread is in no Work. Returns early when stop is requested. Never with a lock held that one who
  // drains a machine needs.
  void pause(const std::stop_token& stop);
  // The same for processor time that a child process has used.
  void charge(std::chrono::nanoseconds cpu, const std::stop_token& stop);
  // Before so many bytes are sent; best not more than piece_bytes() at once.
  void sending(std::uint64_t bytes, const std::stop_token& stop);
  std::size_t piece_bytes() const { return piece_bytes_; }
  bool limits_bytes() const { return limits_.bytes_per_second != 0; }
  std::uint64_t bytes_per_second() const { return limits_.bytes_per_second; }  // 0: no limit

  // A machine is held: nothing waits.
  class Held {
   public:
    explicit Held(UploadCaps& caps);
    ~Held();
    Held(const Held&) = delete;
    Held& operator=(const Held&) = delete;

   private:
    UploadCaps& caps_;
  };
  // For good: nothing waits any more, so that the daemon can end.
  void lift();

 private:
  struct Bucket {
    double per_nanosecond = 0;  // units
    PaceClock::Time paid_until{};
  };
  void take(Bucket& bucket, double units, const std::stop_token& stop);

  const UploadLimits limits_;
  PaceClock& clock_;
  std::size_t piece_bytes_;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  unsigned held_ = 0;  // machines; one more when lifted
  Bucket bytes_, cpu_;
};

// Where there may be none.
inline void pause(UploadCaps* caps, const std::stop_token& stop) {
  if (caps != nullptr) caps->pause(stop);
}

}  // namespace stillpoint::node
