// A partner that is killed at every step of taking copies, on real files; and a host that is killed while it sends one.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "common/fd.h"
#include "node-daemon/store/mirrors.h"
#include "node-daemon/store/store_copy.h"
#include "node-daemon/store/store_history.h"
#include "node-daemon/store/watched_files.h"

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;
using test::FileStep;
using test::flat_bytes;
using test::WatchedFiles;

// In memory: what a killed process has written is the kernel's.
struct Place {
  fs::path path;
  Place() {
    char name[] = "/dev/shm/stillpoint-copies-XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    path = name;
    fs::create_directories(path / "partner");
  }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;
  ~Place() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  fs::path owner() const { return path / "owner"; }
  fs::path partner() const { return path / "partner"; }
};

constexpr const char* kOwner = "h1";

// What the partner's server does with what it is sent (peer_server.h), piece by piece.
class IntoMirror final : public BlobStore {
 public:
  explicit IntoMirror(Mirrors& mirrors) : mirrors_(mirrors) {}
  const std::string& where() const override { return where_; }
  Status put(const std::string& name, const ReadableFile& content, std::stop_token) override {
    constexpr std::size_t kPiece = 50'000;
    auto file = mirrors_.begin({kOwner}, name.substr(name.find('/') + 1), content.size());
    if (!file) return file.error();
    for (std::uint64_t at = 0; at < content.size(); at += kPiece) {
      auto piece = content.read(at, static_cast<std::size_t>(std::min<std::uint64_t>(kPiece, content.size() - at)));
      if (!piece) return piece.error();
      if (auto written = (*file)->write(*piece); !written) return written;
    }
    return (*file)->commit();
  }
  Result<std::shared_ptr<const ReadableFile>> open(const std::string& name) override { return refused(name); }
  Result<std::vector<std::string>> list(const std::string& name) override { return refused(name); }
  Status remove(const std::string& name) override { return refused(name); }

 private:
  static Error refused(const std::string& name) { return {ErrorKind::refused, "copy", name, "only put into"}; }
  Mirrors& mirrors_;
  const std::string where_ = "the partner";
};

std::string image(int epoch) { return "j1/e" + std::to_string(epoch) + "/guest-0.disk"; }
std::string content(int epoch) {
  // What stays the same, and what is new.
  return flat_bytes(1, 300'000) + flat_bytes(static_cast<std::uint64_t>(10 + epoch), 200'000);
}

Result<std::unique_ptr<ChunkStore>> open_owner(const Place& place) {
  return ChunkStore::open(system_files(), place.owner(), test::some_keys());
}

Status copy(Mirrors& mirrors, ChunkStore& own, int epoch) {
  auto mirror = mirrors.open({kOwner});
  if (!mirror) return mirror.error();
  IntoMirror to(mirrors);
  auto copied = copy_image(own, image(epoch), **mirror, to, kOwner, {});
  return copied ? Status{} : Status(copied.error());
}

// Two copies, the first one deleted and its space freed, another copy. told: before a copy goes, after one has come.
Status history(Files& files, const Place& place, const std::function<void(const std::string&)>& told) {
  auto own = open_owner(place);
  if (!own) return own.error();
  Mirrors mirrors(files, place.partner(), {"h2"}, test::some_keys());
  const auto copied = [&](int epoch) -> Status {
    const Status done = copy(mirrors, **own, epoch);
    if (done) told("+" + image(epoch));
    return done;
  };
  for (const int epoch : {1, 2})
    if (auto done = copied(epoch); !done) return done;
  told("-" + image(1));
  if (auto removed = remove_images(files, place.partner() / kOwner / "images", "j1/e1/"); !removed) return removed;
  if (auto collected = mirrors.collect({kOwner}); !collected) return collected.error();
  return copied(3);
}

void put_images(const Place& place) {
  auto own = open_owner(place);
  REQUIRE_MESSAGE(own.has_value(), own.error());
  for (const int epoch : {1, 2, 3})
    REQUIRE(test::put(**own, image(epoch), ImageKind::flat, content(epoch)).has_value());
}

[[noreturn]] void live_until(std::uint64_t death, bool after, const Place& place, int told) {
  std::uint64_t step = 0;
  const auto look = [&](const FileStep& at, bool is_after) {
    if (!at.changes()) return;
    if (step == death && after == is_after) {
      ::kill(::getpid(), SIGKILL);
      ::pause();
    }
    step += is_after ? 1 : 0;
  };
  WatchedFiles files(
      system_files(), [&](const FileStep& at) { look(at, false); }, [&](const FileStep& at) { look(at, true); });
  const Status done = history(files, place, [&](const std::string& line) {
    const std::string all = line + "\n";
    if (::write(told, all.data(), all.size()) != static_cast<ssize_t>(all.size())) ::_exit(3);
  });
  ::_exit(done ? 0 : 1);
}

