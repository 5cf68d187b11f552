// A real file system, small and on a loop device, that runs full at every step of what a node daemon does with its
// store. It is mounted in a mount namespace of this process: however the process ends, the kernel takes it away.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <map>

#include "common/fd.h"
#include "common/process.h"
#include "node-daemon/store/store_history.h"
#include "node-daemon/store/watched_files.h"

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;
using test::FileStep;
using test::History;
using test::WatchedFiles;

constexpr std::uint64_t kDiskBytes = 12u << 20;

// Somewhere that is everywhere; what is there is hidden from this process alone.
const fs::path kHidden = "/mnt";

class SmallDisk {
 public:
  SmallDisk() {
    REQUIRE_MESSAGE(::unshare(CLONE_NEWNS) == 0, "a mount namespace needs root: ", std::strerror(errno));
    REQUIRE(::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0);
    REQUIRE(::mount("tmpfs", kHidden.c_str(), "tmpfs", 0, "size=64m") == 0);
    const fs::path image = kHidden / "image";
    { std::ofstream file(image); }
    fs::resize_file(image, kDiskBytes);
    fs::create_directory(path());
    for (const auto& made : {run_checked({"mkfs.ext4", "-q", "-b", "1024", "-m", "0", image}),
                             run_checked({"mount", "-o", "loop", image, path()})})
      REQUIRE_MESSAGE(made.has_value(), made.error());
    fs::remove(path() / "lost+found");
  }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;
  ~SmallDisk() {
    ::umount2(path().c_str(), MNT_DETACH);
    ::umount2(kHidden.c_str(), MNT_DETACH);
  }
  fs::path path() const { return kHidden / "disk"; }
  fs::path store() const { return path() / "store"; }

  // Not a block is left.
  void fill() const {
    Fd file(::open(ballast().c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    REQUIRE(file);
    REQUIRE(::syncfs(file.get()) == 0);  // what was deleted is free only when the journal says so
    off_t end = 0;
    for (off_t piece = 1 << 20; piece >= 1024;)
      if (::fallocate(file.get(), 0, end, piece) == 0) end += piece;
      else if (errno == ENOSPC) piece /= 2;
      else FAIL("the disk could not be filled: ", std::strerror(errno));
    struct statvfs figures {};
    REQUIRE(::statvfs(path().c_str(), &figures) == 0);
    REQUIRE(figures.f_bavail == 0);
  }
  void make_room() const { fs::remove(ballast()); }

 private:
  fs::path ballast() const { return path() / "ballast"; }
};

void check_promises(ChunkStore& store, const History& history) {
  for (const std::string& broken : test::broken_promises(store, history.images(), history.facts())) FAIL_CHECK(broken);
}

void collect(ChunkStore& store, const fs::path& directory) {
  const auto collected = store.collect();
  REQUIRE_MESSAGE(collected.has_value(), collected.error());
  for (const Error& problem : collected->problems) FAIL_CHECK(problem);
  for (const std::string& name : test::rubbish(system_files(), directory)) FAIL_CHECK(name);
}

// The same store, not opened again: it takes up what it could not before.
void check_goes_on(ChunkStore& store, const History& history, const fs::path& directory) {
  collect(store, directory);
  check_promises(store, history);
  for (const test::Image& image : history.images()) {
    if (!image.name.starts_with("j1/e3/")) continue;
    const auto taken = test::put(store, image.name, image.kind, image.bytes);
    REQUIRE_MESSAGE(taken.has_value(), taken.error());
  }
  for (const std::string& broken : test::broken_promises(store, history.images(), {})) FAIL_CHECK(broken);
  REQUIRE(store.remove("j1/").has_value());
  collect(store, directory);
  CHECK(fs::is_empty(directory / "packs"));
}

TEST_CASE(
    "a disk that is full from any step on: said so, what was committed reads, and it goes on when there is room") {
  SmallDisk disk;
  std::uint64_t steps = 0, failed = 0;
  {
    WatchedFiles files(system_files(), [&](const FileStep& at) { steps += at.changes() ? 1 : 0; });
    History history;
    const Status done = history.run(files, disk.store());
    REQUIRE_MESSAGE(done.has_value(), done.error());
  }
  fs::remove_all(disk.store());
  std::map<std::string, int> where;  // the store ran into it
  for (std::uint64_t n = 0; n < steps; ++n) {
    std::uint64_t step = 0;
    std::string filled_before;
    WatchedFiles files(system_files(), [&](const FileStep& at) {
      if (!at.changes() || step++ != n) return;
      filled_before = at.text();
      disk.fill();
    });
    History history;
    const Status done = history.run(files, disk.store());
    CAPTURE(n);
    CAPTURE(filled_before);
    if (!done) {
      ++failed;
      CAPTURE(done.error());
      CHECK(done.error().kind == ErrorKind::storage_full);
      CHECK(done.error().object.starts_with(disk.store().string()));
      const std::string& object = done.error().object;
      ++where[done.error().step + object.substr(std::min(object.size(), object.find('.')))];
    }
    if (history.store() != nullptr) check_promises(*history.store(), history);
    disk.make_room();
    if (history.store() != nullptr) {
      check_goes_on(*history.store(), history, disk.store());
    } else {  // it was to be opened when there was no room for its directories
      auto store = History::open(system_files(), disk.store());
      REQUIRE_MESSAGE(store.has_value(), store.error());
      check_goes_on(**store, history, disk.store());
    }
    fs::remove_all(disk.store());
  }
  std::string found;
  for (const auto& [name, count] : where) found += std::to_string(count) + " times " + name + ", ";
  MESSAGE("full: ", failed, " of ", steps, " runs failed: ", found);
  CHECK(failed * 10 > steps * 8);
  for (const char* what : {"make directory", "write.pack.tmp", "write.ram.tmp", "write.disk.tmp"})
    CHECK_MESSAGE(where[what] > 0, what);
}

}  // namespace
}  // namespace stillpoint::node
