// The example programs as the tests use them: their arguments and what their output looks like.
#pragma once

#include <string>
#include <vector>

#include "tests/e2e/harness.h"

namespace stillpoint::e2e {

// 2-D heat diffusion; every so many steps a line "step N residual R checksum C", which depends on nothing but N.
struct Heat {
  unsigned size = 256, steps = 3000, every = 100;
  // Enough steps that the job is still under way when its host dies, on emulated machines and on fast ones.
  static Heat long_enough_on(const TestLab& lab);
  std::vector<std::string> arguments() const;
  JobText job(const std::string& name) const;
};
inline const std::string kHeatLine = "step ";
inline const std::string kHeatPicture = "heat.ppm";

// All ranks send to one another and check every byte; after each round a line "ring round N ok checksum C".
struct Ring {
  unsigned rounds = 100'000;
  std::vector<std::string> arguments() const;
  JobText job(const std::string& name) const;
};
inline const std::string kRingLine = "ring round ";

// Every rank changes a part of its memory and appends to a file, and checks both whole; after each step a line "churn N
// memory C file C", which depends on nothing but N.
struct Churn {
  unsigned steps = 100'000, mebibytes = 24, percent = 5;
  std::vector<std::string> arguments() const;
  JobText job(const std::string& name) const;
};
inline const std::string kChurnLine = "churn ";

// Fails the test unless the numbers after prefix are first, first + stride, … with none missing or doubled. Gives how
// many.
std::size_t check_numbered(const std::string& text, const std::string& prefix, long first, long stride);
// The number in the last such line; 0 when there is none.
long last_number(const std::string& text, const std::string& prefix);

}  // namespace stillpoint::e2e
