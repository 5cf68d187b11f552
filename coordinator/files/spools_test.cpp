#include "coordinator/files/spools.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "coordinator/files/below.h"

using namespace stillpoint;
using namespace stillpoint::coordinator;
namespace fs = std::filesystem;

namespace {

struct Root {
  fs::path path;
  Root() {
    std::string name = (fs::temp_directory_path() / "stillpoint-spools-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~Root() { fs::remove_all(path); }
};

Status put(Spools& spools, const std::string& id, const std::string& name, std::string_view data) {
  auto upload = spools.begin(id, name);
  if (!upload) return upload.error();
  if (auto written = (*upload)->write(data); !written) return written;
  return (*upload)->commit(0600);
}

std::string made(Spools& spools) {
  auto id = spools.create();
  REQUIRE(id.has_value());
  return *id;
}

}  // namespace

TEST_CASE("limits of a spool: files, bytes of one, bytes of all") {
  Root root;
  SpoolLimits limits;
  limits.files = 3;
  limits.bytes = 100;
  limits.file_bytes = 60;
  Spools spools(root.path / "spool", limits);
  REQUIRE(spools.open({}).has_value());
  const auto id = made(spools);
  CHECK(put(spools, id, "large", std::string(61, 'x')).has_error());
  CHECK(put(spools, id, "a", std::string(60, 'x')).has_value());
  CHECK(put(spools, id, "b", std::string(50, 'x')).has_error());
  CHECK(put(spools, id, "c", "").has_error());  // the third file was tried already
  CHECK(fs::is_empty(root.path / "spool" / id / "partial"));
}

TEST_CASE("spools that no job has taken are bounded; abandoned ones make room") {
  Root root;
  SpoolLimits limits;
  limits.unclaimed = 2;
  SUBCASE("bounded") {
    Spools spools(root.path / "spool", limits);
    REQUIRE(spools.open({}).has_value());
    const auto first = made(spools), second = made(spools);
    {
      auto a = spools.begin(first, "a"), b = spools.begin(second, "b");
      REQUIRE(a.has_value());
      REQUIRE(b.has_value());
      auto third = spools.create();
      REQUIRE(third.has_error());
      CHECK(third.error().kind == ErrorKind::transient);
    }
    REQUIRE(put(spools, first, "a", "x").has_value());
    const auto third = made(spools);  // in the place of the one that was left alone for longest
    CHECK_FALSE(fs::exists(root.path / "spool" / second));
    CHECK(fs::exists(root.path / "spool" / first / "files" / "a"));
    REQUIRE(spools.claim(first, {}).has_value());
    const auto fourth = made(spools);
    CHECK(fs::exists(root.path / "spool" / third));
    CHECK(fs::exists(root.path / "spool" / fourth));
    CHECK(fs::exists(root.path / "spool" / first));  // a job's
  }
  SUBCASE("abandoned") {
    limits.abandoned = std::chrono::minutes(0);
    Spools spools(root.path / "spool", limits);
    REQUIRE(spools.open({}).has_value());
    const auto first = made(spools);
    for (int i = 0; i < 10; ++i) made(spools);
    CHECK_FALSE(fs::exists(root.path / "spool" / first));
    CHECK(put(spools, first, "a", "x").has_error());
  }
}

TEST_CASE("a claimed spool takes nothing more and is claimed once; an unclaimed one is free again") {
  Root root;
  Spools spools(root.path / "spool");
  REQUIRE(spools.open({}).has_value());
  const auto id = made(spools);
  REQUIRE(put(spools, id, "a", "x").has_value());
  CHECK(spools.claim(id, {"a", "b"}).has_error());
  REQUIRE(spools.claim(id, {"a"}).has_value());
  CHECK(spools.claim(id, {"a"}).has_error());
  CHECK(put(spools, id, "b", "x").has_error());
  spools.unclaim(id);
  CHECK(put(spools, id, "b", "x").has_value());
  CHECK(spools.claim(id, {"a", "b"}).has_value());
  CHECK(spools.claim("", {}).has_value());
  CHECK(spools.claim("", {"a"}).has_error());
  CHECK(spools.claim("../" + id, {}).has_error());
}

TEST_CASE("a claim waits for no upload: it is refused while one is under way") {
  Root root;
  Spools spools(root.path / "spool");
  REQUIRE(spools.open({}).has_value());
  const auto id = made(spools);
  auto upload = spools.begin(id, "a");
  REQUIRE(upload.has_value());
  CHECK(spools.claim(id, {}).has_error());
  upload->reset();
  CHECK(spools.claim(id, {}).has_value());
  CHECK(fs::is_empty(root.path / "spool" / id / "partial"));
}

TEST_CASE("a new start removes what no job owns and keeps what one does") {
  Root root;
  std::string owned, other;
  {
    Spools spools(root.path / "spool");
    REQUIRE(spools.open({}).has_value());
    owned = made(spools);
    other = made(spools);
    REQUIRE(put(spools, owned, "a", "x").has_value());
    auto broken_off = spools.begin(owned, "b");
    REQUIRE(broken_off.has_value());
    REQUIRE((*broken_off)->write("half").has_value());
    fs::copy(root.path / "spool" / owned / "partial", root.path / "left");  // as a crash leaves it
  }
  fs::remove(root.path / "spool" / owned / "partial");
  fs::rename(root.path / "left", root.path / "spool" / owned / "partial");
  Spools spools(root.path / "spool");
  REQUIRE(spools.open({owned}).has_value());
  CHECK_FALSE(fs::exists(root.path / "spool" / other));
  CHECK(spools.open_file(owned, "a").has_value());
  CHECK_FALSE(fs::exists(root.path / "spool" / owned / "partial"));
  CHECK(put(spools, owned, "c", "x").has_error());
}

TEST_CASE("only regular files are opened, through no symlink") {
  Root root;
  fs::create_directory(root.path / "dir");
  fs::create_symlink("/etc/passwd", root.path / "link");
  fs::create_directory_symlink("/etc", root.path / "linked");
  REQUIRE(::mkfifo((root.path / "pipe").c_str(), 0600) == 0);
  for (const char* name : {"dir", "link", "linked/passwd", "pipe", "../x", "none"}) {
    CAPTURE(name);
    CHECK(open_below(root.path, name, O_RDONLY).has_error());
  }
  CHECK(open_below(root.path, "dir/new", O_RDWR | O_CREAT).has_value());
}

TEST_CASE("what does not fit beside the catalog's reserve is refused before it is written") {
  Root root;
  CHECK(room_for(root.path, 1).has_value());
  auto room = room_for(root.path, 1ull << 60);
  REQUIRE(room.has_error());
  CHECK(room.error().kind == ErrorKind::storage_full);
}
