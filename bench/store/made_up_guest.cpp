#include "bench/store/made_up_guest.h"

#include <cstring>

#include "node-daemon/store/bytes.h"

namespace stillpoint::bench {

using namespace stillpoint::node;

namespace {

constexpr std::size_t kPiece = 1u << 20;
constexpr std::size_t kDeviceBytes = 100'000;

// splitmix64: a generator of better numbers would be what is measured.
std::uint64_t next(std::uint64_t& state) {
  std::uint64_t z = state += 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

std::string_view content(std::uint64_t seed, std::string& page) {
  for (std::size_t i = 0; i < page.size(); i += 8) {
    const std::uint64_t word = next(seed) & (i % 32 == 0 ? ~std::uint64_t{0} : 0x0f0f);
    std::memcpy(page.data() + i, &word, 8);
  }
  return page;
}

}  // namespace

MadeUpGuest::MadeUpGuest(std::size_t mib, std::uint64_t seed)
    : random_(seed), blocks_{{"pc.ram", std::uint64_t{mib} << 20}}, seeds_(blocks_[0].pages()) {
  for (auto& page : seeds_) page = random_() % 3 == 0 ? 0 : random_();
}

std::size_t MadeUpGuest::change(std::size_t places) {
  std::set<std::size_t> changed;
  for (std::size_t i = 0; i < places; ++i) {
    const std::size_t page = random_() % seeds_.size();
    seeds_[page] = random_();
    changed.insert(page);
  }
  return changed.size();
}

void MadeUpGuest::stream(const std::function<void(std::string_view)>& take) const {
  std::string out, page(kPageBytes, '\0');
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
  for (std::size_t i = 0; i < seeds_.size(); ++i) {
    if (seeds_[i] == 0) writer.zero_page(out, 0, i);
    else writer.page(out, 0, i, content(seeds_[i], page));
    if (out.size() < kPiece) continue;
    take(out);
    out.clear();
  }
  writer.end(out);
  take(out);
  take(std::string(kDeviceBytes, '\0'));
}

std::string MadeUpGuest::stream() const {
  std::string whole;
  stream([&whole](std::string_view piece) { whole += piece; });
  return whole;
}

}  // namespace stillpoint::bench
