// The program stillpoint-node, run to its end.
#include <doctest/doctest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "common/file.h"
#include "common/process.h"
#include "node-daemon/store/site_key.h"

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;

struct Place {
  fs::path path;
  Place() {
    char name[] = "/tmp/stillpoint-program-XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    path = fs::canonical(name);
  }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;
  ~Place() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  fs::path keys() const { return path / "store.keys"; }
  std::size_t files() const {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(path), fs::directory_iterator()));
  }
};

ProcessOutcome run(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), STILLPOINT_NODE);
  auto done = run_process(arguments);
  REQUIRE_MESSAGE(done.has_value(), done.error());
  return *done;
}

bool has(const std::string& text, const std::string& words) { return text.find(words) != text.npos; }

unsigned mode_of(const fs::path& path) {
  struct stat state {};
  REQUIRE(::lstat(path.c_str(), &state) == 0);
  return state.st_mode & 07777;
}

TEST_CASE("a key is rotated: a new one is active, the old one still opens, and what to do next is said") {
  const Place place;
  const auto before = load_site_keys(place.keys());
  REQUIRE_MESSAGE(before.has_value(), before.error());
  const auto done = run({"--rotate-store-key", "--store-keys", place.keys().string()});
  CHECK_MESSAGE(done.exit_code == 0, done.err);
  const auto after = load_site_keys(place.keys());
  REQUIRE_MESSAGE(after.has_value(), after.error());
  CHECK(mode_of(place.keys()) == 0600);
  CHECK(place.files() == 1);
  REQUIRE(after->all().size() == 2);
  CHECK(after->active().id != before->active().id);
  const SiteKey* const old = after->find(before->active().id);
  REQUIRE(old != nullptr);
  CHECK(old->key == before->active().key);
  CHECK(has(done.out, place.keys().string() + " has a new key, " + key_id_text(after->active().id)));
  CHECK(has(done.out, "copy the file to every other host"));
  const std::string text = read_file(place.keys()).value();
  const std::string last_line = text.substr(text.rfind('\n', text.size() - 2) + 1);
  CHECK_FALSE(has(done.out + done.err, last_line.substr(17, 64)));  // the key itself

  // The file where a daemon looks for it by itself, beside its certificate; with all of the daemon's other flags.
  CHECK(run({"--name", "h1", "--rotate-store-key", "--tls", place.path.string()}).exit_code == 0);
  CHECK(load_site_keys(place.keys())->all().size() == 3);
}

TEST_CASE("a link to the file of keys stays one") {
  const Place place;
  REQUIRE(load_site_keys(place.path / "real.keys").has_value());
  fs::create_symlink("real.keys", place.keys());
  CHECK(run({"--rotate-store-key", "--store-keys", place.keys().string()}).exit_code == 0);
  CHECK(fs::is_symlink(place.keys()));
  CHECK(load_site_keys(place.path / "real.keys")->all().size() == 2);
}

TEST_CASE("no key is rotated in a file that is not there, damaged, or open to others; what is there stays") {
  const Place place;
  const auto refused = [&](const std::string& words) {
    const auto done = run({"--rotate-store-key", "--store-keys", place.keys().string()});
    CHECK(done.exit_code == 1);
    CHECK_MESSAGE(has(done.err, words), done.err);
    CHECK(done.out.empty());
  };
  refused("no such file");
  CHECK(place.files() == 0);  // and none is made

  REQUIRE(load_site_keys(place.keys()).has_value());
  const std::string good = read_file(place.keys()).value();
  REQUIRE(publish_file(place.keys(), good, 0640));
  refused("0600");
  CHECK(read_file(place.keys()).value() == good);
  CHECK(mode_of(place.keys()) == 0640);

  for (const std::string& bad : {std::string(), std::string("stillpoint-store-keys 1\n"), good + "x y\n",
                                 good.substr(0, good.size() - 10), good + good.substr(good.find('\n') + 1)}) {
    REQUIRE(publish_file(place.keys(), bad, 0600));
    refused("read site keys");
    CHECK(read_file(place.keys()).value() == bad);
    CHECK(place.files() == 1);
  }
}

TEST_CASE("a rotation that does not say of which file, and a daemon without its flags, are refused") {
  const auto nowhere = run({"--rotate-store-key"});
  CHECK(nowhere.exit_code == 2);
  CHECK(has(nowhere.err, "--store-keys"));
  const auto daemon = run({"--store-keys", "/tmp/x"});
  CHECK(daemon.exit_code == 2);
  CHECK(has(daemon.err, "required"));
}

}  // namespace
}  // namespace stillpoint::node
