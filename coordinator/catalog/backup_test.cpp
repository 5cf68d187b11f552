// Backups while the catalog is written, and what a restored one forgets and leaps over.
#include "coordinator/catalog/backup.h"

#include <sys/stat.h>

#include <atomic>
#include <fstream>
#include <thread>

#include "coordinator/catalog/restore.h"
#include "coordinator/catalog/test_records.h"
#include "coordinator/core/after_loss.h"

using namespace stillpoint;
using namespace stillpoint::coordinator;
using namespace stillpoint::coordinator::testing;
namespace fs = std::filesystem;

namespace {

std::size_t files_in(const fs::path& directory) {
  return static_cast<std::size_t>(std::distance(fs::directory_iterator(directory), fs::directory_iterator()));
}

}  // namespace

TEST_CASE("a backup is the catalog, in one file of its owner's") {
  Directory dir, elsewhere;
  make_rich_catalog(dir.file());
  auto catalog = must_open(dir.file());
  const auto state = must_load(catalog);
  const auto bytes = back_up_catalog(dir.file(), elsewhere.path / "copy.db");
  REQUIRE(bytes.has_value());
  CHECK(*bytes == fs::file_size(elsewhere.path / "copy.db"));
  CHECK(files_in(elsewhere.path) == 1);
  struct stat info {};
  REQUIRE(::stat((elsewhere.path / "copy.db").c_str(), &info) == 0);
  CHECK((info.st_mode & 0777) == 0600);
  auto copy = must_open(elsewhere.path / "copy.db");
  check_equal(must_load(copy), state);
}

TEST_CASE("backups while it is written: each is whole, and is what some moment was") {
  Directory dir, elsewhere;
  make_rich_catalog(dir.file());
  auto catalog = must_open(dir.file());
  std::atomic<bool> enough = false;
  std::thread writer([&] {
    // Each transaction: one more job, and the counter that says so.
    for (std::uint64_t n = 100; !enough; ++n) {
      const auto id = "j" + std::to_string(n);
      if (!catalog.apply({PutJob{rich_job(id)}, PutCounters{n + 1, Epoch{13}, 78}})) return;
    }
  });
  std::uint64_t before = 0;
  for (int i = 0; i < 5; ++i) {
    const auto file = elsewhere.path / ("copy" + std::to_string(i) + ".db");
    const auto made = back_up_catalog(dir.file(), file);
    REQUIRE(made.has_value());
    auto copy = must_open(file);
    const auto state = must_load(copy);
    CHECK(state.next_job >= before);
    if (state.next_job > 100) CHECK(state.jobs.contains(JobId{"j" + std::to_string(state.next_job - 1)}));
    before = state.next_job;
  }
  enough = true;
  writer.join();
}

TEST_CASE("a backup is refused in words, and leaves nothing") {
  Directory dir, elsewhere;
  make_rich_catalog(dir.file());
  const auto refused = [&](const fs::path& to) {
    const auto made = back_up_catalog(dir.file(), to);
    REQUIRE(made.has_error());
    return made.error();
  };
  SUBCASE("when there is such a file") {
    std::ofstream(elsewhere.path / "there") << "mine";
    CHECK(refused(elsewhere.path / "there").cause.find("name already") != std::string::npos);
    CHECK(fs::file_size(elsewhere.path / "there") == 4);
  }
  SUBCASE("when there is a link that leads nowhere") {
    fs::create_symlink("nowhere", elsewhere.path / "there");
    CHECK(refused(elsewhere.path / "there").kind == ErrorKind::refused);
  }
  SUBCASE("of a path that is somebody else's to complete") { CHECK(refused("copy.db").kind == ErrorKind::refused); }
  SUBCASE("when there is no such directory") { refused(elsewhere.path / "none" / "copy.db"); }
  SUBCASE("of a damaged catalog") {
    std::fstream file(dir.file(), std::ios::in | std::ios::out | std::ios::binary);
    std::string text((std::istreambuf_iterator<char>(file)), {});
    file.clear();
    file.seekp(static_cast<std::streamoff>(text.find("epoch committed")));
    file << "EPOCH";
    file.close();
    CHECK(refused(elsewhere.path / "copy.db").kind == ErrorKind::damaged);
  }
  for (const auto& entry : fs::directory_iterator(elsewhere.path)) CHECK(entry.path().filename() == "there");
}

