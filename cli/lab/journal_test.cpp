#include "cli/lab/journal.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <filesystem>

#include "common/file.h"

using namespace stillpoint;
using namespace stillpoint::lab;
namespace fs = std::filesystem;

namespace {

Journal example() {
  Journal journal;
  journal.state = LabState::up;
  journal.options = {"/bin", "/guest", "/images", true, 1500, {"--a"}, {"--b", "c"}};
  journal.coordinator = {12, 34};
  journal.hosts = {
      {"h1", HostState::present, {56, 78}}, {"h2", HostState::killed, {}}, {"h3", HostState::cut_off, {9, 10}}};
  journal.made_directories = {"/a", "/a/b"};
  return journal;
}

struct Directory {
  Directory() {
    char name[] = "/tmp/stillpoint-journal-XXXXXX";
    path = ::mkdtemp(name);
  }
  ~Directory() { fs::remove_all(path); }
  fs::path path;
};

}  // namespace

TEST_CASE("a journal is read back as it was published") {
  Directory directory;
  REQUIRE(publish_journal(directory.path / "lab.json", example()).has_value());
  const auto read = read_journal(directory.path / "lab.json");
  REQUIRE(read.has_value());
  CHECK(*read == example());
}

TEST_CASE("publishing again replaces the journal and leaves nothing else") {
  Directory directory;
  auto journal = example();
  REQUIRE(publish_journal(directory.path / "lab.json", journal).has_value());
  journal.state = LabState::stopping;
  REQUIRE(publish_journal(directory.path / "lab.json", journal).has_value());
  CHECK(read_journal(directory.path / "lab.json")->state == LabState::stopping);
  CHECK(std::distance(fs::directory_iterator(directory.path), fs::directory_iterator()) == 1);
}

TEST_CASE("no journal is told apart from a broken one") {
  Directory directory;
  const auto none = read_journal(directory.path / "lab.json");
  REQUIRE_FALSE(none.has_value());
  CHECK(none.error().kind == ErrorKind::not_found);
  for (const char* text : {"", "{", "[]", "{\"version\":1}", "{\"version\":\"1\"}"}) {
    const auto broken = journal_from_json(text, "lab.json");
    REQUIRE_FALSE(broken.has_value());
    CHECK(broken.error().kind != ErrorKind::not_found);
  }
}

TEST_CASE("what a first publish left half-way counts as nothing") {
  Directory directory;
  CHECK(holds_nothing(directory.path));
  CHECK(holds_nothing(directory.path / "not-there"));
  REQUIRE(stillpoint::publish_file(directory.path / "lab.json.a1B2c3", "half").has_value());
  CHECK(holds_nothing(directory.path));
  REQUIRE(stillpoint::publish_file(directory.path / "mine", "").has_value());
  CHECK_FALSE(holds_nothing(directory.path));
}

TEST_CASE("what cannot be listed does not count as nothing") {
  Directory directory;
  const auto file = directory.path / "notes.txt";
  REQUIRE(stillpoint::publish_file(file, "somebody's").has_value());
  CHECK_FALSE(holds_nothing(file));
  CHECK_FALSE(holds_nothing(file / "below"));
  fs::create_symlink("loop", directory.path / "loop");
  CHECK_FALSE(holds_nothing(directory.path / "loop"));
}

TEST_CASE("a journal of another version is refused") {
  auto text = to_json(example());
  const auto at = text.find("\"version\": 1");
  REQUIRE(at != std::string::npos);
  text.replace(at, 12, "\"version\": 9");
  CHECK_FALSE(journal_from_json(text, "lab.json").has_value());
}
