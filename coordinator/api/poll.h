// A request that waits for something to happen: private to the Api's endpoints.
#pragma once

#include "coordinator/api/api.h"

namespace stillpoint::coordinator {

// Counted as long as anything may still wake it.
struct Api::Poll {
  using Clock = std::chrono::steady_clock;
  Poll(PollCount counter, Clock::time_point end) : polls(std::move(counter)), deadline(end) { ++*polls; }
  ~Poll() { --*polls; }
  Poll(const Poll&) = delete;
  Poll& operator=(const Poll&) = delete;
  bool over() const { return Clock::now() >= deadline; }

  const PollCount polls;
  const Clock::time_point deadline;
};

}  // namespace stillpoint::coordinator
