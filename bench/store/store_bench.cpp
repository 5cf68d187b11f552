// How fast the chunk store takes images up and gives them back, and how small, against `zstd -1` on the same bytes in
// the same run; and what it takes up as new, against a comparison page by page. Prints one JSON document; asserts
// nothing. Everything on one thread, so wall and processor time are both given: on a busy machine the latter is the one
// to compare, and ratios more than either.
//
//   bench/run chunk-store, or chunk-store [--directory TMPFS] [--rounds N] [--other STREAM]… [STREAM…]
// STREAM: successive migration streams of one guest; --other: those of another guest of the same host. Without: streams
// made up, of --mib MiB, 5 % of their pages changed from one to the next at random places. bench/store-real has those
// of real guests.
#include <zstd.h>

#include <CLI/CLI.hpp>
#include <iostream>

#include "bench/store/bench_tools.h"
#include "bench/store/made_up_guest.h"
#include "bench/store/page_comparison.h"

using namespace stillpoint;
using namespace stillpoint::node;
using namespace stillpoint::bench;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

constexpr std::size_t kPiece = 1u << 20;

std::string image_name(std::size_t epoch, std::size_t guest = 0) {
  return "j1/e" + std::to_string(epoch) + "/guest-" + std::to_string(guest) + ".ram";
}

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

json speed_and_size(Place& place, const std::vector<std::string>& images, std::size_t rounds,
                    const ChunkStoreOptions& options) {
  reset_peak();
  const std::uint64_t memory_before = memory_figure("VmRSS:");
  std::vector<Times> ingest(images.size()), zstd(images.size());
  Times unchanged, restore;
  json document;
  std::uint64_t restored = 0;
  for (std::size_t round = 0; round < rounds; ++round) {
    auto store = place.new_store(options);
    json taken = json::array();
    for (std::size_t i = 0; i < images.size(); ++i) {
      ImageFigures figures;
      timed(ingest[i], [&] { figures = take_up(*store, image_name(i), images[i]); });
      taken.push_back(figures_of(figures));
      std::uint64_t compressed = 0;
      timed(zstd[i], [&] { compressed = zstd_1(images[i]); });
      taken.back()["zstd_1_bytes"] = compressed;
    }
    ImageFigures again;
    timed(unchanged, [&] { again = take_up(*store, image_name(100), images.back()); });
    timed(restore, [&] { restored = give_back(*store, image_name(100)); });
    document["images"] = std::move(taken);
    document["unchanged"] = figures_of(again);
    document["index_bytes"] = store->figures().index_bytes;
    store.reset();
    place.remove_stores();
  }
  for (std::size_t i = 0; i < images.size(); ++i) {
    document["images"][i]["ingest"] = speeds(ingest[i], images[i].size());
    document["images"][i]["zstd_1"] = speeds(zstd[i], images[i].size());
    document["images"][i]["ingest_speed_to_zstd_1"] = ratios(zstd[i].cpu, ingest[i].cpu);
  }
  document["unchanged"]["ingest"] = speeds(unchanged, images.back().size());
  document["restore"] = speeds(restore, restored);
  document["memory_bytes"] = memory_figure("VmHWM:") - memory_before;
  return document;
}

// All guests of a host, epoch after epoch.
json taken_up_as_new(Place& place, const std::vector<std::vector<std::string>>& guests) {
  auto store = place.new_store();
  PageComparison comparison;
  json images = json::array();
  std::uint64_t taken = 0, compared = 0, distinct = 0;
  for (std::size_t epoch = 0; epoch < guests[0].size(); ++epoch)
    for (std::size_t guest = 0; guest < guests.size(); ++guest) {
      if (epoch >= guests[guest].size()) continue;
      const auto figures = take_up(*store, image_name(epoch, guest), guests[guest][epoch]);
      const auto expected = comparison.add(guest, guests[guest][epoch]);
      taken += figures.new_pages * kPageBytes;
      compared += expected.bytes;
      distinct += expected.distinct_bytes;
      images.push_back({{"epoch", epoch},
                        {"guest", guest},
                        {"taken_up_bytes", figures.new_pages * kPageBytes},
                        {"by_page_bytes", expected.bytes},
                        {"distinct_bytes", expected.distinct_bytes}});
    }
  store.reset();
  place.remove_stores();
  return {{"images", images},
          {"taken_up_bytes", taken},
          {"by_page_bytes", compared},
          {"distinct_bytes", distinct},
          {"taken_up_to_by_page", static_cast<double>(taken) / static_cast<double>(compared)}};
}

std::vector<std::string> load_all(const std::vector<std::string>& paths) {
  std::vector<std::string> images;
  for (const std::string& path : paths) images.push_back(load(path));
  return images;
}

std::vector<std::string> made_up(std::size_t mib, std::uint64_t seed) {
  std::vector<std::string> images;
  MadeUpGuest guest(mib, seed);
  for (int i = 0; i < 3; ++i, guest.change(guest.pages() / 20)) images.push_back(guest.stream());
  return images;
}

}  // namespace

int main(int argc, char** argv) {
  fs::path directory = "/dev/shm";
  std::vector<std::string> streams, others;
  std::size_t rounds = 5, mib = 512;
  ChunkStoreOptions options;
  CLI::App app{"Speed and size of the chunk store"};
  app.add_option("--directory", directory, "where the store is made; a tmpfs, or its disk is measured too");
  app.add_option("--rounds", rounds)->check(CLI::Range(1, 1000));
  app.add_option("--mib", mib, "of the made-up guest's memory");
  app.add_option("--other", others, "a stream of another guest of the host; once for each")->allow_extra_args(false);
  app.add_option("--level", options.level, "of zstd")->check(CLI::Range(kLeastLevel, kMostLevel));
  app.add_option("streams", streams);
  CLI11_PARSE(app, argc, argv);

  Place place(directory);
  std::vector<std::vector<std::string>> guests;
  guests.push_back(streams.empty() ? made_up(mib, 7) : load_all(streams));
  json document = speed_and_size(place, guests[0], rounds, options);
  guests.push_back(streams.empty() ? made_up(mib, 8) : load_all(others));
  document["taken_up_as_new"] = taken_up_as_new(place, guests);
  document["benchmark"] = "chunk-store";
  document["setup"] = {{"rounds", rounds},
                       {"level", options.level},
                       {"load_average", load_average()},
                       {"streams", streams.empty() ? "made up" : "given"}};
  std::cout << document.dump(2) << "\n";
}
