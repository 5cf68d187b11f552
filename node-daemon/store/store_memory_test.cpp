// What a node daemon's store takes of memory, however large the machines are and however many of them are captured and
// restored side by side. A process of its own: what is measured is the most that it ever had.
#include <doctest/doctest.h>
#include <stdlib.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <thread>

#include "node-daemon/store/bytes.h"
#include "node-daemon/store/chunk_image_store.h"
#include "node-daemon/store/ram_stream.h"
#include "node-daemon/store/read_ahead.h"

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kGuests = 4, kGuestBytes = std::uint64_t{8} << 30;
constexpr std::uint64_t kEvery = 3;  // of so many pages of a guest one is not zeros: they fill the index
constexpr std::uint64_t kMostMemory = 256u << 20;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kMeasures = false;  // most of the memory is the sanitizer's
#else
constexpr bool kMeasures = true;
#endif

std::uint64_t most_memory() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;)
    if (std::uint64_t kib = 0; word == "VmHWM:" && status >> kib) return kib << 10;
  return 0;
}

struct Directory {
  fs::path path;
  Directory() {
    std::string name = "/tmp/stillpoint-memory-XXXXXX";
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~Directory() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
};

// The migration stream of a guest, made while it is read: what is in no page is like QEMU's, a page has its number.
class Stream {
 public:
  explicit Stream(std::uint64_t guest) : guest_(guest) {
    shape_.has_pages = true;
    shape_.section_id = 2;
  }
  // Some 256 KiB; empty: the end.
  std::string next() {
    std::string out;
    if (page_ == 0) head(out);
    for (; page_ < blocks_[0].pages() && out.size() < 256u << 10; ++page_)
      if (page_ % kEvery != 0) writer_.zero_page(out, 0, page_);
      else writer_.page(out, 0, page_, content());
    if (page_ == blocks_[0].pages() && !ended_) {
      writer_.end(out);
      out += std::string(100'000, 'd');
      ended_ = true;
    }
    return out;
  }

 private:
  void head(std::string& out) {
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
    writer_.begin(out);
  }
  std::string content() const {
    std::string page(kPageBytes, '\0');
    const std::uint64_t number = guest_ << 40 | (page_ + 1);
    std::memcpy(page.data(), &number, sizeof number);
    return page;
  }

  const std::uint64_t guest_;
  const std::vector<RamBlock> blocks_{{"pc.ram", kGuestBytes}};
  StreamShape shape_;
  RamStreamWriter writer_{shape_, blocks_};
  std::uint64_t page_ = 0;
  bool ended_ = false;
};

Result<wire::ImageFile> capture(ImageStore& store, std::uint64_t guest) {
  auto writer = store.begin({{"j1"}, {1}, {guest}, ImageName::Part::memory}, {});
  if (!writer) return writer.error();
  Stream stream(guest);
  for (;;) {
    const std::string piece = stream.next();
    if (piece.empty()) return (*writer)->commit();
    if (auto written = (*writer)->write(piece); !written) return written.error();
  }
}

// Whether it is the same stream, byte for byte.
bool restores(ImageStore& store, const wire::ImageFile& file, std::uint64_t guest) {
  auto opened = store.open(file, {});
  if (!opened) return false;
  const auto reader = read_ahead(std::move(*opened));  // as the daemon does
  Stream stream(guest);
  std::string expected;
  for (;;) {
    auto piece = reader->read();
    if (!piece) return false;
    while (expected.size() < piece->size()) {
      const std::string more = stream.next();
      if (more.empty()) break;
      expected += more;
    }
    if (piece->empty()) return expected.empty();
    if (expected.compare(0, piece->size(), *piece) != 0) return false;
    expected.erase(0, piece->size());
  }
}

TEST_CASE("four machines of 8 GiB, captured and restored side by side, in bounded memory") {
  share_heap();  // as the daemon does
  const Directory directory;
  auto store = open_chunk_image_store(directory.path / "images", {"h1"}, directory.path / "store.keys");
  REQUIRE_MESSAGE(store.has_value(), store.error());
  std::vector<Result<wire::ImageFile>> files(kGuests, Error{});
  {
    std::vector<std::jthread> guests;
    for (std::uint64_t guest = 0; guest < kGuests; ++guest)
      guests.emplace_back([&, guest] { files[guest] = capture(**store, guest); });
  }
  const std::uint64_t after_capture = most_memory();
  for (const auto& file : files) REQUIRE_MESSAGE(file.has_value(), file.error());
  std::array<bool, kGuests> same{};
  {
    std::vector<std::jthread> guests;
    for (std::uint64_t guest = 0; guest < kGuests; ++guest)
      guests.emplace_back([&, guest] { same[guest] = restores(**store, *files[guest], guest); });
  }
  CHECK(std::ranges::all_of(same, [](bool one) { return one; }));
  MESSAGE("MiB at most: ", after_capture >> 20, " after the captures, ", most_memory() >> 20, " after the restores");
  if (kMeasures) CHECK(most_memory() <= kMostMemory);
}

}  // namespace
}  // namespace stillpoint::node
