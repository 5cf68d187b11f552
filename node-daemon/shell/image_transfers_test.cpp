// From one site's store to another's, in pieces: real stores on disk, each with keys of its own.
#include "node-daemon/shell/image_transfers.h"

#include <doctest/doctest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <random>

#include "common/failure.h"
#include "node-daemon/store/chunk_image_store.h"
#include "node-daemon/store/store_test_data.h"

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;

struct Site {
  fs::path path;
  std::unique_ptr<SiteImageStore> store;
  Site() {
    char name[] = "/tmp/stillpoint-transfers-XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    path = name;
    open();
  }
  Site(const Site&) = delete;
  Site& operator=(const Site&) = delete;
  ~Site() {
    store.reset();
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  void open() {
    store.reset();
    auto opened = open_chunk_image_store(path / "images", {"h1"}, path / "store.keys");
    REQUIRE_MESSAGE(opened.has_value(), opened.error());
    store = std::move(*opened);
  }
  // Packs and lists, whole ones and others.
  std::size_t files() const {
    return static_cast<std::size_t>(std::ranges::count_if(
        fs::recursive_directory_iterator(path / "images/hosts/h1"),
        [](const auto& entry) { return entry.is_regular_file() && entry.path().filename() != "lock"; }));
  }
};

std::string some_disk(std::size_t bytes) {
  std::string disk = test::flat_bytes(4, bytes);
  std::ranges::fill_n(disk.begin(), kDiskHeadBytes, '\0');
  disk.replace(0, 8, std::string("QFI\xfb\0\0\0\3", 8));
  return disk;
}

wire::ImageFile put(ImageStore& store, ImageName::Part part, const std::string& raw) {
  auto writer = store.begin({{"j1"}, {3}, {0}, part}, {});
  REQUIRE(writer.has_value());
  REQUIRE((*writer)->write(raw).has_value());
  auto file = (*writer)->commit();
  REQUIRE_MESSAGE(file.has_value(), file.error());
  return *file;
}

wire::ToHost read_of(const wire::ImageFile& file, std::uint64_t offset) {
  wire::ToHost ask;
  *ask.mutable_read_image()->mutable_file() = file;
  ask.mutable_read_image()->set_offset(offset);
  return ask;
}

// Every piece asked for twice, as after a session that was lost.
std::string read_all(ImageTransfers& transfers, const wire::ImageFile& file) {
  std::string raw;
  for (bool last = false; !last;) {
    const auto first = transfers.carry_out(read_of(file, raw.size()));
    const auto again = transfers.carry_out(read_of(file, raw.size()));
    REQUIRE_MESSAGE(!first.has_failure(), from_wire(first.failure()));
    REQUIRE(first.SerializeAsString() == again.SerializeAsString());
    CHECK(first.image_piece().data().size() <= 2 * ImageTransfers::kPieceBytes);
    raw += first.image_piece().data();
    last = first.image_piece().last();
  }
  return raw;
}

wire::ToHost write_of(bool disk, std::uint64_t offset, std::string_view data, bool last) {
  wire::ToHost ask;
  ask.mutable_gang()->set_job("j7");
  ask.set_epoch(12);
  auto& piece = *ask.mutable_write_image();
  piece.set_guest(1);
  piece.set_disk(disk);
  piece.set_offset(offset);
  piece.set_data(data.data(), data.size());
  piece.set_last(last);
  return ask;
}

wire::ImageFile write_all(ImageTransfers& transfers, bool disk, const std::string& raw, std::size_t piece = 100'000) {
  for (std::size_t at = 0;; at += piece) {
    const std::string_view data = std::string_view(raw).substr(at, piece);
    const bool last = at + data.size() == raw.size();
    const auto first = transfers.carry_out(write_of(disk, at, data, last));
    REQUIRE_MESSAGE(!first.has_failure(), from_wire(first.failure()));
    REQUIRE(transfers.carry_out(write_of(disk, at, data, last)).SerializeAsString() == first.SerializeAsString());
    if (last) return first.image_written().file();
  }
}

std::string cause_of(const wire::FromHost& answer) {
  REQUIRE(answer.has_failure());
  return answer.failure().cause();
}

TEST_CASE("images go from one site's store into another's, sealed with another key, byte for byte") {
  Site from, to;
  const std::string memory = test::TestGuest(1, 1, 900).stream(), disk = some_disk(3'000'000);
  const auto memory_file = put(*from.store, ImageName::Part::memory, memory);
  const auto disk_file = put(*from.store, ImageName::Part::disk, disk);
  ImageTransfers source(*from.store), target(*to.store);
  const std::string memory_read = read_all(source, memory_file);
  CHECK(test::same_machine(memory_read, memory));
  CHECK(read_all(source, disk_file) == disk);

  const auto memory_there = write_all(target, false, memory_read), disk_there = write_all(target, true, disk);
  CHECK(memory_there.path() == "h1/j7/e12/guest-1.ram");
  to.open();
  ImageTransfers again(*to.store);
  CHECK(read_all(again, memory_there) == memory_read);
  CHECK(read_all(again, disk_there) == disk);
}

TEST_CASE("an export goes on where it was, whoever read something else in between, or begins anew") {
  Site site;
  const std::string disk = some_disk(2'000'000);
  const auto file = put(*site.store, ImageName::Part::disk, disk);
  ImageTransfers transfers(*site.store);
  const std::string first = transfers.carry_out(read_of(file, 0)).image_piece().data();
  REQUIRE(first == disk.substr(0, first.size()));
  const std::string odd = transfers.carry_out(read_of(file, 1'234'567)).image_piece().data();
  CHECK(odd == disk.substr(1'234'567, odd.size()));
  const std::string second = transfers.carry_out(read_of(file, first.size())).image_piece().data();
  CHECK(second == disk.substr(first.size(), second.size()));
  CHECK(cause_of(transfers.carry_out(read_of(file, 3'000'000))).find("it ends before") != std::string::npos);
}

TEST_CASE("pieces that do not follow one another are refused") {
  Site site;
  ImageTransfers transfers(*site.store);
  const std::string disk = some_disk(5'000);
  CHECK(cause_of(transfers.carry_out(write_of(true, 100, "x", false))).find("begin again") != std::string::npos);
  REQUIRE(!transfers.carry_out(write_of(true, 0, disk, false)).has_failure());
  CHECK(cause_of(transfers.carry_out(write_of(true, 6'000, "x", false))).find("does not follow") != std::string::npos);
  CHECK(cause_of(transfers.carry_out(write_of(true, 4'999, "x", false))).find("does not follow") != std::string::npos);
  CHECK(!transfers.carry_out(write_of(true, 5'000, "x", true)).has_failure());
  CHECK(cause_of(transfers.carry_out(write_of(true, 5'001, "x", true))).find("does not follow") != std::string::npos);
}

TEST_CASE("what is no machine's memory is refused, and leaves nothing") {
  Site site;
  ImageTransfers transfers(*site.store);
  const std::size_t before = site.files();
  const std::string bytes = test::TestGuest(1).stream();
  const auto answer =
      transfers.carry_out(write_of(false, 0, std::string_view(bytes).substr(0, bytes.size() / 2), true));
  CHECK(answer.has_failure());
  transfers.forget({"j7"}, {Epoch{12}});
  CHECK(site.files() == before);
}

TEST_CASE("a disk that names another file is refused: a guest would see that file of the host") {
  Site site;
  ImageTransfers transfers(*site.store);
  const auto refused = [&](std::size_t at, char value, const std::string& word) {
    std::string disk = some_disk(1'000);
    disk[at] = value;
    const auto answer = transfers.carry_out(write_of(true, 0, disk, true));
    CHECK_MESSAGE(cause_of(answer).find(word) != std::string::npos, cause_of(answer));
    transfers.forget({"j7"}, {Epoch{12}});
  };
  refused(0, 'R', "is none");
  refused(7, 4, "version");
  refused(15, 104, "backing file");
  refused(8, 1, "backing file");
  refused(35, 1, "encrypted");
  refused(79, 4, "in another file");
  CHECK(!check_foreign_disk(std::string_view("QFI\xfb\0\0\0\3", 8)).has_value());
}

TEST_CASE("an image that nobody goes on with, or whose checkpoint is deleted, leaves nothing") {
  Site site;
  const std::string disk = some_disk(9'000'000);
  const std::size_t before = site.files();
  ImageTransfers transfers(*site.store);
  const auto begun = [&] { REQUIRE(!transfers.carry_out(write_of(true, 0, disk, false)).has_failure()); };
  begun();
  transfers.expire();
  REQUIRE(!transfers.carry_out(write_of(true, disk.size(), "more", false)).has_failure());
  transfers.expire(ImageTransfers::Clock::now() + ImageTransfers::kIdle);
  CHECK(transfers.carry_out(write_of(true, disk.size() + 4, "more", false)).has_failure());
  CHECK(site.files() == before);
  begun();
  transfers.forget({"j7"}, {Epoch{11}});
  REQUIRE(!transfers.carry_out(write_of(true, disk.size(), "more", false)).has_failure());
  transfers.forget({"j7"}, {Epoch{12}});
  CHECK(transfers.carry_out(write_of(true, disk.size() + 4, "more", false)).has_failure());
  CHECK(site.files() == before);
  begun();
  transfers.stop();
  CHECK(transfers.carry_out(write_of(true, disk.size(), "more", false)).has_failure());
}

// In a process of its own: so many pieces of two images, and then it is killed.
void bring_and_die(const Site& site, const std::string& disk, std::size_t pieces) {
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child != 0) {
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    REQUIRE(WIFSIGNALED(status));
    REQUIRE(WTERMSIG(status) == SIGKILL);
    return;
  }
  auto store = open_chunk_image_store(site.path / "images", {"h1"}, site.path / "store.keys");
  if (!store) ::_exit(1);
  ImageTransfers transfers(**store);
  constexpr std::size_t kPiece = 1u << 20;
  for (std::uint32_t guest = 0, done = 0; guest < 2; ++guest)
    for (std::size_t at = 0; at < disk.size(); at += kPiece, ++done) {
      if (done == pieces) ::raise(SIGKILL);
      wire::ToHost ask = write_of(true, at, std::string_view(disk).substr(at, kPiece), at + kPiece >= disk.size());
      ask.mutable_write_image()->set_guest(guest);
      if (transfers.carry_out(ask).has_failure()) ::_exit(1);
    }
  ::raise(SIGKILL);
}

TEST_CASE(
    "a daemon that is killed in an import: what was whole is named to the coordinator, and nothing else is left") {
  Site site;
  site.store.reset();
  const std::size_t empty = site.files();
  std::mt19937_64 random(3);
  std::string disk(20u << 20, '\0');  // incompressible: packs are written long before the end
  for (std::size_t at = 0; at < disk.size(); at += 8) {
    const std::uint64_t number = random();
    std::memcpy(disk.data() + at, &number, 8);
  }
  disk.replace(0, kDiskHeadBytes, some_disk(kDiskHeadBytes));
  for (const std::size_t pieces :
       {std::size_t{1}, std::size_t{15}, std::size_t{20}, std::size_t{33}, std::size_t{40}}) {
    CAPTURE(pieces);
    bring_and_die(site, disk, pieces);
    site.open();
    auto held = site.store->held();
    REQUIRE(held.has_value());
    CHECK(held->jobs_size() == (pieces >= 20 ? 1 : 0));
    REQUIRE(site.store->remove({"j7"}, {Epoch{12}}, ImageStore::Reach::own, {}).has_value());
    site.store->tidy();
    CHECK(site.files() == empty);
    site.store.reset();
  }
}

}  // namespace
}  // namespace stillpoint::node
