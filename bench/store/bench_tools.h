// What the store's benchmarks share: times with their spread, and the places that they use. One thread.
#pragma once

#include <chrono>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/fd.h"
#include "node-daemon/store/chunk_store.h"

namespace stillpoint::bench {

inline constexpr int kLeastLevel = -7, kMostLevel = 19;  // of zstd, what is worth a try

// The value, or the program's end with the error on stderr.
template <class T>
T must(Result<T> result);
void must(const Status& status);

// Seconds, one entry for each time that something was done.
struct Times {
  std::vector<double> wall, cpu;
};
double cpu_seconds();  // of the process, all its threads

template <class F>
void timed(Times& times, F&& work) {
  const double cpu = cpu_seconds();
  const auto start = std::chrono::steady_clock::now();
  work();
  times.wall.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  times.cpu.push_back(cpu_seconds() - cpu);
}

double median(std::vector<double> values);
// {"median", "least", "most"}.
nlohmann::json spread(const std::vector<double>& values);
// What bytes / seconds is, in MB/s: of wall and of processor time.
nlohmann::json speeds(const Times& times, std::uint64_t bytes);
// a / b of each round, which is what a machine with other work on it says most reliably.
nlohmann::json ratios(const std::vector<double>& a, const std::vector<double>& b);

nlohmann::json figures_of(const node::ImageFigures& figures);
double load_average();

// VmRSS:, VmHWM: … in bytes.
std::uint64_t memory_figure(const std::string& name);
// The peak counts anew from here on.
void reset_peak();

std::string load(const std::filesystem::path& path);

// An empty directory below `at`. A child process removes it when this one ends, however. To be made first of all, while
// the process is small.
class Place {
 public:
  explicit Place(const std::filesystem::path& at);
  ~Place();
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;
  const std::filesystem::path& path() const { return path_; }
  // A new store in it, in a directory of its own; remove_stores() takes all of them away again.
  std::unique_ptr<node::ChunkStore> new_store(const node::ChunkStoreOptions& options = {});
  void remove_stores();

 private:
  std::filesystem::path path_;
  unsigned stores_ = 0;
  Fd alive_;  // closed: the child removes the directory
  int child_ = -1;
};

template <class T>
T must(Result<T> result) {
  if (!result) must(Status(result.error()));
  return std::move(*result);
}

}  // namespace stillpoint::bench
