#include "mpi-hooks/core/explore/choices.h"

#include <cstdlib>

namespace stillpoint::hooks::explore {

unsigned Every::choose(unsigned options, Choice choice) {
  unsigned* spent = choice == Choice::preemption ? &preemptions_ : choice == Choice::oddity ? &oddities_ : nullptr;
  const unsigned most = choice == Choice::preemption ? most_preemptions_ : most_oddities_;
  if (spent != nullptr && *spent == most) return 0;
  if (at_ == steps_.size()) steps_.push_back({0, static_cast<std::uint16_t>(options)});
  const Step& step = steps_[at_++];
  if (step.options != options) abort();  // the same choices have led elsewhere: something is not under control
  if (spent != nullptr && step.chosen != 0) ++*spent;
  return step.chosen;
}

bool Every::again() {
  at_ = 0;
  preemptions_ = oddities_ = 0;
  while (!steps_.empty() && steps_.back().chosen + 1 == steps_.back().options) steps_.pop_back();
  if (steps_.empty()) return false;
  steps_.back().chosen++;
  return true;
}

void Seeded::begin(std::uint64_t seed) {
  constexpr unsigned kOneIn[] = {3, 10, 40, 150};
  seed_ = seed;
  random_.seed(seed);
  preempt_one_in_ = kOneIn[random_() % 4];
  odd_one_in_ = kOneIn[random_() % 4];
}

unsigned Seeded::choose(unsigned options, Choice choice) {
  const unsigned one_in = choice == Choice::preemption ? preempt_one_in_ : choice == Choice::oddity ? odd_one_in_ : 1;
  if (one_in == 1) return static_cast<unsigned>(random_() % options);
  return random_() % one_in != 0 ? 0 : 1 + static_cast<unsigned>(random_() % (options - 1));
}

}  // namespace stillpoint::hooks::explore
