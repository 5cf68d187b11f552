// Histories that once found something, the important stories message by message, and the simulator itself.
// STILLPOINT_UPDATE_GOLDEN=1 writes the stories anew.
#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <set>

#include "common/file.h"
#include "tests/simulation/run.h"
#include "tests/simulation/shrink.h"

using namespace stillpoint;
using namespace stillpoint::simulation;

namespace fs = std::filesystem;

namespace {

const fs::path kHere = fs::path(STILLPOINT_SOURCE_DIR) / "tests/simulation";

std::set<fs::path> plans(const char* folder) {
  std::set<fs::path> found;
  for (const auto& entry : fs::directory_iterator(kHere / folder))
    if (entry.path().extension() == ".plan") found.insert(entry.path());
  return found;
}

Plan plan_of(const fs::path& file) {
  const auto text = read_file(file.string());
  REQUIRE(text.has_value());
  auto plan = parse(*text);
  REQUIRE_MESSAGE(plan.has_value(), (plan ? "" : plan.error().message()));
  return *plan;
}

}  // namespace

TEST_CASE("histories that found something") {
  for (const auto& plan : kept_histories()) {
    CAPTURE(print(plan));
    CHECK(run(plan, false).broken == "");
  }
}

TEST_CASE("the important stories") {
  for (const auto& file : plans("stories")) {
    CAPTURE(file.filename().string());
    const Outcome outcome = run(plan_of(file), true);
    CHECK(outcome.broken == "");
    std::string text;
    for (const auto& line : story(outcome.transcript)) text += line + "\n";
    const auto golden = fs::path(file).replace_extension(".txt");
    if (std::getenv("STILLPOINT_UPDATE_GOLDEN") != nullptr) {
      REQUIRE(publish_file(golden.string(), text, 0644).has_value());
      continue;
    }
    const auto wanted = read_file(golden.string());
    REQUIRE(wanted.has_value());
    CHECK(*wanted == text);
  }
}

TEST_CASE("the same seed gives the same history") {
  CHECK(run(draw(7), true).transcript == run(draw(7), true).transcript);
}

TEST_CASE("a history goes through a file unchanged") {
  for (std::uint64_t seed = 1; seed < 100; ++seed) {
    const auto text = print(draw(seed));
    const auto read = parse(text);
    REQUIRE(read.has_value());
    CHECK(print(*read) == text);
  }
}

TEST_CASE("what is no history is refused with the line") {
  for (const char* text : {"hosts three\n", "at x submit job 1\n", "at 5 submit\n", "at 5 dance host 1\n",
                           "stores rented\n", "at 5 power-loss host 1 value\n"}) {
    CAPTURE(text);
    const auto plan = parse(text);
    REQUIRE(plan.has_error());
    CHECK(plan.error().message().find("line 1") != std::string::npos);
  }
  CHECK(parse("hosts 2\nat 5 power-loss host 3 value 7\n").has_error());
}

TEST_CASE("a failing history is shrunk to what it takes") {
  const auto has = [](const Plan& plan, What what) {
    for (const auto& one : plan.happenings)
      if (one.what == what) return true;
    return false;
  };
  Plan plan = draw(3);
  plan.happenings.push_back({Millis(9'000), What::wall_clock, 0, 0, 100});
  plan.happenings.push_back({Millis(9'500), What::cordon, 1, 0, 4'000});
  const Plan small = shrink(plan, [&](const Plan& p) { return has(p, What::wall_clock) && has(p, What::cordon); });
  CHECK(small.happenings.size() == 2);
  CHECK(small.happenings[1].value == 1);
}
