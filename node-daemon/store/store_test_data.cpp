#include "node-daemon/store/store_test_data.h"

#include <cstring>

#include "node-daemon/store/bytes.h"

namespace stillpoint::node::test {
namespace {

constexpr std::uint32_t kRamSection = 2;

void put_footer(std::string& out) {
  put_be(out, std::uint8_t{0x7e});
  put_be(out, kRamSection);
}

std::string stream_head(const std::vector<RamBlock>& blocks) {
  std::string out;
  put_be(out, std::uint32_t{0x5145564d});
  put_be(out, std::uint32_t{3});
  const std::string machine = "pc-q35-10.0", capabilities = "configuration/capabilities", one = "background-snapshot";
  put_be(out, std::uint8_t{7});
  put_be(out, static_cast<std::uint32_t>(machine.size()));
  out += machine;
  put_be(out, std::uint8_t{5});
  put_be(out, static_cast<std::uint8_t>(capabilities.size()));
  out += capabilities;
  put_be(out, std::uint32_t{1});
  put_be(out, std::uint32_t{1});
  put_be(out, static_cast<std::uint8_t>(one.size()));
  out += one;
  put_be(out, std::uint8_t{1});
  put_be(out, kRamSection);
  out += std::string("\3ram") + std::string("\0\0\0\0\0\0\0\4", 8);
  std::uint64_t total = 0;
  for (const RamBlock& block : blocks) total += block.bytes;
  put_be(out, total | 4);
  for (const RamBlock& block : blocks) {
    put_be(out, static_cast<std::uint8_t>(block.name.size()));
    out += block.name;
    put_be(out, block.bytes);
  }
  put_be(out, std::uint64_t{0x10});
  put_footer(out);
  return out;
}

}  // namespace

SiteKeys some_keys() {
  SiteKey key{7, {}};
  key.key.fill(0x5a);
  return SiteKeys({key});
}

std::string page_of(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::string page(kPageBytes, '\0');
  for (std::size_t i = 0; i < page.size(); i += 8) {
    const std::uint64_t word = seed == 0 ? 0 : i % 64 == 0 ? random() : seed;
    std::memcpy(page.data() + i, &word, 8);
  }
  return page;
}

std::string flat_bytes(std::uint64_t seed, std::size_t bytes) {
  std::string out;
  for (std::uint64_t i = 1; out.size() < bytes; ++i) out += page_of(i % 3 == 0 ? 0 : seed * 1'000'000 + i);
  out.resize(bytes);
  return out;
}

TestGuest::TestGuest(std::uint64_t seed, std::uint64_t common, std::uint64_t ram_pages) {
  blocks[0].bytes = ram_pages * kPageBytes;
  std::mt19937_64 random(seed);
  for (const RamBlock& block : blocks) {
    auto& pages = seeds.emplace_back(block.pages());
    for (std::size_t i = 0; i < pages.size(); ++i)
      pages[i] = i % 4 == 0 ? 0 : i % 4 == 1 ? common * 1000 + i : random();
  }
  devices = "\4" + flat_bytes(seed, 9'001);
}

void TestGuest::change(std::mt19937_64& random, unsigned pages) {
  for (unsigned i = 0; i < pages; ++i) {
    auto& block = seeds[random() % seeds.size()];
    block[random() % block.size()] = random() % 8 == 0 ? 0 : random();
  }
  devices[1 + random() % (devices.size() - 1)] ^= 0x11;
}

std::string TestGuest::stream(std::mt19937_64* disorder) const {
  std::string out = stream_head(blocks);
  StreamShape shape;
  shape.has_pages = shape.footer = true;
  shape.section_id = kRamSection;
  RamStreamWriter writer(shape, blocks);
  const auto write = [&](std::uint32_t block, std::uint64_t page, std::uint64_t seed) {
    if (seed == 0) writer.zero_page(out, block, page);
    else writer.page(out, block, page, page_of(seed));
  };
  writer.begin(out);
  for (unsigned i = 0; disorder != nullptr && i < 20; ++i) {
    const auto block = static_cast<std::uint32_t>((*disorder)() % blocks.size());
    write(block, (*disorder)() % seeds[block].size(), (*disorder)());
  }
  for (std::uint32_t block = 0; block < blocks.size(); ++block) {
    for (std::uint64_t page = 0; page < seeds[block].size(); ++page) write(block, page, seeds[block][page]);
    if (block == 0) {
      writer.end(out);
      writer.begin(out);
    }
  }
  writer.end(out);
  return out + devices;
}

Result<StreamShape> parse(std::string_view stream, RamStreamSink& sink, std::size_t piece) {
  RamStreamParser parser(sink);
  for (std::size_t at = 0; at < stream.size(); at += piece)
    if (auto done = parser.push(stream.substr(at, piece)); !done) return done.error();
  return parser.finish();
}

std::string write_again(const Machine& machine, const StreamShape& shape) {
  std::string out = machine.others.substr(0, shape.head_bytes);
  RamStreamWriter writer(shape, machine.blocks);
  writer.begin(out);
  for (const auto& [at, content] : machine.pages)
    if (content.find_first_not_of('\0') == content.npos) writer.zero_page(out, at.first, at.second);
    else writer.page(out, at.first, at.second, content);
  writer.end(out);
  return out + machine.others.substr(shape.head_bytes);
}

bool same_machine(const std::string& a, const std::string& b) {
  Machine one, two;
  const auto shape = parse(a, one), other = parse(b, two);
  return shape && other && one == two && shape->head_bytes == other->head_bytes;
}

Result<ImageFigures> put(ChunkStore& store, const std::string& name, ImageKind kind, const std::string& image,
                         std::size_t piece) {
  auto ingest = store.begin(name, kind);
  if (!ingest) return ingest.error();
  for (std::size_t at = 0; at < image.size(); at += piece)
    if (auto done = (*ingest)->write(std::string_view(image).substr(at, piece)); !done) return done.error();
  return (*ingest)->commit();
}

Result<std::string> get(ChunkStore& store, const std::string& name) {
  auto source = store.read(name);
  if (!source) return source.error();
  std::string image;
  for (;;) {
    auto piece = (*source)->read();
    if (!piece) return piece.error();
    if (piece->empty()) return image;
    image += *piece;
  }
}

}  // namespace stillpoint::node::test
