// The parser against testdata/: good manifests give no problems, bad ones exactly the lines of their .expected file
// (STILLPOINT_UPDATE_GOLDEN=1 writes those anew). What examples cannot show is below them.
#include "jobs/manifest.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "common/file.h"
#include "jobs/spec_json.h"
#include "jobs/units.h"

using namespace stillpoint;
using namespace stillpoint::jobs;
namespace fs = std::filesystem;

namespace {

const fs::path kTestData = fs::path(STILLPOINT_SOURCE_DIR) / "jobs/testdata";

// Paths in errors are relative to the manifest's folder.
struct InFolder {
  explicit InFolder(const fs::path& folder) : before(fs::current_path()) { fs::current_path(folder); }
  ~InFolder() { fs::current_path(before); }
  fs::path before;
};

std::vector<fs::path> manifests(const fs::path& folder) {
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() == ".yaml") found.push_back(entry.path());
  }
  std::sort(found.begin(), found.end());
  REQUIRE(!found.empty());
  return found;
}

std::string text_of(const fs::path& path) {
  auto text = read_file(path);
  REQUIRE(text.has_value());
  return *text;
}

std::string lines(const std::vector<Problem>& problems, const std::string& file) {
  std::string text;
  for (const auto& problem : problems) text += format_problem(file, problem) + "\n";
  return text;
}

std::string with(const std::string& guests, const std::string& mpi, const std::string& rest = "") {
  return "apiVersion: stillpoint/v1\nkind: MpiJob\nmetadata: {name: melt}\nspec:\n  guests: {" + guests +
         "}\n  mpi: {" + mpi + "}\n" + rest;
}

// Every problem stands inside the text, in order, and says something.
void check_sane(const std::string& text, const std::vector<Problem>& problems) {
  const auto line_count = static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n')) + 1;
  REQUIRE(problems.size() <= 201);
  REQUIRE(
      std::is_sorted(problems.begin(), problems.end(), [](const auto& a, const auto& b) { return a.mark < b.mark; }));
  for (const auto& problem : problems) {
    REQUIRE(problem.mark.line >= 1);
    REQUIRE(problem.mark.line <= line_count + 1);
    REQUIRE(problem.mark.column >= 1);
    REQUIRE(problem.mark.column <= text.size() + 1);
    REQUIRE(!problem.what.empty());
    REQUIRE(problem.what.find('\n') == std::string::npos);
  }
}

}  // namespace

TEST_CASE("good manifests have no problems") {
  const InFolder folder(kTestData / "good");
  for (const auto& path : manifests(kTestData / "good")) {
    const auto name = path.filename().string();
    CHECK_MESSAGE(lines(check_manifest(name, {}).parsed.problems, name) == "", name);
  }
}

TEST_CASE("bad manifests have every problem that they are meant to have, each at its place") {
  const bool update = std::getenv("STILLPOINT_UPDATE_GOLDEN") != nullptr;
  const InFolder folder(kTestData / "bad");
  for (const auto& path : manifests(kTestData / "bad")) {
    const auto name = path.filename().string();
    const auto checked = check_manifest(name, {});
    check_sane(text_of(path), checked.parsed.problems);
    const auto told = lines(checked.parsed.problems, name);
    const auto golden = fs::path(path).replace_extension(".expected");
    if (update) std::ofstream(golden) << told;
    CHECK_MESSAGE(!checked.parsed.ok(), name);
    CHECK_MESSAGE(told == text_of(golden), name);
  }
}

TEST_CASE("the example jobs are good but for programs that are not built yet") {
  for (const std::string name : {"heat", "ring", "hpcc"}) {
    const auto folder = fs::path(STILLPOINT_SOURCE_DIR) / "jobs/examples" / name;
    const auto parsed = parse_manifest(text_of(folder / (name + ".yaml")));
    CHECK_MESSAGE(lines(parsed.problems, name) == "", name);
    CHECK(parsed.manifest.name == name);
  }
}

