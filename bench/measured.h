// What benches of several folders share: durations, spreads, a directory for the time being. fail() ends the process.
#pragma once

#include <stdlib.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace stillpoint::bench {

[[noreturn]] inline void fail(const std::string& why) {
  std::cerr << why << "\n";
  std::exit(1);
}

inline double ms(std::chrono::steady_clock::duration time) {
  return std::chrono::duration<double, std::milli>(time).count();
}

// values: at least one.
inline nlohmann::json spread(std::vector<double> values) {
  std::ranges::sort(values);
  const auto median = (values[(values.size() - 1) / 2] + values[values.size() / 2]) / 2;
  return {{"median", median}, {"least", values.front()}, {"most", values.back()}};
}

// A directory that goes with the object.
struct Place {
  std::filesystem::path path;
  explicit Place(const std::filesystem::path& at) {
    std::string pattern = at / "stillpoint-bench-XXXXXX";
    if (::mkdtemp(pattern.data()) == nullptr) fail("cannot make a directory in " + at.string());
    path = pattern;
  }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;
  ~Place() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
};

}  // namespace stillpoint::bench
