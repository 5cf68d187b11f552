// A process killed at every step of what a node daemon does with its store, on real files.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <map>

#include "common/fd.h"
#include "node-daemon/store/store_history.h"
#include "node-daemon/store/watched_files.h"

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;
using test::Facts;
using test::FileStep;
using test::History;
using test::WatchedFiles;

// In memory: what a killed process has written is the kernel's, synced or not, and fsync costs nothing there. What
// happens when the machine itself dies is store_damage_test.cpp's part.
struct Place {
  fs::path path;
  Place() {
    char name[] = "/dev/shm/stillpoint-crash-XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    path = name;
  }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;
  ~Place() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  fs::path store() const { return path / "store"; }
};

// Where the process dies: at its n-th step that changes something, half way: in the first append from there on. Packs
// are collected in the order of their random ids: which step is the n-th differs a little from run to run.
struct Death {
  std::uint64_t step = 0;
  enum class When { before, half_way, after } when = When::before;
};

void die() {
  ::kill(::getpid(), SIGKILL);
  ::pause();
}

// What a process of its own does. It says what it has promised before it goes on.
[[noreturn]] void live_until(const Death& death, const fs::path& directory, int told) {
  std::uint64_t step = 0;
  const auto before = [&](const FileStep& at) {
    if (!at.changes() || step < death.step || death.when == Death::When::after) return;
    if (death.when == Death::When::half_way) {
      if (at.kind != FileStep::Kind::append) return;
      (void)at.file->append(at.bytes.substr(0, at.bytes.size() / 2));
    }
    die();
  };
  const auto after = [&](const FileStep& at) {
    if (!at.changes()) return;
    if (step == death.step && death.when == Death::When::after) die();
    ++step;
  };
  WatchedFiles files(system_files(), before, after);
  History history;
  history.tell([&](const std::string& line) {
    const std::string all = line + "\n";
    if (::write(told, all.data(), all.size()) != static_cast<ssize_t>(all.size())) ::_exit(3);
  });
  ::_exit(history.run(files, directory).has_value() ? 0 : 1);
}

// Whether it was killed; otherwise it came to its end.
bool killed(const Death& death, const fs::path& directory, Facts& facts) {
  int ends[2];
  REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  Fd in(ends[0]), out(ends[1]);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) live_until(death, directory, out.get());
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

void check_after(const fs::path& directory, const std::vector<test::Image>& images, const Facts& facts) {
  auto store = History::open(system_files(), directory);
  REQUIRE_MESSAGE(store.has_value(), store.error());
  const auto check_promises = [&] {
    for (const std::string& broken : test::broken_promises(**store, images, facts)) FAIL_CHECK(broken);
  };
  const auto collect = [&] {
    const auto collected = (*store)->collect();
    REQUIRE_MESSAGE(collected.has_value(), collected.error());
    for (const Error& problem : collected->problems) FAIL_CHECK(problem);
    for (const std::string& name : test::rubbish(system_files(), directory)) FAIL_CHECK(name);
  };
  check_promises();
  collect();
  check_promises();
  const auto report = (*store)->verify();
  REQUIRE(report.has_value());
  for (const Error& problem : report->problems) FAIL_CHECK(problem);
  REQUIRE((*store)->remove("j1/").has_value());
  collect();
  CHECK(fs::is_empty(directory / "packs"));
}

// Every step that changes something, by its number.
std::vector<std::string> steps_of_a_history() {
  Place place;
  std::vector<std::string> steps;
  WatchedFiles files(system_files(), [&](const FileStep& step) {
    if (step.changes()) steps.push_back(step.text());
  });
  History history;
  const Status done = history.run(files, place.store());
  REQUIRE_MESSAGE(done.has_value(), done.error());
  CHECK(history.packs_compacted() > 2);
  return steps;
}

TEST_CASE(
    "a process killed before, in the middle of and after any step leaves what it promised, and no more for long") {
  const std::vector<std::string> steps = steps_of_a_history();
  const std::vector<test::Image> images = History().images();
  std::map<std::string, int> deaths;
  for (std::uint64_t n = 0; n < steps.size(); ++n)
    for (const auto when : {Death::When::before, Death::When::half_way, Death::When::after}) {
      if (when == Death::When::half_way && !steps[n].starts_with("append")) continue;
      CAPTURE(n);
      CAPTURE(steps[n]);
      CAPTURE(static_cast<int>(when));
      Place place;
      Facts facts;
      if (killed({n, when}, place.store(), facts)) ++deaths[steps[n].substr(0, steps[n].find(' '))];
      else CHECK(facts.committed.size() == images.size());
      check_after(place.store(), images, facts);
    }
  for (const char* kind :
       {"create", "append", "sync", "rename", "remove", "make_directory", "remove_directory", "sync_directory"})
    CHECK_MESSAGE(deaths[kind] > 0, kind);
  std::uint64_t sum = 0;
  std::string counts;
  for (const auto& [kind, count] : deaths) sum += static_cast<std::uint64_t>(count);
  CHECK(sum > 2 * steps.size());  // all but a few at the end
  for (const auto& [kind, count] : deaths) counts += std::to_string(count) + " at " + kind + ", ";
  MESSAGE("deaths: ", counts, steps.size(), " steps");
  Place place;
  Facts facts;
  CHECK_FALSE(killed({2 * steps.size()}, place.store(), facts));
  CHECK(facts.committed.size() == images.size());
  check_after(place.store(), images, facts);
}

}  // namespace
}  // namespace stillpoint::node
