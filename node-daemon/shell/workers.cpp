#include "node-daemon/shell/workers.h"

#include <utility>

namespace stillpoint::node {

Workers::Workers(std::size_t threads) {
  for (std::size_t i = 0; i < threads; ++i) threads_.emplace_back([this](const std::stop_token& stop) { run(stop); });
}

Workers::~Workers() {
  for (auto& thread : threads_) thread.request_stop();
}

void Workers::post(const std::string& key, std::function<void()> job) {
  const std::lock_guard lock(mutex_);
  Line& line = lines_[key];
  line.jobs.push_back(std::move(job));
  if (std::exchange(line.running, true)) return;
  ready_.push_back(key);
  changed_.notify_one();
}

void Workers::run(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  while (changed_.wait(lock, stop, [this] { return !ready_.empty(); }) && !stop.stop_requested()) {
    const std::string key = std::move(ready_.front());
    ready_.pop_front();
    auto job = std::move(lines_.at(key).jobs.front());
    lines_.at(key).jobs.pop_front();
    lock.unlock();
    job();
    job = nullptr;
    lock.lock();
    const auto line = lines_.find(key);
    if (line->second.jobs.empty()) {
      lines_.erase(line);
    } else {
      ready_.push_back(key);
      changed_.notify_one();
    }
  }
}

}  // namespace stillpoint::node
