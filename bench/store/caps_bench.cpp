// How well the caps of uploads are kept (node-daemon/store/upload_caps.h): the share of a core that storing images
// uses, against the one that was asked for, and bytes a second into a directory that hosts share. Prints one JSON
// document; asserts nothing. On a machine that is busy with other work less may be used than was asked for.
//
//   bench/run caps, or caps [--directory DIR] [--seconds S]
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstring>
#include <ctime>
#include <iostream>
#include <nlohmann/json.hpp>
#include <random>

#include "node-daemon/store/chunk_image_store.h"

using namespace stillpoint;
using namespace stillpoint::node;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

constexpr std::size_t kPiece = 1u << 20, kPage = 4096;

template <class T>
T must(Result<T> result) {
  if (result) return std::move(*result);
  std::cerr << result.error() << "\n";
  std::exit(1);
}

double cpu_seconds(clockid_t clock) {
  timespec time{};
  ::clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

// Pages that never came before, half of each noise.
class Pages {
 public:
  Pages() : piece_(kPiece, 'x') {
    std::mt19937_64 random(1);
    for (std::size_t at = 0; at < piece_.size(); at += 16) put(at, random());
  }
  const std::string& next() {
    for (std::size_t at = 0; at < piece_.size(); at += kPage) put(at, ++number_);
    return piece_;
  }

 private:
  void put(std::size_t at, std::uint64_t number) { std::memcpy(piece_.data() + at, &number, sizeof number); }
  std::string piece_;
  std::uint64_t number_ = 0;
};

std::uint64_t bytes_below(const fs::path& directory) {
  std::uint64_t sum = 0;
  for (const auto& entry : fs::recursive_directory_iterator(directory))
    if (entry.is_regular_file()) sum += entry.file_size();
  return sum;
}

struct Used {
  double seconds = 0, cores = 0, bytes_per_second = 0;
};

// One image, for so long, into a store of its own. The thread that feeds it stands for the drain of a machine, which is
// no part of the upload's work.
Used store_for(std::chrono::duration<double> time, const UploadLimits& limits, const fs::path& directory) {
  ImageStoreOptions options;
  options.caps = std::make_shared<UploadCaps>(limits);
  auto store = must(open_chunk_image_store(directory / "images", {"h1"}, directory / "store.keys", options));
  Pages pages;
  auto writer = must(store->begin({{"j1"}, {1}, {0}, ImageName::Part::disk}, {}));
  for (int i = 0; i < 64; ++i) (void)writer->write(pages.next());  // past the start, and what was saved up
  const double cpu = cpu_seconds(CLOCK_PROCESS_CPUTIME_ID), drain = cpu_seconds(CLOCK_THREAD_CPUTIME_ID);
  const auto begun = std::chrono::steady_clock::now();
  const std::uint64_t bytes = bytes_below(directory);
  while (std::chrono::steady_clock::now() - begun < time) (void)writer->write(pages.next());
  Used used;
  used.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
  used.bytes_per_second = static_cast<double>(bytes_below(directory) - bytes) / used.seconds;
  used.cores =
      (cpu_seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu - cpu_seconds(CLOCK_THREAD_CPUTIME_ID) + drain) / used.seconds;
  return used;
}

json compared(double asked, double used, double seconds) {
  return {{"asked", asked}, {"used", used}, {"off_percent", 100 * (used / asked - 1)}, {"seconds", seconds}};
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"How well the caps of uploads are kept", "caps"};
  std::string below = "/dev/shm";
  double seconds = 5;
  app.add_option("--directory", below, "where the store is made, best in tmpfs");
  app.add_option("--seconds", seconds, "of each cap")->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  json result = {{"cores", json::array()}, {"bytes_per_second", json::array()}};
  const auto run = [&](const UploadLimits& limits) {
    std::string directory = below + "/stillpoint-caps-XXXXXX";
    if (::mkdtemp(directory.data()) == nullptr) {
      std::cerr << "cannot make " << directory << ": " << std::strerror(errno) << "\n";
      std::exit(1);
    }
    const Used used = store_for(std::chrono::duration<double>(seconds), limits, directory);
    fs::remove_all(directory);
    return used;
  };
  for (const double asked : {0.1, 0.25, 0.5, 0.75}) {
    const Used used = run({0, asked});
    result["cores"].push_back(compared(asked, used.cores, used.seconds));
  }
  for (const std::uint64_t asked : {std::uint64_t{10} << 20, std::uint64_t{50} << 20}) {
    const Used used = run({asked, 0});
    result["bytes_per_second"].push_back(compared(static_cast<double>(asked), used.bytes_per_second, used.seconds));
  }
  std::cout << result.dump(2) << "\n";
}