TEST_CASE("a restored backup: nothing runs, nothing is started by itself, no number comes again, no image goes") {
  Directory dir, elsewhere;
  make_rich_catalog(dir.file());
  CatalogState before;
  {
    auto catalog = must_open(dir.file());
    auto running = rich_job("j1");
    running.exit_code.reset();
    running.stopping = false;
    running.restart.reset();
    running.state = JobState::running;
    running.incarnation = Incarnation{3};
    running.attempt = Epoch{4};
    auto attempt = rich_epoch(4, "j1");  // its images may have been committed since
    attempt.state = EpochState::captured;
    auto done = rich_job("j3");
    done.state = JobState::completed;
    done.missing_outputs.clear();
    REQUIRE(catalog.apply({PutJob{running}, PutEpoch{attempt}, PutJob{done}}).has_value());
    before = must_load(catalog);
    REQUIRE(back_up_catalog(dir.file(), elsewhere.path / "copy.db").has_value());
    REQUIRE(catalog.apply({PutEpoch{rich_epoch(13, "j1")}, PutCounters{5, Epoch{14}, 79}}).has_value());
  }
  std::ofstream(dir.file()) << "damage";
  const auto put = restore_catalog(dir.path, elsewhere.path / "copy.db");
  REQUIRE_MESSAGE(put.has_value(), (put.has_error() ? put.error().message() : ""));
  CHECK(put->coordinator == before.coordinator);
  CHECK(put->as_of == 1'700'000'000);
  CHECK(put->jobs == 2);
  REQUIRE(fs::exists(put->aside));
  CHECK(fs::file_size(put->aside) == 6);

  auto catalog = must_open(dir.file());
  const auto state = must_load(catalog);
  CHECK(state.next_job == before.next_job + kJobsAhead);
  CHECK(state.next_epoch.value == before.next_epoch.value + kEpochsAhead);
  CHECK(state.next_vni > before.next_vni);
  CHECK(was_lost(state, 4));
  CHECK(was_lost(state, before.next_job + kJobsAhead - 1));
  CHECK_FALSE(was_lost(state, 2));  // removed before the backup: known to be deleted
  const auto& job = state.jobs.at(JobId{"j1"});
  CHECK(job.state == JobState::failed);
  CHECK(job.anywhere);
  CHECK(job.incarnation.value == 3 + kIncarnationsAhead);
  CHECK_FALSE(job.attempt.has_value());
  CHECK(job.reason.find("as it was at 2023-11-14T22:13:20Z") != std::string::npos);
  CHECK_FALSE(state.epochs.contains(Epoch{4}));  // neither committed nor aborted, so nobody deletes its images
  CHECK(state.epochs.at(Epoch{3}).state == EpochState::committed);
  const auto& done = state.jobs.at(JobId{"j3"});
  CHECK(done.state == JobState::completed);
  CHECK(done.incarnation == Incarnation{3});
}

TEST_CASE("a backup that is not whole, or of another coordinator, does not take the catalog's place") {
  Directory dir, other, elsewhere;
  make_rich_catalog(dir.file());
  make_rich_catalog(other.file());
  REQUIRE(back_up_catalog(other.file(), elsewhere.path / "other.db").has_value());
  REQUIRE(back_up_catalog(dir.file(), elsewhere.path / "cut.db").has_value());
  fs::resize_file(elsewhere.path / "cut.db", fs::file_size(elsewhere.path / "cut.db") - 5'000);
  std::ofstream(elsewhere.path / "text") << "not a database";
  const auto state = [&] {
    auto catalog = must_open(dir.file());
    return must_load(catalog);
  }();
  for (const char* name : {"other.db", "cut.db", "text", "none"}) {
    CAPTURE(name);
    const auto put = restore_catalog(dir.path, elsewhere.path / name);
    REQUIRE(put.has_error());
    auto catalog = must_open(dir.file());
    check_equal(must_load(catalog), state);
  }
  for (const auto& entry : fs::directory_iterator(dir.path))
    CHECK(entry.path().filename().string().find("new") == std::string::npos);
}

TEST_CASE("a catalog that is made anew goes by the same id, begins beyond the lost one, which is kept") {
  Directory dir;
  make_rich_catalog(dir.file());
  fs::create_directories(dir.path / "jobs" / "j41");
  const auto id = [&] {
    auto catalog = must_open(dir.file());
    return must_load(catalog).coordinator;
  }();
  for (int i = 0; i < 2; ++i) {
    const auto made = begin_anew(dir.path);
    REQUIRE_MESSAGE(made.has_value(), (made.has_error() ? made.error().message() : ""));
    CHECK(made->coordinator == id);
    CHECK(fs::exists(made->aside));
  }
  auto catalog = must_open(dir.file());
  const auto state = must_load(catalog);
  CHECK(state.coordinator == id);
  CHECK(state.jobs.empty());
  CHECK(state.next_job >= 2 * kJobsAhead + 41);  // one behind the other, though no job of the first has files
  CHECK(state.next_epoch.value > kEpochsAhead);
  CHECK(was_lost(state, 1));
  CHECK(was_lost(state, 41));
}

TEST_CASE("ids of history do not come again, whatever takes the catalog's place") {
  Directory dir, elsewhere;
  make_rich_catalog(dir.file());
  REQUIRE(back_up_catalog(dir.file(), elsewhere.path / "backup.db").has_value());
  std::uint64_t newest = 0;
  const auto is_ahead = [&] {
    auto catalog = must_open(dir.file());
    REQUIRE(catalog.apply({AddEvent{{1, JobId{"j1"}, {}, {}, "something", ""}}}).has_value());
    const auto now = catalog.newest_event();
    REQUIRE(now.has_value());
    const bool ahead = *now > newest;
    newest = *now;
    return ahead;
  };
  CHECK(is_ahead());
  REQUIRE(restore_catalog(dir.path, elsewhere.path / "backup.db").has_value());
  CHECK(is_ahead());
  REQUIRE(begin_anew(dir.path).has_value());
  CHECK(is_ahead());
}

TEST_CASE("a log whose catalog was put aside, by a process that died then, is put aside as well") {
  Directory dir;
  make_rich_catalog(dir.file());
  fs::rename(dir.file(), dir.path / "catalog.db.aside-before");
  std::ofstream(dir.file().string() + "-wal") << "the newest transactions";
  const auto start = Catalog::open(dir.file());
  REQUIRE(start.has_error());  // no start before one or the other way out was taken
  const auto made = begin_anew(dir.path);
  REQUIRE_MESSAGE(made.has_value(), (made.has_error() ? made.error().message() : ""));
  unsigned logs = 0;
  for (const auto& entry : fs::directory_iterator(dir.path))
    if (const std::string name = entry.path().filename(); name.find(".aside-") != name.npos && name.ends_with("-wal"))
      logs += fs::file_size(entry.path()) == 23 ? 1 : 0;
  CHECK(logs == 1);
}

TEST_CASE("what is put back goes on behind the newest checkpoint of its history") {
  CatalogState state;
  JobRecord job = rich_job("j1");
  job.state = JobState::running;
  job.incarnation = Incarnation{2};
  job.restored_from = Epoch{};
  state.jobs[job.job] = job;
  for (std::uint64_t number : {5, 6, 7}) {
    auto epoch = rich_epoch(number, "j1");
    epoch.incarnation = Incarnation{2};
    epoch.control = false;
    epoch.restored_from = Epoch{};
    if (number == 7) epoch.state = EpochState::aborted;
    state.epochs[epoch.epoch] = epoch;
  }
  state.next_job = 2;
  state.next_epoch = Epoch{8};
  bool found = false;
  for (const auto& change : after_loss(state, "it was put back", 1)) {
    const auto* put = std::get_if<PutJob>(&change);
    if (put == nullptr) continue;
    found = true;
    CHECK(put->job.restored_from == Epoch{6});
  }
  CHECK(found);
}
