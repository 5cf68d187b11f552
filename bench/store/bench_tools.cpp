#include "bench/store/bench_tools.h"

#include <fcntl.h>
#include <malloc.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <iostream>

namespace stillpoint::bench {

namespace fs = std::filesystem;
using nlohmann::json;

void must(const Status& status) {
  if (status) return;
  std::cerr << status.error() << "\n";
  std::exit(1);
}

double cpu_seconds() {
  timespec now{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values.size() % 2 == 1 ? values[values.size() / 2]
                                : (values[values.size() / 2 - 1] + values[values.size() / 2]) / 2;
}

json spread(const std::vector<double>& values) {
  return {{"median", median(values)},
          {"least", *std::ranges::min_element(values)},
          {"most", *std::ranges::max_element(values)}};
}

json speeds(const Times& times, std::uint64_t bytes) {
  const auto of = [bytes](const std::vector<double>& seconds) {
    std::vector<double> values;
    for (const double s : seconds) values.push_back(static_cast<double>(bytes) / s / 1e6);
    return spread(values);
  };
  return {{"mb_per_s", of(times.wall)}, {"mb_per_cpu_s", of(times.cpu)}};
}

json ratios(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> values;
  for (std::size_t i = 0; i < a.size(); ++i) values.push_back(a[i] / b[i]);
  return spread(values);
}

json figures_of(const node::ImageFigures& figures) {
  return {{"raw_bytes", figures.raw_bytes},      {"pages", figures.pages},
          {"zero_pages", figures.zero_pages},    {"known_pages", figures.known_pages},
          {"new_pages", figures.new_pages},      {"new_bytes", figures.new_pages * node::kPageBytes},
          {"stored_bytes", figures.stored_bytes}};
}

double load_average() {
  double load = 0;
  return ::getloadavg(&load, 1) == 1 ? load : -1;
}

std::uint64_t memory_figure(const std::string& name) {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;)
    if (std::uint64_t kib = 0; word == name && status >> kib) return kib << 10;
  return 0;
}

void reset_peak() {
  ::malloc_trim(0);
  std::ofstream("/proc/self/clear_refs") << "5";
}

std::string load(const fs::path& path) {
  std::ifstream in(path, std::ios::binary | std::ios::ate);
  if (!in) must(errno_error("open", path.string(), ENOENT));
  std::string bytes(static_cast<std::size_t>(in.tellg()), '\0');
  in.seekg(0);
  if (!in.read(bytes.data(), static_cast<std::streamsize>(bytes.size()))) must(errno_error("read", path.string(), EIO));
  return bytes;
}

Place::Place(const fs::path& at) {
  std::string pattern = at / "stillpoint-bench-XXXXXX";
  if (::mkdtemp(pattern.data()) == nullptr) must(errno_error("make directory", pattern, errno));
  path_ = pattern;
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) must(errno_error("make pipe", "", errno));
  Fd death(ends[0]);
  alive_.reset(ends[1]);
  child_ = ::fork();
  if (child_ < 0) must(errno_error("fork", "", errno));
  if (child_ > 0) return;
  alive_.reset();
  ::setsid();  // what ends the parent's group shall not end this one
  for (const int fd : {0, 1, 2}) ::close(fd);
  char nothing = 0;
  while (::read(death.get(), &nothing, 1) < 0 && errno == EINTR) {}
  std::error_code ignored;
  fs::remove_all(path_, ignored);
  ::_exit(0);
}

Place::~Place() {
  alive_.reset();
  ::waitpid(child_, nullptr, 0);
}

std::unique_ptr<node::ChunkStore> Place::new_store(const node::ChunkStoreOptions& options) {
  return must(node::ChunkStore::open(node::system_files(), path_ / ("store-" + std::to_string(++stores_)),
                                     must(node::load_site_keys(path_ / "store.keys")), options));
}

void Place::remove_stores() {
  for (unsigned i = 1; i <= stores_; ++i) fs::remove_all(path_ / ("store-" + std::to_string(i)));
}

}  // namespace stillpoint::bench
