#include "coordinator/core/spec_json.h"

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "common/names.h"

using namespace stillpoint;
using namespace stillpoint::coordinator;
using nlohmann::json;

namespace {

json good() {
  return json::parse(R"({"name":"heat","image":"openmpi","guests":2,"vcpus":1,"memoryBytes":536870912,
    "diskBytes":4294967296,"ranksPerGuest":[2,2],"command":["./heat","100"],"env":{"A":"b"},"workdir":"/job",
    "files":["heat"],"outputs":["out/field.pgm"],"checkpoint":{"intervalSeconds":null,"intervalAuto":false,"keep":3,"whileUploading":"refuse","laterDurability":"site"},
    "durability":"host-loss","restart":{"onFailure":true,"maxRestarts":5},"placement":{"hosts":["h1"],"spread":true}})");
}

std::string refusal(const json& document) {
  auto spec = spec_from_json(document);
  REQUIRE(spec.has_error());
  return spec.error().cause;
}

std::string problem(void (*change)(JobSpec&)) {
  auto spec = spec_from_json(good());
  REQUIRE(spec.has_value());
  change(*spec);
  const auto problems = spec_problems(*spec);
  REQUIRE(problems.size() == 1);
  return problems.front();
}

}  // namespace

TEST_CASE("a spec goes to JSON and back") {
  auto spec = spec_from_json(good());
  REQUIRE(spec.has_value());
  CHECK(spec_problems(*spec).empty());
  auto document = good();
  document["submitDirectory"] = "";
  CHECK(spec_to_json(*spec) == document);
}

TEST_CASE("unknown keys, wrong types and missing keys are all named at once") {
  auto document = good();
  document["colour"] = "red";
  document["guests"] = "two";
  document.erase("command");
  document["checkpoint"]["kepe"] = 1;
  document["ranksPerGuest"] = {1, -1};
  document["env"]["B"] = 5;
  const auto cause = refusal(document);
  for (const char* part : {"spec.colour: is not a known key", "spec.guests: expected a whole number",
                           "spec.command: is missing", "spec.checkpoint.kepe: is not a known key",
                           "spec.ranksPerGuest: expected a whole number", "spec.env.B: expected a string"}) {
    CAPTURE(part);
    CHECK(cause.find(part) != std::string::npos);
  }
}

TEST_CASE("numbers out of range and documents of another type are refused") {
  auto document = good();
  document["guests"] = 4294967296;
  CHECK(refusal(document).find("spec.guests") != std::string::npos);
  document["guests"] = 1.5;
  CHECK(refusal(document).find("spec.guests") != std::string::npos);
  CHECK(refusal(json::array()).find("expected an object") != std::string::npos);
  CHECK(refusal(nullptr).find("expected an object") != std::string::npos);
}

TEST_CASE("values that make no job") {
  CHECK(problem([](JobSpec& s) { s.name = "../x"; }).starts_with("name"));
  CHECK(problem([](JobSpec& s) { s.name = ""; }).starts_with("name"));
  CHECK(problem([](JobSpec& s) { s.ranks_per_guest = {1}; }).starts_with("ranksPerGuest"));
  CHECK(problem([](JobSpec& s) { s.ranks_per_guest = {1, 0}; }).starts_with("ranksPerGuest"));
  CHECK(problem([](JobSpec& s) { s.ranks_per_guest = {65536, 65536}; }).starts_with("ranksPerGuest"));
  CHECK(problem([](JobSpec& s) { s.command = {}; }).starts_with("command"));
  CHECK(problem([](JobSpec& s) { s.command = {std::string("a\0b", 3)}; }).starts_with("command"));
  CHECK(problem([](JobSpec& s) { s.env = {{"A=B", "c"}}; }).starts_with("env"));
  CHECK(problem([](JobSpec& s) { s.workdir = "job"; }).starts_with("workdir"));
  CHECK(problem([](JobSpec& s) { s.workdir = "/job/../etc"; }).starts_with("workdir"));
  CHECK(problem([](JobSpec& s) { s.files = {"../../etc/passwd"}; }).starts_with("files"));
  CHECK(problem([](JobSpec& s) { s.outputs = {"/etc/passwd"}; }).starts_with("outputs"));
  CHECK(problem([](JobSpec& s) { s.interval_seconds = 0; }).starts_with("checkpoint.intervalSeconds"));
  CHECK(problem([](JobSpec& s) { s.while_uploading = "ask"; }).starts_with("checkpoint.whileUploading"));
  CHECK(problem([](JobSpec& s) { s.durability = "forever"; }).starts_with("durability"));
  CHECK(problem([](JobSpec& s) { s.later_durability = "host-loss"; }).starts_with("checkpoint.laterDurability"));
  CHECK(problem([](JobSpec& s) { s.memory_bytes = 1; }).starts_with("memoryBytes"));
}

TEST_CASE("one number stands for all guests' ranks") {
  auto document = good();
  auto spec = spec_from_json(document);
  REQUIRE(spec.has_value());
  const json compact = spec_to_short_json(*spec);
  CHECK(compact["ranksPerGuest"] == 2);
  const auto read = spec_from_json(compact);
  REQUIRE(read.has_value());
  CHECK(spec_to_json(*read) == spec_to_json(*spec));

  document["ranksPerGuest"] = json::array({2u, 1u});
  spec = spec_from_json(document);
  REQUIRE(spec.has_value());
  CHECK(spec_to_short_json(*spec) == spec_to_json(*spec));

  document["ranksPerGuest"] = -1;
  CHECK(refusal(document).find("ranksPerGuest") != std::string::npos);
  document["ranksPerGuest"] = 2u;
  document["guests"] = 4'000'000'000u;
  CHECK(refusal(document).find("guests") != std::string::npos);
}

TEST_CASE("what a manifest may say, a submit may say: names with dots in them, and the same limits") {
  auto read = spec_from_json(good());
  REQUIRE(read.has_value());
  JobSpec spec = std::move(*read);
  spec.outputs = {"data..txt", "..hidden", "a../b"};
  spec.vcpus = 255;
  spec.files.assign(1024, "f");
  CHECK(spec_problems(spec).empty());
  spec.vcpus = 256;
  spec.files.assign(1025, "f");
  CHECK(spec_problems(spec).size() == 2);
}

TEST_CASE("names that stay below where they start") {
  for (const char* name : {"a", "a/b", "..a", "a..", "a b", ".hidden", "ä"}) CHECK(safe_relative_name(name));
  for (const char* name : {"", "/", "/a", "..", ".", "a/..", "../a", "a//b", "a/", "a/./b", "a\nb", "\x7f"})
    CHECK_FALSE(safe_relative_name(name));
  CHECK_FALSE(safe_relative_name(std::string("a\0b", 3)));
  CHECK_FALSE(safe_relative_name(std::string(256, 'a')));
  std::string deep = "a";
  for (int i = 0; i < 16; ++i) deep += "/a";
  CHECK_FALSE(safe_relative_name(deep));
}
