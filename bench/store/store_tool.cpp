// The chunk store as a program, for the benchmarks that are scripts:
//   store-tool take-up STORE KEYS IMAGE <STREAM     one image into a store, which is made if it is not there
//   store-tool give-back STORE KEYS IMAGE >STREAM   one image out of a store, which may be another process's
// IMAGE: JOB/eEPOCH/guest-G.ram
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <iostream>

#include "bench/store/bench_tools.h"

using namespace stillpoint;
using namespace stillpoint::node;
using namespace stillpoint::bench;

namespace {

void take_up(ChunkStore& store, const std::string& image) {
  auto ingest = must(store.begin(image, ImageKind::memory));
  std::string piece(1u << 20, '\0');
  for (;;) {
    const ssize_t n = ::read(STDIN_FILENO, piece.data(), piece.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) must(errno_error("read", "stdin", errno));
    if (n == 0) break;
    must(ingest->write(std::string_view(piece).substr(0, static_cast<std::size_t>(n))));
  }
  std::cout << figures_of(must(ingest->commit())).dump() << "\n";
}

void give_back(ChunkStore& store, const std::string& image) {
  auto source = must(store.read(image));
  for (;;) {
    const std::string piece = must(source->read());
    if (piece.empty()) return;
    for (std::string_view left = piece; !left.empty();) {
      const ssize_t n = ::write(STDOUT_FILENO, left.data(), left.size());
      if (n < 0 && errno != EINTR) must(errno_error("write", "stdout", errno));
      if (n > 0) left.remove_prefix(static_cast<std::size_t>(n));
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::string directory, keys, image;
  CLI::App app{"The chunk store as a program"};
  app.require_subcommand(1);
  auto* const in = app.add_subcommand("take-up", "stdin into an image");
  auto* const out = app.add_subcommand("give-back", "an image to stdout");
  for (auto* const command : {in, out}) {
    command->add_option("STORE", directory)->required();
    command->add_option("KEYS", keys)->required();
    command->add_option("IMAGE", image)->required();
  }
  CLI11_PARSE(app, argc, argv);
  ChunkStoreOptions options;
  options.read_only = out->parsed();
  auto store = must(ChunkStore::open(system_files(), directory, must(load_site_keys(keys)), options));
  if (in->parsed()) take_up(*store, image);
  else give_back(*store, image);
}