TEST_CASE("a whole manifest becomes the spec of the API") {
  const auto parsed = parse_manifest(text_of(kTestData / "good/full.yaml"));
  REQUIRE(parsed.ok());
  const auto expected = nlohmann::json::parse(R"({
    "name": "melt", "image": "openmpi", "guests": 2, "vcpus": 1, "memoryBytes": 536870912, "diskBytes": 4294967296,
    "ranksPerGuest": [2, 2], "command": ["lmp", "-in", "in.melt"], "env": {"OMP_NUM_THREADS": "1"}, "workdir": "/job",
    "files": ["in.melt"], "outputs": ["log.lammps"], "checkpoint": {"intervalSeconds": 600, "intervalAuto": false, "keep": 3, "whileUploading": "refuse",
      "laterDurability": "site"},
    "durability": "host-loss", "restart": {"onFailure": true, "maxRestarts": 5},
    "placement": {"hosts": [], "spread": true}})");
  CHECK(spec_json(parsed.manifest, "/somewhere") == expected);
}

TEST_CASE("what a manifest leaves out has its default in the spec") {
  const auto parsed = parse_manifest(text_of(kTestData / "good/least.yaml"));
  REQUIRE(parsed.ok());
  const auto spec = spec_json(parsed.manifest, "/somewhere");
  CHECK(spec["memoryBytes"] == 536870912);
  CHECK(spec["workdir"] == "/job");
  CHECK(spec["checkpoint"]["intervalSeconds"].is_null());
  CHECK(spec["checkpoint"]["whileUploading"] == "wait");
  CHECK(spec["checkpoint"]["laterDurability"] == "");
  CHECK(spec["durability"] == "host-loss");
  CHECK(spec["env"].is_object());
  CHECK(spec["files"].is_array());
}

TEST_CASE("arguments and variables are passed on as they are written") {
  const auto parsed = parse_manifest(text_of(kTestData / "good/ranks-per-guest.yaml"));
  REQUIRE(parsed.ok());
  const auto spec = spec_json(parsed.manifest, "/somewhere");
  CHECK(spec["command"] == nlohmann::json({"./solve", "007", "1.50", "-1e-9", "true", "", "näin"}));
  CHECK(spec["env"] == nlohmann::json({{"LEVEL", "3"}, {"FAST", "no"}, {"TEXT", "two\nlines"}}));
  CHECK(spec["ranksPerGuest"] == nlohmann::json({1, 2, 5}));
  CHECK(spec["restart"]["onFailure"] == false);
}

TEST_CASE("an image path is relative to the manifest") {
  const auto parsed = parse_manifest(text_of(kTestData / "good/ranks-per-guest-number.yaml"));
  REQUIRE(parsed.ok());
  CHECK(spec_json(parsed.manifest, "/some/where")["image"] == "/some/where/disk.raw");
}

TEST_CASE("columns count characters, not bytes") {
  const auto parsed = parse_manifest(with("count: 1", "ranks: 1, command: [äöü, , b]"));
  REQUIRE(parsed.problems.size() == 1);
  CHECK(parsed.problems[0].mark == Mark{6, 34});
  const auto marked = parse_manifest(
      "\xef\xbb\xbf"
      "apiversion: stillpoint/v1\n");
  REQUIRE(!marked.problems.empty());
  CHECK(marked.problems[0].mark == Mark{1, 1});
}

TEST_CASE("a job that no host can take is told where the hosts are known") {
  const auto parsed =
      parse_manifest(with("count: 1, memory: 8GiB", "ranks: 1, command: [a]", "  placement: {hosts: [h1, h9]}\n"));
  REQUIRE(parsed.ok());
  CHECK(check_hosts(parsed.manifest, {}).empty());
  const auto problems = check_hosts(parsed.manifest, {{"h1", 4ull << 30}, {"h2", 64ull << 30}});
  REQUIRE(problems.size() == 2);
  CHECK(problems[0].what == "spec.guests.memory is 8GiB, expected no more than the largest host has: 4096 MiB on h1");
  CHECK(problems[1].what == "\"h9\" is none of the site's hosts, expected some of h1, h2");
  CHECK(problems[1].mark == Mark{7, 27});
}

TEST_CASE("a manifest that is not there, or is no file, is an error with a position") {
  CHECK(lines(check_manifest("/no/such/manifest.yaml", {}).parsed.problems, "m") ==
        "m:1:1: the manifest does not exist, expected a readable file\n");
  CHECK(lines(check_manifest("/", {}).parsed.problems, "m") ==
        "m:1:1: the manifest is a directory, expected a readable file\n");
  CHECK(lines(check_manifest("/dev/zero", {}).parsed.problems, "m") ==
        "m:1:1: the manifest is not a regular file, expected a readable file\n");
}

