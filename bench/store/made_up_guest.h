// A guest's memory that nobody ever had: a third zeros, the rest pages between text and noise, each made from a seed.
// Its migration streams, in pieces, so that the whole never lies in memory. One thread.
#pragma once

#include <functional>
#include <random>
#include <set>
#include <vector>

#include "node-daemon/store/ram_stream.h"

namespace stillpoint::bench {

class MadeUpGuest {
 public:
  explicit MadeUpGuest(std::size_t mib, std::uint64_t seed = 7);
  // New content for so many places of 4 KiB, drawn at random. How many different pages these are.
  std::size_t change(std::size_t places);
  std::size_t pages() const { return seeds_.size(); }
  void stream(const std::function<void(std::string_view)>& take) const;
  std::string stream() const;

 private:
  std::mt19937_64 random_;
  const std::vector<node::RamBlock> blocks_;
  std::vector<std::uint64_t> seeds_;
};

}  // namespace stillpoint::bench
