// What an epoch costs in which nothing changed, as a function of the guest's memory, and what one brings in which 5 %
// of the pages changed at random places. Prints one JSON document; asserts nothing.
//
//   bench/run store-epochs, or store-epochs [--directory TMPFS] [--rounds N] [--mib N]…
// Streams are made up piece by piece: what lies in memory is the store. Only what the store does is timed.
#include <CLI/CLI.hpp>
#include <iostream>

#include "bench/store/bench_tools.h"
#include "bench/store/made_up_guest.h"

using namespace stillpoint;
using namespace stillpoint::node;
using namespace stillpoint::bench;
using nlohmann::json;

namespace {

constexpr double kInterval = 60;  // seconds between two checkpoints, for the share of a core

struct Epoch {
  ImageFigures figures;
  double wall = 0, cpu = 0;
};

Epoch take_up(ChunkStore& store, unsigned number, const MadeUpGuest& guest) {
  Times times;
  std::unique_ptr<ImageIngest> ingest;
  Epoch epoch;
  timed(times,
        [&] { ingest = must(store.begin("j1/e" + std::to_string(number) + "/guest-0.ram", ImageKind::memory)); });
  guest.stream([&](std::string_view piece) { timed(times, [&] { must(ingest->write(piece)); }); });
  timed(times, [&] { epoch.figures = must(ingest->commit()); });
  for (const double seconds : times.wall) epoch.wall += seconds;
  for (const double seconds : times.cpu) epoch.cpu += seconds;
  return epoch;
}

json unchanged(Place& place, std::size_t mib, std::size_t rounds) {
  auto store = place.new_store();
  const MadeUpGuest guest(mib);
  (void)take_up(*store, 1, guest);
  Times times;
  Epoch epoch;
  for (unsigned round = 0; round < rounds; ++round) {
    epoch = take_up(*store, 2 + round, guest);
    times.wall.push_back(epoch.wall);
    times.cpu.push_back(epoch.cpu);
  }
  store.reset();
  place.remove_stores();
  const double cpu = median(times.cpu), gib = static_cast<double>(mib) / 1024;
  return {{"memory_mib", mib},
          {"seconds", spread(times.wall)},
          {"cpu_seconds", spread(times.cpu)},
          {"cpu_seconds_per_gib", cpu / gib},
          {"share_of_a_core_at_one_a_minute", cpu / kInterval},
          {"ingest", speeds(times, epoch.figures.raw_bytes)},
          {"epoch", figures_of(epoch.figures)}};
}

json random_places(Place& place, std::size_t mib) {
  auto store = place.new_store();
  MadeUpGuest guest(mib);
  (void)take_up(*store, 1, guest);
  const std::size_t changed = guest.change(guest.pages() / 20) * kPageBytes;
  const auto figures = take_up(*store, 2, guest).figures;
  store.reset();
  place.remove_stores();
  return {{"memory_mib", mib},
          {"dirtied_bytes", changed},
          {"epoch", figures_of(figures)},
          {"taken_up_to_dirtied", static_cast<double>(figures.new_pages * kPageBytes) / static_cast<double>(changed)}};
}

}  // namespace

int main(int argc, char** argv) {
  std::filesystem::path directory = "/dev/shm";
  std::vector<std::size_t> sizes;
  std::size_t rounds = 5;
  CLI::App app{"Cost of an epoch with nothing changed, by the guest's memory"};
  app.add_option("--directory", directory, "where the store is made; a tmpfs, or its disk is measured too");
  app.add_option("--rounds", rounds)->check(CLI::Range(1, 1000));
  app.add_option("--mib", sizes, "a guest's memory; once for each (512, 1024, 2048, 4096)");
  CLI11_PARSE(app, argc, argv);
  if (sizes.empty()) sizes = {512, 1024, 2048, 4096};

  Place place(directory);
  json document = {{"benchmark", "store-epochs"}, {"unchanged", json::array()}};
  for (const std::size_t mib : sizes) document["unchanged"].push_back(unchanged(place, mib, rounds));
  document["five_percent_at_random_places"] = random_places(place, 1024);
  document["setup"] = {{"rounds", rounds}, {"load_average", load_average()}, {"interval_seconds", kInterval}};
  std::cout << document.dump(2) << "\n";
}
