// How many threads may unpack blocks ahead of those who read memory images, of all stores together that share this.
// Threads: any.
#pragma once

#include <atomic>

namespace stillpoint::node {

class UnpackThreads {
 public:
  explicit UnpackThreads(unsigned threads) : idle_(threads) {}
  unsigned take() { return idle_.exchange(0); }  // all that are idle
  void give(unsigned threads) { idle_ += threads; }

 private:
  std::atomic<unsigned> idle_;
};

}  // namespace stillpoint::node
