#include "node-daemon/store/read_ahead.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "node-daemon/store/memory_files.h"
#include "node-daemon/store/store_test_data.h"

namespace stillpoint::node {
namespace {

constexpr const char* kImage = "j7/e12/guest-0.ram";

// An image of a real store, as a reader.
class FromStore final : public ImageReader {
 public:
  explicit FromStore(std::unique_ptr<ImageSource> source) : source_(std::move(source)) {}
  Result<std::string> read() override { return source_->read(); }

 private:
  const std::unique_ptr<ImageSource> source_;
};

struct StoreOfOne {
  MemoryFiles files;
  std::unique_ptr<ChunkStore> store;
  explicit StoreOfOne(const std::string& image) {
    auto opened = ChunkStore::open(files, "/s", test::some_keys());
    REQUIRE(opened.has_value());
    store = std::move(*opened);
    REQUIRE(test::put(*store, kImage, ImageKind::memory, image).has_value());
  }
  std::unique_ptr<ImageReader> reader() {
    auto source = store->read(kImage);
    REQUIRE(source.has_value());
    return std::make_unique<FromStore>(std::move(*source));
  }
};

// Pieces without end, each of one byte; tells how many it gave, and waits before one of them until it may go on.
struct Endless final : ImageReader {
  struct Gate {
    std::mutex mutex;
    std::condition_variable changed;
    std::size_t given = 0, holds_at = ~std::size_t{0};
    bool held = false;
    std::size_t most_ahead = 0;
    std::atomic<std::size_t> taken = 0;
  };
  explicit Endless(Gate& at) : gate(at) {}
  Result<std::string> read() override {
    std::unique_lock lock(gate.mutex);
    gate.held = gate.given == gate.holds_at;
    gate.changed.notify_all();
    gate.changed.wait(lock, [this] { return gate.given != gate.holds_at; });
    ++gate.given;
    gate.most_ahead = std::max(gate.most_ahead, gate.given - gate.taken);
    return std::string("x");
  }
  Gate& gate;
};

TEST_CASE("what is read ahead is what the image is, its end stays its end") {
  const std::string image = test::TestGuest(1, 1, 3000).stream();
  StoreOfOne one(image);
  auto ahead = read_ahead(one.reader(), 1);
  std::string whole;
  for (;;) {
    auto piece = ahead->read();
    REQUIRE(piece.has_value());
    if (piece->empty()) break;
    whole += *piece;
  }
  CHECK(test::same_machine(whole, image));
  CHECK(ahead->read()->empty());
}

TEST_CASE("damage in the middle comes after all that was before it, and stays") {
  StoreOfOne one(test::TestGuest(1, 1, 3000).stream());
  for (auto& [path, content] : one.files.names())
    if (path.extension() == ".pack") content->bytes[content->bytes.size() * 3 / 4] ^= 1;
  const auto direct = one.reader();
  const auto ahead = read_ahead(one.reader());
  for (std::size_t pieces = 0;; ++pieces) {
    const auto expected = direct->read(), got = ahead->read();
    REQUIRE(expected.has_value() == got.has_value());
    if (got) {
      REQUIRE(*got == *expected);
      continue;
    }
    CHECK(pieces > 0);
    CHECK(got.error().kind == ErrorKind::damaged);
    CHECK(got.error().message() == expected.error().message());
    CHECK(ahead->read().error().message() == got.error().message());
    break;
  }
}

TEST_CASE("no more is read ahead than the buffer holds") {
  Endless::Gate gate;
  auto ahead = read_ahead(std::make_unique<Endless>(gate), 10);
  for (int i = 0; i < 5000; ++i) {
    REQUIRE(ahead->read().has_value());
    ++gate.taken;
  }
  ahead.reset();
  // One more was out of the buffer, and not counted as taken yet.
  CHECK(gate.most_ahead <= 11);
}

TEST_CASE("the next pieces are read while nobody asks for them") {
  Endless::Gate gate;
  gate.holds_at = 7;
  auto ahead = read_ahead(std::make_unique<Endless>(gate), 10);
  std::unique_lock lock(gate.mutex);
  CHECK(gate.changed.wait_for(lock, std::chrono::seconds(60), [&] { return gate.held; }));
  gate.holds_at = ~std::size_t{0};
  gate.changed.notify_all();
}

TEST_CASE("a reader that is given up ends: with a full buffer, while a piece is read, at once") {
  for (const std::size_t room : {std::size_t{1}, std::size_t{1} << 20}) {
    Endless::Gate gate;
    const auto ahead = read_ahead(std::make_unique<Endless>(gate), room);
    REQUIRE(ahead->read().has_value());
  }
  {
    Endless::Gate gate;
    gate.holds_at = 3;
    auto ahead = read_ahead(std::make_unique<Endless>(gate));
    {
      std::unique_lock lock(gate.mutex);
      REQUIRE(gate.changed.wait_for(lock, std::chrono::seconds(60), [&] { return gate.held; }));
    }
    std::jthread other([&] {
      const std::lock_guard lock(gate.mutex);
      gate.holds_at = ~std::size_t{0};
      gate.changed.notify_all();
    });
    ahead.reset();
  }
  Endless::Gate gate;
  for (int i = 0; i < 3000; ++i) read_ahead(std::make_unique<Endless>(gate), 10).reset();
}

}  // namespace
}  // namespace stillpoint::node
