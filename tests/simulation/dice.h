// Chance from a seed (splitmix64). Each part of the cluster has dice of its own, so that an event left out of a history
// disturbs the rest of it little. Values.
#pragma once

#include <cstdint>

#include "tests/simulation/agenda.h"

namespace stillpoint::simulation {

class Dice {
 public:
  Dice(std::uint64_t seed, std::uint64_t part) : state_(seed * 0x9e3779b97f4a7c15u + part * 0xd1342543de82ef95u) {
    next();
  }

  // 0 … sides - 1
  std::uint64_t roll(std::uint64_t sides) { return sides == 0 ? 0 : next() % sides; }
  bool per_mille(std::uint64_t chance) { return chance != 0 && roll(1000) < chance; }
  Millis between(std::uint64_t least, std::uint64_t most) {
    return Millis(static_cast<std::int64_t>(least + roll(most - least + 1)));
  }

 private:
  std::uint64_t next() {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  std::uint64_t state_;
};

}  // namespace stillpoint::simulation
