// export and import against a server that answers as the coordinator does: what is asked, what is written, and that an
// import which fails is taken back.
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>

#include "cli/app.h"
#include "cli/test_server.h"
#include "common/file.h"

using namespace stillpoint;
using namespace stillpoint::cli;
using nlohmann::json;

namespace {

struct Outcome {
  int code = -1;
  std::string out, err;
};

Outcome run_with(const TestServer& server, std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {"--json", "--server", server.socket()});
  std::ostringstream out, err;
  Outcome outcome;
  outcome.code = run(std::move(arguments), out, err, false);
  outcome.out = out.str();
  outcome.err = err.str();
  return outcome;
}

bool says(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

const std::map<std::string, std::string> kImages = {{"guests/0/memory", std::string(700'000, 'm') + "end"},
                                                    {"guests/0/disk", "disk of 0"},
                                                    {"guests/1/memory", "memory of 1"},
                                                    {"guests/1/disk", ""},
                                                    {"output", "line 1\nline 2\n"}};
const json kDescription = {{"version", 1}, {"job", "j7"}, {"epoch", 12}, {"guests", {{{"guest", 0}}, {{"guest", 1}}}}};

// A coordinator with one checkpoint to export, and room for one to import.
class Coordinator {
 public:
  TestAnswer operator()(const TestRequest& request) {
    const std::string path = request.target.substr(0, request.target.find('?'));
    const std::size_t at = number(request.target, "offset=");
    if (request.method == "GET") return give(path, at);
    const std::lock_guard lock(mutex_);
    if (request.method == "DELETE") {
      removed_.push_back(path);
      return {200, "{}"};
    }
    if (request.method == "PUT") {
      const std::string name = path.substr(std::string("/v1/imports/j9/").size());
      if (name == full_) return {507, R"({"error":{"kind":"storage-full","message":"no space left"}})"};
      auto& image = images_[name];
      if (image.size() != at) return {409, R"({"error":{"kind":"refused","message":"it does not follow"}})"};
      image += request.body;
      if (says(request.target, "last=1")) whole_.push_back(name);
      return {200, "{}"};
    }
    if (path == "/v1/imports") {
      description_ = json::parse(request.body);
      return {200, R"({"job":"j9"})"};
    }
    return {200, R"({"job":"j9","epoch":3,"bytesRaw":1,"bytesStored":1})"};
  }
  static TestAnswer give(const std::string& path, std::size_t at) {
    if (path == "/v1/jobs/heat/export") return {200, kDescription.dump()};
    const auto found = kImages.find(path.substr(std::string("/v1/jobs/j7/export/12/").size()));
    if (found == kImages.end()) return {404, R"({"error":{"kind":"not-found","message":"no such image"}})"};
    constexpr std::size_t kPiece = 300'000;
    const std::string piece = found->second.substr(at, kPiece);
    return {200, piece, {{"X-Last", at + piece.size() == found->second.size() ? "1" : "0"}}};
  }
  static std::size_t number(const std::string& target, const std::string& key) {
    const auto found = target.find(key);
    return found == std::string::npos ? 0 : std::stoul(target.substr(found + key.size()));
  }
  void fill_up(const std::string& image) { full_ = image; }
  const std::map<std::string, std::string>& images() const { return images_; }
  const std::vector<std::string>& whole() const { return whole_; }
  const std::vector<std::string>& removed() const { return removed_; }
  const json& description() const { return description_; }

 private:
  std::mutex mutex_;
  std::string full_;
  std::map<std::string, std::string> images_;
  std::vector<std::string> whole_, removed_;
  json description_;
};

struct Fixture {
  Coordinator coordinator;
  TestServer server{[this](const TestRequest& request) { return coordinator(request); }};
  std::string pass = server.directory() / "pass", file = server.directory() / "heat.export";
  Fixture() { REQUIRE(publish_file(pass, "secret words\n").has_value()); }

  Outcome export_it(std::vector<std::string> more = {}) {
    std::vector<std::string> arguments{"export", "heat", file, "--passphrase-file", pass};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_with(server, arguments);
  }
  Outcome import_it() { return run_with(server, {"import", file, "--passphrase-file", pass}); }
};

}  // namespace

TEST_CASE("what was exported is imported, byte for byte, in order; the passphrase goes nowhere") {
  Fixture f;
  const auto exported = f.export_it();
  REQUIRE_MESSAGE(exported.code == 0, exported.err);
  const json figures = json::parse(exported.out);
  CHECK(figures.at("epoch") == 12);
  CHECK(figures.at("bytes") == std::filesystem::file_size(f.file));
  const auto imported = f.import_it();
  REQUIRE_MESSAGE(imported.code == 0, imported.err);
  CHECK(json::parse(imported.out).at("job") == "j9");
  CHECK(f.coordinator.images() == kImages);
  CHECK(f.coordinator.whole() ==
        std::vector<std::string>{"guests/0/memory", "guests/0/disk", "guests/1/memory", "guests/1/disk"});
  CHECK(f.coordinator.removed().empty());
  CHECK(f.coordinator.description().at("submitDirectory") == std::filesystem::current_path().string());
  for (const auto& request : f.server.requests()) CHECK_FALSE(says(request.target + request.body, "secret"));
}

TEST_CASE("a file must be sealed or said to be plain; a named checkpoint is a number") {
  Fixture f;
  CHECK(run_with(f.server, {"export", "heat", f.file}).code == 2);
  CHECK(run_with(f.server, {"export", "heat", "newest", f.file, "--plain"}).code == 2);
  CHECK(run_with(f.server, {"export", "heat", "-", "--plain"}).code == 2);  // --json has standard output
  CHECK_FALSE(std::filesystem::exists(f.file));
  CHECK(run_with(f.server, {"export", "heat", "12", f.file, "--plain"}).code == 0);
  CHECK(f.server.requests()[0].target == "/v1/jobs/heat/export?epoch=12");
  CHECK(says(f.import_it().err, "it is not sealed"));  // somebody may have put it in another one's place
  CHECK(f.coordinator.description().is_null());
  CHECK(run_with(f.server, {"import", f.file}).code == 0);
}

TEST_CASE("an export that fails leaves no file") {
  TestServer broken([](const TestRequest& request) -> TestAnswer {
    if (!says(request.target, "guests/1/disk"))
      return Coordinator::give(request.target.substr(0, request.target.find('?')),
                               Coordinator::number(request.target, "offset="));
    return {503, R"({"error":{"kind":"transient","message":"no host is up"}})"};
  });
  const auto outcome = run_with(broken, {"export", "heat", broken.directory() / "out", "--plain"});
  CHECK(outcome.code == 1);
  std::size_t left = 0;
  for (const auto& entry : std::filesystem::directory_iterator(broken.directory())) left += !entry.is_socket();
  CHECK(left == 0);
}

TEST_CASE("an import that fails on the way is taken back: damage, a host that is full, too few images") {
  Fixture f;
  REQUIRE(f.export_it().code == 0);
  std::string bytes = *read_file(f.file);
  std::mt19937_64 random(5);
  const std::size_t begun = 64 + 12;  // behind that the description is read, and the import begins
  std::size_t taken_back = 0;
  for (int i = 0; i < 12; ++i) {
    std::string damaged = bytes;
    if (i % 2 == 0) damaged.resize(begun + random() % (bytes.size() - begun));
    else damaged[random() % bytes.size()] ^= static_cast<char>(1u << random() % 8);
    Fixture fresh;
    REQUIRE(publish_file(fresh.file, damaged).has_value());
    const auto outcome = fresh.import_it();
    CHECK(outcome.code == 1);
    const bool was_begun = !fresh.coordinator.description().is_null();
    CHECK(fresh.coordinator.removed().size() == (was_begun ? 1 : 0));
    taken_back += was_begun;
    for (const auto& request : fresh.server.requests()) CHECK_FALSE(says(request.target, "finish"));
  }
  CHECK(taken_back > 0);
  Fixture full;
  REQUIRE(publish_file(full.file, bytes).has_value());
  full.coordinator.fill_up("guests/1/memory");
  const auto outcome = full.import_it();
  CHECK(outcome.code == 1);
  CHECK(says(outcome.err, "no space left"));
  CHECK(full.coordinator.removed() == std::vector<std::string>{"/v1/imports/j9"});
}

TEST_CASE("what is no export, or sealed with another passphrase, is refused before the coordinator hears of it") {
  Fixture f;
  REQUIRE(publish_file(f.file, "no export, but long enough to be the head of one, if it were one at all").has_value());
  CHECK(says(f.import_it().err, "no exported checkpoint"));
  std::filesystem::remove(f.file);
  REQUIRE(f.export_it().code == 0);
  const std::size_t asked = f.server.requests().size();
  CHECK(says(run_with(f.server, {"import", f.file}).err, "--passphrase-file"));
  REQUIRE(publish_file(f.pass, "other words\n").has_value());
  CHECK(says(f.import_it().err, "passphrase is not the one"));
  REQUIRE(publish_file(f.pass, "secret words\n", 0644).has_value());
  CHECK(says(f.import_it().err, "others may read it"));
  CHECK(f.server.requests().size() == asked);
}
