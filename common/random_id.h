// Names that nobody guesses and nobody else has. Any thread.
#pragma once

#include <string>

#include "common/result.h"

namespace stillpoint {

// 32 hexadecimal digits from the kernel's randomness.
Result<std::string> random_id();

}  // namespace stillpoint
