// What the benchmark's guest (guest/dirty.c) says it has done, with the times at which it was heard. One thread reads,
// any may ask.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <string>
#include <thread>

#include "common/fd.h"

namespace stillpoint::bench {

using Clock = std::chrono::steady_clock;

class GuestWork {
 public:
  // link: the host's side of the guest's port.
  explicit GuestWork(Fd link);
  ~GuestWork();

  void send(const std::string& line);
  // Whether a line that begins so came; each line that is no step is taken once.
  bool wait_for(const std::string& word, std::chrono::seconds deadline);
  // Steps at a time, between two beats by proportion.
  double steps_at(Clock::time_point when);
  // Steps per second between two times.
  double pace(Clock::time_point from, Clock::time_point to);
  // The longest time without a beat.
  double longest_gap_ms(Clock::time_point from, Clock::time_point to);

 private:
  struct Beat {
    Clock::time_point when;
    double steps;
  };
  void read();
  void take(const std::string& line);

  Fd link_;
  std::mutex mutex_;  // guards the two below
  std::condition_variable changed_;
  std::deque<Beat> beats_;  // the newest minute or so
  std::deque<std::string> words_;
  std::atomic<bool> stop_{false};
  std::thread reader_;  // last
};

}  // namespace stillpoint::bench
