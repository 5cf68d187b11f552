// How fast the chunk store takes images up and gives them back, and how small, against `zstd -1` on the same bytes in
// the same run. Prints one JSON document; asserts nothing. Everything on one thread, so wall and CPU time are both
// given: on a busy machine the latter is the one to compare.
//
//   bench/run chunk-store, or chunk-store [--directory TMPFS] [--rounds N] [STREAM…]
// STREAM: successive migration streams of one guest. Without: streams made up, of --mib MiB, 5 % of their pages changed
// from one to the next at random places.
#include <malloc.h>
#include <unistd.h>
#include <zstd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <random>

#include "node-daemon/store/bytes.h"
#include "node-daemon/store/chunk_store.h"

using namespace stillpoint;
using namespace stillpoint::node;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

constexpr std::size_t kPiece = 1u << 20;

template <class T>
T must(Result<T> result) {
  if (result) return std::move(*result);
  std::cerr << result.error() << "\n";
  std::exit(1);
}
void must(const Status& status) {
  if (status) return;
  std::cerr << status.error() << "\n";
  std::exit(1);
}

struct Times {
  std::vector<double> wall, cpu;
};

double cpu_seconds() {
  timespec now{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

std::uint64_t memory_figure(const std::string& name) {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;)
    if (std::uint64_t kib = 0; word == name && status >> kib) return kib << 10;
  return 0;
}

template <class F>
void timed(Times& times, F&& work) {
  const double cpu = cpu_seconds();
  const auto start = std::chrono::steady_clock::now();
  work();
  times.wall.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  times.cpu.push_back(cpu_seconds() - cpu);
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

json speeds(const Times& times, std::uint64_t bytes) {
  const auto mb_per_s = [bytes](double seconds) { return static_cast<double>(bytes) / seconds / 1e6; };
  return {{"mb_per_s", mb_per_s(median(times.wall))},
          {"mb_per_cpu_s", mb_per_s(median(times.cpu))},
          {"slowest_mb_per_cpu_s", mb_per_s(*std::ranges::max_element(times.cpu))},
          {"fastest_mb_per_cpu_s", mb_per_s(*std::ranges::min_element(times.cpu))}};
}

std::string load(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// A guest's memory: a third zeros, the rest in between text and noise, as memory is.
class MadeUpGuest {
 public:
  explicit MadeUpGuest(std::size_t mib) : blocks_{{"pc.ram", std::uint64_t{mib} << 20}}, seeds_(blocks_[0].pages()) {
    for (auto& seed : seeds_) seed = random_() % 3 == 0 ? 0 : random_();
  }
  void change(double share) {
    const auto count = static_cast<std::size_t>(share * static_cast<double>(seeds_.size()));
    for (std::size_t i = 0; i < count; ++i) seeds_[random_() % seeds_.size()] = random_();
  }
  std::string stream() const {
    std::string out;
    put_be(out, std::uint32_t{0x5145564d});
    put_be(out, std::uint32_t{3});
    put_be(out, std::uint8_t{1});
    put_be(out, std::uint32_t{2});
    out += std::string("\3ram") + std::string("\0\0\0\0\0\0\0\4", 8);
    put_be(out, blocks_[0].bytes | 4);
    put_be(out, static_cast<std::uint8_t>(blocks_[0].name.size()));
    out += blocks_[0].name;
    put_be(out, blocks_[0].bytes);
    put_be(out, std::uint64_t{0x10});
    StreamShape shape;
    shape.has_pages = true;
    shape.section_id = 2;
    RamStreamWriter writer(shape, blocks_);
    writer.begin(out);
    for (std::size_t page = 0; page < seeds_.size(); ++page)
      if (seeds_[page] == 0) writer.zero_page(out, 0, page);
      else writer.page(out, 0, page, content(seeds_[page]));
    writer.end(out);
    return out + std::string(100'000, '\0');
  }

 private:
  static std::string content(std::uint64_t seed) {
    std::mt19937_64 random(seed);
    std::string page(kPageBytes, '\0');
    for (std::size_t i = 0; i < page.size(); i += 8) {
      const std::uint64_t word = random() & (i % 32 == 0 ? ~std::uint64_t{0} : 0x0f0f);
      std::memcpy(page.data() + i, &word, 8);
    }
    return page;
  }
  std::mt19937_64 random_{7};
  std::vector<RamBlock> blocks_;
  std::vector<std::uint64_t> seeds_;
};

ImageFigures take_up(ChunkStore& store, const std::string& name, const std::string& image) {
  auto ingest = must(store.begin(name, ImageKind::memory));
  for (std::size_t at = 0; at < image.size(); at += kPiece)
    must(ingest->write(std::string_view(image).substr(at, kPiece)));
  return must(ingest->commit());
}

std::uint64_t give_back(ChunkStore& store, const std::string& name) {
  auto source = must(store.read(name));
  for (std::uint64_t bytes = 0;;) {
    const std::string piece = must(source->read());
    if (piece.empty()) return bytes;
    bytes += piece.size();
  }
}

std::uint64_t zstd_1(const std::string& image) {
  ZSTD_CCtx* const context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, 1);
  std::string out(ZSTD_CStreamOutSize(), '\0');
  std::uint64_t bytes = 0;
  ZSTD_inBuffer in{image.data(), image.size(), 0};
  for (std::size_t left = 1; left != 0;) {
    ZSTD_outBuffer to{out.data(), out.size(), 0};
    left = ZSTD_compressStream2(context, &to, &in, ZSTD_e_end);
    bytes += to.pos;
  }
  ZSTD_freeCCtx(context);
  return bytes;
}

json figures_of(const ImageFigures& figures) {
  return {{"raw_bytes", figures.raw_bytes},      {"pages", figures.pages},
          {"zero_pages", figures.zero_pages},    {"known_pages", figures.known_pages},
          {"new_pages", figures.new_pages},      {"new_bytes", figures.new_pages * kPageBytes},
          {"stored_bytes", figures.stored_bytes}};
}

}  // namespace

int main(int argc, char** argv) {
  fs::path directory = "/dev/shm";
  std::vector<std::string> streams;
  std::size_t rounds = 5, mib = 512;
  CLI::App app{"Speed and size of the chunk store"};
  app.add_option("--directory", directory, "where the store is made; a tmpfs, or its disk is measured too");
  app.add_option("--rounds", rounds)->check(CLI::Range(1, 1000));
  app.add_option("--mib", mib, "of the made-up guest's memory");
  app.add_option("streams", streams);
  CLI11_PARSE(app, argc, argv);

  std::vector<std::string> images;
  for (const std::string& path : streams) images.push_back(load(path));
  if (images.empty()) {
    MadeUpGuest guest(mib);
    for (int i = 0; i < 3; ++i, guest.change(0.05)) images.push_back(guest.stream());
  }

  // From here on the peak counts anew.
  ::malloc_trim(0);
  std::ofstream("/proc/self/clear_refs") << "5";
  const std::uint64_t memory_before = memory_figure("VmRSS:");

  std::vector<Times> ingest(images.size()), zstd(images.size());
  Times unchanged, restore;
  json document;
  std::uint64_t restored = 0;
  for (std::size_t round = 0; round < rounds; ++round) {
    const fs::path place = directory / ("stillpoint-store-bench-" + std::to_string(::getpid()));
    fs::create_directories(place);
    auto store = must(ChunkStore::open(system_files(), place / "store", must(load_site_keys(place / "keys"))));
    json taken = json::array();
    for (std::size_t i = 0; i < images.size(); ++i) {
      ImageFigures figures;
      timed(ingest[i], [&] { figures = take_up(*store, "j1/e" + std::to_string(i) + "/guest-0.ram", images[i]); });
      taken.push_back(figures_of(figures));
      std::uint64_t compressed = 0;
      timed(zstd[i], [&] { compressed = zstd_1(images[i]); });
      taken.back()["zstd_1_bytes"] = compressed;
    }
    ImageFigures again;
    timed(unchanged, [&] { again = take_up(*store, "j1/e100/guest-0.ram", images.back()); });
    timed(restore, [&] { restored = give_back(*store, "j1/e100/guest-0.ram"); });
    document["images"] = std::move(taken);
    document["unchanged"] = figures_of(again);
    document["index_bytes"] = store->figures().index_bytes;
    store.reset();
    fs::remove_all(place);
  }
  for (std::size_t i = 0; i < images.size(); ++i) {
    document["images"][i]["ingest"] = speeds(ingest[i], images[i].size());
    document["images"][i]["zstd_1"] = speeds(zstd[i], images[i].size());
    document["images"][i]["ingest_to_zstd_1"] = median(zstd[i].cpu) / median(ingest[i].cpu);
  }
  document["unchanged"]["ingest"] = speeds(unchanged, images.back().size());
  document["restore"] = speeds(restore, restored);
  document["memory_bytes"] = memory_figure("VmHWM:") - memory_before;
  document["rounds"] = rounds;
  std::cout << document.dump(2) << "\n";
}
