// What reading an image back has found. A value.
#pragma once

#include <cstdint>
#include <vector>

#include "common/result.h"

namespace stillpoint::node {

struct ImageCheck {
  std::uint64_t bytes = 0;      // that were read from packs
  std::vector<Error> problems;  // empty: the image is whole
};

}  // namespace stillpoint::node
