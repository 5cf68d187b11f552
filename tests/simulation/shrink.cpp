#include "tests/simulation/shrink.h"

#include <algorithm>

namespace stillpoint::simulation {
namespace {

class Shrinker {
 public:
  Shrinker(Plan plan, const std::function<bool(const Plan&)>& fails, unsigned runs)
      : plan_(std::move(plan)), fails_(fails), left_(runs) {}

  Plan run() {
    for (bool smaller = true; smaller;) {
      smaller = leave_out();
      smaller = calm_network() || smaller;
      smaller = lessen() || smaller;
    }
    return plan_;
  }

 private:
  bool take(Plan candidate) {
    if (left_ == 0) return false;
    --left_;
    if (!fails_(candidate)) return false;
    plan_ = std::move(candidate);
    return true;
  }

  // Halves, then quarters, … then single ones.
  bool leave_out() {
    bool any = false;
    for (std::size_t size = std::max<std::size_t>(1, plan_.happenings.size() / 2); size > 0; size /= 2)
      for (std::size_t at = 0; at < plan_.happenings.size();) {
        Plan candidate = plan_;
        const auto begin = candidate.happenings.begin() + static_cast<std::ptrdiff_t>(at);
        candidate.happenings.erase(begin,
                                   begin + static_cast<std::ptrdiff_t>(std::min(size, plan_.happenings.size() - at)));
        if (take(std::move(candidate))) any = true;
        else at += size;
      }
    return any;
  }

  bool calm_network() {
    if (plan_.shape.lost + plan_.shape.doubled + plan_.shape.overtaking == 0) return false;
    Plan candidate = plan_;
    candidate.shape.lost = candidate.shape.doubled = candidate.shape.overtaking = 0;
    return take(std::move(candidate));
  }

  // Shorter faults, one guest, fewer hosts.
  bool lessen() {
    bool any = false;
    for (std::size_t i = 0; i < plan_.happenings.size(); ++i) {
      if (plan_.happenings[i].value < 2) continue;
      Plan candidate = plan_;
      candidate.happenings[i].value /= 2;
      any = take(std::move(candidate)) || any;
    }
    for (auto number : {&Shape::guests, &Shape::hosts}) {
      Plan candidate = plan_;
      if (candidate.shape.*number < 2) continue;
      --(candidate.shape.*number);
      const bool named = std::any_of(candidate.happenings.begin(), candidate.happenings.end(),
                                     [&](const Happening& h) { return h.host > candidate.shape.hosts; });
      if (!named) any = take(std::move(candidate)) || any;
    }
    return any;
  }

  Plan plan_;
  const std::function<bool(const Plan&)>& fails_;
  unsigned left_;
};

}  // namespace

Plan shrink(Plan plan, const std::function<bool(const Plan&)>& fails, unsigned runs) {
  return Shrinker(std::move(plan), fails, runs).run();
}

}  // namespace stillpoint::simulation
