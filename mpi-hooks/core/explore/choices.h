// Who decides what happens next in an explored history: either all that can be decided is tried, one after the other,
// or a seed decides.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

namespace stillpoint::hooks::explore {

enum class Choice {
  next,        // which thread goes on, where the one that ran cannot
  preemption,  // which thread goes on, where the one that ran could; 0: that one
  oddity,      // an old value, a wake-up for nothing, a time-out while something could still come; 0: none of it
};

class Choices {
 public:
  virtual ~Choices() = default;
  // One of 0 … options - 1; options > 1.
  virtual unsigned choose(unsigned options, Choice choice) = 0;
  // Before each history but the first. False: all have been tried.
  virtual bool again() = 0;
};

// Depth first through every history that has at most so many preemptions and oddities.
class Every : public Choices {
 public:
  Every(unsigned preemptions, unsigned oddities) : most_preemptions_(preemptions), most_oddities_(oddities) {}
  unsigned choose(unsigned options, Choice choice) override;
  bool again() override;

 private:
  struct Step {
    std::uint16_t chosen, options;
    bool operator==(const Step&) const = default;
  };
  unsigned most_preemptions_, most_oddities_;
  unsigned preemptions_ = 0, oddities_ = 0;
  std::vector<Step> steps_;
  std::size_t at_ = 0;
};

// At random: each history is of one kind, with many or few preemptions and oddities.
class Seeded : public Choices {
 public:
  explicit Seeded(std::uint64_t seed) { begin(seed); }
  unsigned choose(unsigned options, Choice choice) override;
  bool again() override {
    begin(seed_ + 1);
    return true;
  }
  std::uint64_t seed() const noexcept { return seed_; }  // of this history

 private:
  void begin(std::uint64_t seed);
  std::uint64_t seed_ = 0;
  std::mt19937_64 random_;
  unsigned preempt_one_in_ = 1, odd_one_in_ = 1;
};

}  // namespace stillpoint::hooks::explore