bool killed(std::uint64_t death, bool after, const Place& place, test::Facts& facts) {
  int ends[2];
  REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  Fd in(ends[0]), out(ends[1]);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) live_until(death, after, place, out.get());
  out.reset();
  std::string said;
  char block[4096];
  for (ssize_t n; (n = ::read(in.get(), block, sizeof block)) > 0;) said.append(block, static_cast<std::size_t>(n));
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  for (std::size_t at = 0, end; (end = said.find('\n', at)) != said.npos; at = end + 1)
    facts.take(said.substr(at, end - at));
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) return true;
  REQUIRE(WIFEXITED(status));
  REQUIRE(WEXITSTATUS(status) == 0);
  return false;
}

// What the partner's next daemon finds, and what the owner's next copy makes of it.
void check_after(const Place& place, const test::Facts& facts) {
  std::vector<test::Image> images;
  for (const int epoch : {1, 2, 3}) images.push_back({image(epoch), content(epoch), ImageKind::flat});
  Mirrors mirrors(system_files(), place.partner(), {"h2"}, test::some_keys());
  auto mirror = mirrors.open({kOwner});
  REQUIRE_MESSAGE(mirror.has_value(), mirror.error());
  for (const std::string& broken : test::broken_promises(**mirror, images, facts)) FAIL_CHECK(broken);
  const auto collect = [&] {
    const auto collected = mirrors.collect({kOwner});
    REQUIRE_MESSAGE(collected.has_value(), collected.error());
    for (const Error& problem : collected->problems) FAIL_CHECK(problem);
    for (const std::string& name : test::rubbish(system_files(), place.partner() / kOwner))
      if (name.find("lock") == name.npos) FAIL_CHECK(name);
  };
  collect();
  auto own = open_owner(place);
  REQUIRE_MESSAGE(own.has_value(), own.error());
  for (const int epoch : {1, 2, 3}) {
    const Status done = copy(mirrors, **own, epoch);
    REQUIRE_MESSAGE(done.has_value(), done.error());
    CHECK(*test::get(**mirror, image(epoch)) == content(epoch));
  }
  collect();
  REQUIRE((*mirror)->remove("j1/").has_value());
  collect();
  CHECK(fs::is_empty(place.partner() / kOwner / "packs"));
}

TEST_CASE("a partner killed at any step of taking copies keeps what it has promised, and no rubbish for long") {
  std::uint64_t steps = 0, deaths = 0;
  {
    Place place;
    put_images(place);
    WatchedFiles files(system_files(), [&](const FileStep& step) { steps += step.changes() ? 1 : 0; });
    const Status done = history(files, place, [](const std::string&) {});
    REQUIRE_MESSAGE(done.has_value(), done.error());
  }
  REQUIRE(steps > 30);
  for (std::uint64_t n = 0; n < steps; ++n)
    for (const bool after : {false, true}) {
      CAPTURE(n);
      CAPTURE(after);
      Place place;
      put_images(place);
      test::Facts facts;
      deaths += killed(n, after, place, facts) ? 1 : 0;
      check_after(place, facts);
    }
  CHECK(deaths > steps);
  MESSAGE(deaths, " deaths at ", steps, " steps");
}

TEST_CASE("what a host was sending when it died leaves nothing at its partner") {
  Place place;
  put_images(place);
  auto own = open_owner(place);
  REQUIRE_MESSAGE(own.has_value(), own.error());
  Mirrors mirrors(system_files(), place.partner(), {"h2"}, test::some_keys());
  const BlockSlots block = (*own)->blocks(image(1))->front();
  const auto pack = (*own)->pack(block.origin, block.number);
  REQUIRE(pack.has_value());
  const auto list = (*own)->image_file(image(1));
  REQUIRE(list.has_value());
  // The connection ends: so does what came over it.
  for (const auto& [name, file] : {std::pair{"packs/" + pack->name, pack->file}, {"images/" + image(1), *list}}) {
    auto incoming = mirrors.begin({kOwner}, name, file->size());
    REQUIRE_MESSAGE(incoming.has_value(), incoming.error());
    REQUIRE((*incoming)->write(*file->read(0, 50)).has_value());
    CHECK_FALSE(fs::is_empty(place.partner() / kOwner / "packs"));
    incoming->reset();
    CHECK(fs::is_empty(place.partner() / kOwner / "packs"));
  }
}

}  // namespace
}  // namespace stillpoint::node
