// Virtual time: what is to happen, in the order of its time, and for the same time in the order of its planning.
// Nothing here asks a clock. One owner.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <vector>

namespace stillpoint::simulation {

using Millis = std::chrono::milliseconds;
// As both cores count it (coordinator::Time, node::Time).
using Time = std::chrono::time_point<std::chrono::steady_clock, Millis>;

class Agenda {
 public:
  using Action = std::function<void()>;

  explicit Agenda(Time begin) : now_(begin) {}

  Time now() const { return now_; }
  void in(Millis delay, Action action) { at(now_ + delay, std::move(action)); }
  void at(Time when, Action action) {
    heap_.push_back({std::max(when, now_), next_++, std::move(action)});
    std::push_heap(heap_.begin(), heap_.end(), later);
  }
  // Does what is due next, if that is before `end`. False: nothing is, and it is `end` now.
  bool step(Time end) {
    if (heap_.empty() || heap_.front().when >= end) {
      now_ = std::max(now_, end);
      return false;
    }
    std::pop_heap(heap_.begin(), heap_.end(), later);
    const Entry entry = std::move(heap_.back());
    heap_.pop_back();
    now_ = entry.when;
    entry.action();
    return true;
  }

 private:
  struct Entry {
    Time when;
    std::uint64_t number;
    Action action;
  };
  static bool later(const Entry& a, const Entry& b) { return a.when != b.when ? a.when > b.when : a.number > b.number; }

  Time now_;
  std::uint64_t next_ = 0;
  std::vector<Entry> heap_;
};

}  // namespace stillpoint::simulation
