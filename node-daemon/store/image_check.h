// What reading an image back has found. A value.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/result.h"
#include "node-daemon/store/seal.h"

namespace stillpoint::node {

// Some pages of a block of an origin; bit i: the page of slot i.
struct BlockSlots {
  Id origin{};
  std::uint32_t number = 0;  // of the block in its origin
  std::uint64_t slots = 0;
};

struct ImageCheck {
  std::uint64_t bytes = 0;          // that were read from packs
  std::vector<Error> problems;      // empty: the image is whole
  std::vector<BlockSlots> bad;      // of the blocks that it needs, those that are damaged or not there
  std::vector<std::string> mended;  // what was put right, for people
};

}  // namespace stillpoint::node