TEST_CASE("huge and hostile text ends in one error") {
  const auto one_problem = [](const std::string& text) {
    const auto parsed = parse_manifest(text);
    check_sane(text, parsed.problems);
    return parsed.problems.size() == 1;
  };
  CHECK(one_problem(std::string(kMaxManifestBytes + 1, 'a')));
  CHECK(one_problem(std::string(kMaxManifestBytes, '[')));
  CHECK(one_problem(std::string(kMaxManifestBytes, '{')));
  CHECK(one_problem(std::string(kMaxManifestBytes, '-')));
  CHECK(one_problem(std::string(kMaxManifestBytes, '\n')));
  CHECK(one_problem(std::string(kMaxManifestBytes, ' ')));
  std::string nested, list = "[";
  for (int i = 0; i < 500; ++i) nested += std::string(static_cast<std::size_t>(i), ' ') + "a:\n";
  CHECK(one_problem(nested));
  for (std::size_t i = 0; i < 50'000; ++i) list += "a,";
  CHECK(one_problem(list + "]"));
}

TEST_CASE("very many errors are told in part") {
  std::string text = with("count: 1", "ranks: 1, command: [a]");
  for (int i = 0; i < 1000; ++i) text += "key" + std::to_string(i) + ": 1\n";
  const auto parsed = parse_manifest(text);
  check_sane(text, parsed.problems);
  CHECK(parsed.problems.size() == 201);
  CHECK(parsed.problems.back().what == "and 800 more errors");
}

TEST_CASE("sizes and durations") {
  CHECK(*parse_size("512MiB") == 512ull << 20);
  CHECK(*parse_size("16777215TiB") == 16777215ull << 40);
  CHECK(!parse_size("16777216TiB").has_value());
  CHECK(!parse_size("").has_value());
  CHECK(!parse_size("1 MiB").has_value());
  CHECK(*parse_duration("2h") == 7200);
  CHECK(format_size(1536ull << 20) == "1536MiB");
}

TEST_CASE("a value that is folded over several lines is told of in one") {
  const auto parsed = parse_manifest(
      "apiVersion: stillpoint/v1\nkind: MpiJob\nmetadata: {name: a}\nspec:\n  guests:\n    count: 1\n    disk: 1TiB\n\n"
      "        exec ./a.out\n  mpi: {ranks: 1, command: [./a.out]}\n");
  REQUIRE(!parsed.problems.empty());
  for (const auto& problem : parsed.problems) CHECK(problem.what.find('\n') == std::string::npos);
}

// Whatever is done to a good manifest: an answer, never a crash; and what is accepted makes a spec.
TEST_CASE("random mutations of good manifests") {
  std::vector<std::string> seeds;
  for (const auto& path : manifests(kTestData / "good")) seeds.push_back(text_of(path));
  const char* given = std::getenv("STILLPOINT_TEST_SEED");
  const auto seed = given != nullptr ? std::strtoul(given, nullptr, 10) : std::random_device{}();
  INFO("STILLPOINT_TEST_SEED=", seed);
  std::mt19937_64 random(seed);
  const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random() % n); };
  const std::vector<std::string> bits = {
      "&a ",   "*a",    "<<: ", "!!str ",   "? ",         ": ", "- ", "[",  "]",  "{",
      "}",     "|",     ">",    "'",        "\"",         "#",  "\n", "\t", "\r", "%YAML 1.2\n",
      "---\n", "...\n", "\xff", "\xc3\xa9", "9999999999", "-1", "~",  ",",  "\\", std::string(1, '\0')};
  for (int round = 0; round < 4000; ++round) {
    auto text = seeds[below(seeds.size())];
    for (auto changes = 1 + below(6); changes > 0; --changes) {
      const auto at = below(text.size() + 1);
      switch (below(5)) {
        case 0: text.insert(at, bits[below(bits.size())]); break;
        case 1: text.erase(at, 1 + below(12)); break;
        case 2: text.insert(at, 1, static_cast<char>(below(256))); break;
        case 3: text.insert(at, text.substr(below(text.size() + 1), below(40))); break;
        default:
          if (at < text.size()) text[at] = static_cast<char>(below(256));
          break;
      }
    }
    INFO("round ", round, ":\n", text);
    const auto parsed = parse_manifest(text);
    check_sane(text, parsed.problems);
    if (parsed.ok()) {
      REQUIRE(!parsed.manifest.mpi.ranks_per_guest.empty());
      REQUIRE(parsed.manifest.mpi.ranks_per_guest.size() == parsed.manifest.guests.count);
      REQUIRE(!spec_json(parsed.manifest, "/").dump().empty());
    }
  }
}
