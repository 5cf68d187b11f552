#include "node-daemon/store/remote/backoff.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <random>

namespace stillpoint::node {

bool Backoff::wait(const std::stop_token& stop) {
  if (made_ + 1 >= settings_.attempts || stop.stop_requested()) return false;
  thread_local std::minstd_rand random{std::random_device{}()};
  std::uniform_int_distribution<std::chrono::milliseconds::rep> part(next_.count() / 2, next_.count());
  std::mutex mutex;
  std::condition_variable_any never_notified;
  std::unique_lock lock(mutex);
  never_notified.wait_for(lock, stop, std::chrono::milliseconds(part(random)), [] { return false; });
  next_ = std::min(next_ * 2, settings_.longest_pause);
  if (stop.stop_requested()) return false;
  ++made_;
  return true;
}

}  // namespace stillpoint::node
