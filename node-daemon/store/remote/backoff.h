// Pauses between attempts of one request: doubled each time, a random part of each left out, so that those who failed
// together do not come back together. One owner.
#pragma once

#include <chrono>
#include <stop_token>

namespace stillpoint::node {

struct RetrySettings {
  unsigned attempts = 8;  // in all
  std::chrono::milliseconds first_pause{250}, longest_pause{15'000};
};

class Backoff {
 public:
  explicit Backoff(const RetrySettings& settings) : settings_(settings), next_(settings.first_pause) {}
  // Blocks between half of the pause and all of it. False, at once: no attempt is left, or stop is requested.
  bool wait(const std::stop_token& stop);
  unsigned attempts() const { return made_ + 1; }  // with the one that is about to be made

 private:
  const RetrySettings settings_;
  std::chrono::milliseconds next_;
  unsigned made_ = 0;
};

}  // namespace stillpoint::node
