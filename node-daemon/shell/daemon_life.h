// What daemon_crash_test.cpp and the program that it kills, daemon_life.cpp, have in common. Tests only.
#pragma once

#include <string>

#include "node-daemon/store/store_test_data.h"

namespace stillpoint::node::test {

// A guest's memory at its n-th checkpoint: much of it is that of the one before.
inline std::string memory_at(std::uint64_t version) {
  std::mt19937_64 random(5);
  TestGuest guest(1);
  for (std::uint64_t i = 0; i < version; ++i) guest.change(random, 110);
  return guest.stream();
}

}  // namespace stillpoint::node::test
