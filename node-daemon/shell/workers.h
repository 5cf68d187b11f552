// Threads for calls that block. Jobs with the same key run one after the other, in the order of their posting; jobs
// with different keys run side by side.
//
// post() from any thread. The destructor drops what has not begun and waits for what has.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace stillpoint::node {

class Workers {
 public:
  explicit Workers(std::size_t threads);
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;
  ~Workers();

  void post(const std::string& key, std::function<void()> job);

 private:
  struct Line {
    std::deque<std::function<void()>> jobs;
    bool running = false;  // a thread is at its front job, or it stands in ready_
  };
  void run(const std::stop_token& stop);

  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::map<std::string, Line> lines_;  // only those with something to do
  std::deque<std::string> ready_;
  std::vector<std::jthread> threads_;  // last: end before what they use
};

}  // namespace stillpoint::node
