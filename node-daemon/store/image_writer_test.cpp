#include "node-daemon/store/image_writer.h"

#include <doctest/doctest.h>

#include <condition_variable>
#include <mutex>
#include <thread>

#include "node-daemon/store/memory_files.h"
#include "node-daemon/store/store_test_data.h"

namespace stillpoint::node {
namespace {

// Takes nothing before it may.
struct Slow final : ImageIngest {
  struct Gate {
    std::mutex mutex;
    std::condition_variable changed;
    bool open = false;
    void let_go() {
      const std::lock_guard lock(mutex);
      open = true;
      changed.notify_all();
    }
  };
  explicit Slow(Gate& at) : gate(at) {}
  Status write(std::string_view) override {
    std::unique_lock lock(gate.mutex);
    gate.changed.wait(lock, [this] { return gate.open; });
    return {};
  }
  Result<ImageFigures> commit() override { return ImageFigures{}; }
  Gate& gate;
};

TEST_CASE("a writer that waits for the store ends when the image is given up") {
  Slow::Gate gate;
  std::stop_source stop;
  auto writer = make_image_writer(std::make_unique<Slow>(gate), "image", stop.get_token(), nullptr,
                                  std::make_shared<MemoryPool>(1));
  REQUIRE(writer->write("taken").has_value());
  std::jthread other([&] { stop.request_stop(); });
  const Status waited = writer->write("more");
  REQUIRE(!waited.has_value());
  CHECK(waited.error().kind == ErrorKind::refused);
  CHECK(writer->commit().error().kind == ErrorKind::refused);
  gate.let_go();
}

TEST_CASE("a writer that is destroyed at once ends, also when its thread is only just going to sleep") {
  Slow::Gate gate;
  const auto memory = std::make_shared<MemoryPool>(1);
  for (int i = 0; i < 3000; ++i) make_image_writer(std::make_unique<Slow>(gate), "image", {}, nullptr, memory).reset();
}

TEST_CASE("an image that was given up leaves nothing") {
  MemoryFiles files;
  auto store = ChunkStore::open(files, "/s", test::some_keys());
  REQUIRE(store.has_value());
  std::stop_source stop;
  {
    auto ingest = (*store)->begin("j7/e12/guest-0.ram", ImageKind::memory);
    REQUIRE(ingest.has_value());
    auto writer = make_image_writer(std::move(*ingest), "image", stop.get_token(), nullptr,
                                    std::make_shared<MemoryPool>(kImageMemoryBytes));
    REQUIRE(writer->write(test::TestGuest(1).stream()).has_value());
    stop.request_stop();
    CHECK(writer->write("more").error().kind == ErrorKind::refused);
    CHECK(writer->commit().error().kind == ErrorKind::refused);
  }
  CHECK(files.names().empty());
}

TEST_CASE("an error of the store stays") {
  MemoryFiles files;
  auto store = ChunkStore::open(files, "/s", test::some_keys());
  REQUIRE(store.has_value());
  auto ingest = (*store)->begin("j7/e12/guest-0.disk", ImageKind::flat);
  REQUIRE(ingest.has_value());
  auto writer =
      make_image_writer(std::move(*ingest), "image", {}, nullptr, std::make_shared<MemoryPool>(kImageMemoryBytes));
  files.fail_at(0, ENOSPC);
  (void)writer->write(test::flat_bytes(4, 3'000'000));
  CHECK(writer->commit().error().kind == ErrorKind::storage_full);
  CHECK(writer->write("more").error().kind == ErrorKind::storage_full);
}

}  // namespace
}  // namespace stillpoint::node
