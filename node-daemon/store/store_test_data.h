// Images for the store's tests: a small guest whose memory changes, as the migration streams that QEMU would write.
#pragma once

#include <map>
#include <random>
#include <string>
#include <vector>

#include "node-daemon/store/chunk_store.h"

namespace stillpoint::node::test {

SiteKeys some_keys();

// A guest's memory and devices; every page is made from a seed, 0 is a page of zeros.
struct TestGuest {
  std::vector<RamBlock> blocks{
      {"pc.ram", 300 * kPageBytes}, {"/rom@etc/acpi", 2 * kPageBytes}, {"vga", 40 * kPageBytes}};
  std::vector<std::vector<std::uint64_t>> seeds;
  std::string devices;

  // common: so do some pages of other guests look.
  explicit TestGuest(std::uint64_t seed, std::uint64_t common = 1, std::uint64_t ram_pages = 300);
  void change(std::mt19937_64& random, unsigned pages);
  // In order, or as background-snapshot writes it: some pages early, some twice with an old content first.
  std::string stream(std::mt19937_64* disorder = nullptr) const;
};

std::string page_of(std::uint64_t seed);
// Bytes of which some compress.
std::string flat_bytes(std::uint64_t seed, std::size_t bytes);

// What a stream says, in memory.
struct Machine final : RamStreamSink {
  std::vector<RamBlock> blocks;
  std::map<std::pair<std::uint32_t, std::uint64_t>, std::string> pages;
  std::string others;

  Status ram(const std::vector<RamBlock>& found) override {
    blocks = found;
    return {};
  }
  Status page(std::uint32_t block, std::uint64_t page, std::string_view content) override {
    pages[{block, page}] = content;
    return {};
  }
  Status zero_page(std::uint32_t block, std::uint64_t page) override {
    pages[{block, page}] = std::string(kPageBytes, '\0');
    return {};
  }
  Status other(std::string_view bytes) override {
    others += bytes;
    return {};
  }
  bool operator==(const Machine& other) const {
    return blocks == other.blocks && pages == other.pages && others == other.others;
  }
};

Result<StreamShape> parse(std::string_view stream, RamStreamSink& sink, std::size_t piece = 1u << 20);
std::string write_again(const Machine& machine, const StreamShape& shape);

// Whether two streams load the same machine: pages by block and number, and all other bytes.
bool same_machine(const std::string& a, const std::string& b);

Result<ImageFigures> put(ChunkStore& store, const std::string& name, ImageKind kind, const std::string& image,
                         std::size_t piece = 10'000);
Result<std::string> get(ChunkStore& store, const std::string& name);

}  // namespace stillpoint::node::test
