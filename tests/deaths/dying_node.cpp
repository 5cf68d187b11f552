// stillpoint-node with the points at which it dies or stops (death_points.h): its main() is node-daemon/main.cpp's.
#include "tests/deaths/death_points.h"

namespace {
[[maybe_unused]] const bool ready = [] {
  stillpoint::test::read_death_points(false);
  return true;
}();
}  // namespace
