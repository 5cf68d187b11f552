// A catalog as a coordinator has it that has worked for long: jobs of 2 to 8 guests that took turns in checkpointing,
// of which the newest checkpoints are committed and the others pruned. Its rows have the size of real ones: an image's
// with the description of its machine, a cut's with a socket to each other guest. Blocking; one thread.
#pragma once

#include <cstdint>
#include <filesystem>

#include "common/result.h"

namespace stillpoint::bench {

struct Filling {
  std::uint32_t jobs = 20;
  std::uint32_t epochs = 10'000;  // of all jobs
  std::uint32_t kept = 3;         // committed ones of each job
};

// Makes it at this path, where nothing is.
Status fill_catalog(const std::filesystem::path& path, const Filling& filling);

}  // namespace stillpoint::bench
