#include "coordinator/catalog/catalog.h"

#include <SQLiteCpp/SQLiteCpp.h>
#include <doctest/doctest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "coordinator/catalog/schema.h"
#include "coordinator/catalog/test_records.h"
#include "coordinator/core/spec_json.h"

using namespace stillpoint;
using namespace stillpoint::coordinator;
using namespace stillpoint::coordinator::testing;
namespace fs = std::filesystem;

TEST_CASE("a new catalog has an identity of its own, keeps it, and nobody else may read it") {
  Directory dir;
  std::string identity;
  {
    auto catalog = must_open(dir.file());
    const auto state = must_load(catalog);
    identity = state.coordinator;
    CHECK(identity.size() == 32);
    CHECK(state.jobs.empty());
    CHECK(state.next_job == 1);
    CHECK(state.next_epoch == Epoch{1});
    CHECK(state.next_vni == 1);
    for (const auto& entry : fs::directory_iterator(dir.path)) {
      struct stat info {};
      REQUIRE(::stat(entry.path().c_str(), &info) == 0);
      CHECK((info.st_mode & 0777) == 0600);
    }
  }
  auto again = must_open(dir.file());
  CHECK(must_load(again).coordinator == identity);
}

TEST_CASE("every field of every record comes back as it was") {
  Directory dir;
  auto job = rich_job("j1");
  job.attempt = Epoch{9};
  job.anywhere = true;
  JobRecord blank;
  blank.job = JobId{"j2"};
  blank.spec = job.spec;
  blank.spec.interval_seconds.reset();
  blank.placement = job.placement;  // chosen, not launched yet
  const auto epoch = rich_epoch(9, "j1");
  {
    auto catalog = must_open(dir.file());
    // The epoch before its job: the order within a transaction is the core's own.
    REQUIRE(catalog
                .apply({PutEpoch{epoch}, PutJob{job}, PutJob{blank}, PutHost{{HostName{"h1"}, "192.0.2.1", true}},
                        PutCounters{3, Epoch{10}, 78}, AddLostJobs{{5, 6}}})
                .has_value());
  }
  auto catalog = must_open(dir.file());
  const auto state = must_load(catalog);
  REQUIRE(state.jobs.size() == 2);
  check_equal(state.jobs.at(JobId{"j1"}), job);
  check_equal(state.jobs.at(JobId{"j2"}), blank);
  REQUIRE(state.epochs.size() == 1);
  check_equal(state.epochs.at(Epoch{9}), epoch);
  CHECK(state.hosts.at(HostName{"h1"}).address == "192.0.2.1");
  CHECK(state.hosts.at(HostName{"h1"}).cordoned);
  CHECK(state.next_job == 3);
  CHECK(state.next_epoch == Epoch{10});
  CHECK(state.next_vni == 78);
  REQUIRE(state.lost_jobs.size() == 1);
  CHECK(state.lost_jobs[0].first == 5);
  CHECK(state.lost_jobs[0].last == 6);
}

TEST_CASE("writing a record again replaces it whole") {
  Directory dir;
  auto catalog = must_open(dir.file());
  auto job = rich_job("j1");
  auto epoch = rich_epoch(9, "j1");
  REQUIRE(catalog.apply({PutJob{job}, PutEpoch{epoch}, PutCounters{2, Epoch{10}, 78}}).has_value());
  REQUIRE(catalog.apply({PutJob{job}, PutEpoch{epoch}}).has_value());
  job.incarnation = Incarnation{4};
  job.exit_code.reset();
  job.attempt = Epoch{9};
  job.missing_outputs.clear();
  job.restart.reset();
  job.state = JobState::restarting;
  job.placement.clear();
  epoch.state = EpochState::aborted;
  epoch.images.clear();
  epoch.cut.pop_back();
  epoch.phases.phases.clear();
  REQUIRE(catalog.apply({PutJob{job}, PutEpoch{epoch}}).has_value());
  const auto state = must_load(catalog);
  check_equal(state.jobs.at(JobId{"j1"}), job);
  check_equal(state.epochs.at(Epoch{9}), epoch);
}

TEST_CASE("dropping a job drops its epochs and leaves its history") {
  Directory dir;
  auto catalog = must_open(dir.file());
  REQUIRE(catalog
              .apply({PutJob{rich_job("j1")}, PutEpoch{rich_epoch(9, "j1")}, PutJob{rich_job("j2")},
                      PutEpoch{rich_epoch(10, "j2")}, PutCounters{3, Epoch{11}, 78},
                      AddEvent{{1, JobId{"j1"}, HostName{}, Epoch{}, "job submitted", ""}}})
              .has_value());
  REQUIRE(catalog.apply({DropJob{JobId{"j1"}}}).has_value());
  REQUIRE(catalog.apply({DropJob{JobId{"j1"}}}).has_value());
  const auto state = must_load(catalog);
  CHECK(state.jobs.size() == 1);
  CHECK(state.epochs.size() == 1);
  CHECK(state.epochs.contains(Epoch{10}));
  auto events = catalog.events({.job = JobId{"j1"}});
  REQUIRE(events.has_value());
  CHECK(events->size() == 1);
}

TEST_CASE("events come oldest first: page by page, the newest, of one job or host") {
  Directory dir;
  auto catalog = must_open(dir.file());
  CHECK(catalog.newest_event().value() == 0);
  for (int i = 0; i < 20; ++i) {
    EventRecord event{i, JobId{i % 2 == 0 ? "j1" : "j2"}, HostName{i < 5 ? "h1" : ""}, Epoch{5}, "what", "detail"};
    event.incarnation = Incarnation{3};
    event.job_state = JobState::running;
    if (i != 18) event.epoch_state = EpochState::damaged;
    REQUIRE(catalog.apply({AddEvent{event}}).has_value());
  }
  const auto times = [&](const Catalog::EventsWanted& wanted) {
    std::vector<WallSeconds> found;
    for (const auto& event : catalog.events(wanted).value()) found.push_back(event.time);
    return found;
  };
  CHECK(times({.job = JobId{"j1"}, .limit = 3}) == std::vector<WallSeconds>{0, 2, 4});
  CHECK(times({.job = JobId{"j1"}, .after = 5, .limit = 2}) == std::vector<WallSeconds>{6, 8});
  CHECK(times({.job = JobId{"j1"}, .limit = 3, .newest = true}) == std::vector<WallSeconds>{14, 16, 18});
  CHECK(times({.host = HostName{"h1"}}) == std::vector<WallSeconds>{0, 1, 2, 3, 4});
  CHECK(times({.job = JobId{"j2"}, .host = HostName{"h1"}}) == std::vector<WallSeconds>{1, 3});
  CHECK(times({}).size() == 20);
  CHECK(times({.after = 20}).empty());
  CHECK(times({.job = JobId{"j3"}}).empty());
  CHECK(catalog.newest_event().value() == 20);
  const auto last = catalog.events({.job = JobId{"j1"}, .limit = 1, .newest = true}).value().front();
  CHECK(last.id == 19);
  CHECK(last.epoch == Epoch{5});
  CHECK(last.incarnation == Incarnation{3});
  CHECK(last.job_state == JobState::running);
  CHECK_FALSE(last.epoch_state.has_value());
}

TEST_CASE("history is bounded while the coordinator runs: of each job, and in all; ids go on") {
  Directory dir;
  auto catalog = must_open(dir.file());
  // Fifteen jobs, one after the other: of each the newest 10,000 stay, of all the newest 100,000.
  for (int job = 1; job <= 15; ++job) {
    std::vector<CatalogChange> many;
    const JobId id{"j" + std::to_string(job)};
    for (int i = 0; i < 6'000; ++i) many.emplace_back(AddEvent{{i, id, HostName{}, Epoch{}, "what", ""}});
    for (int round = 0; round < 2; ++round) REQUIRE(catalog.apply(many).has_value());
  }
  SQLite::Database db(dir.file().string());
  const int kept = db.execAndGet("SELECT count(*) FROM events").getInt();
  CHECK(kept <= 100'000);
  CHECK(kept > 90'000);
  CHECK(db.execAndGet("SELECT max(n) FROM (SELECT count(*) AS n FROM events GROUP BY job)").getInt() == 10'000);
  CHECK(db.execAndGet("SELECT count(*) FROM events WHERE job = 'j15'").getInt() == 10'000);
  CHECK(db.execAndGet("SELECT count(*) FROM events WHERE job = 'j1'").getInt() == 0);
  CHECK(catalog.newest_event().value() == 15 * 12'000);
}

TEST_CASE("a failed transaction leaves nothing") {
  Directory dir;
  auto catalog = must_open(dir.file());
  // An epoch of no job breaks the foreign key at the commit.
  auto applied = catalog.apply({PutJob{rich_job("j1")}, PutEpoch{rich_epoch(1, "j8")}});
  REQUIRE(applied.has_error());
  auto again = must_open(dir.file());
  CHECK(must_load(again).jobs.empty());
}

TEST_CASE("what is not a catalog of this version is refused in words") {
  Directory dir;
  auto refused = [&] {
    auto opened = Catalog::open(dir.file());
    REQUIRE(opened.has_error());
    return opened.error();
  };
  SUBCASE("a newer schema") {
    must_open(dir.file());
    SQLite::Database(dir.file().string(), SQLite::OPEN_READWRITE).exec("INSERT INTO schema VALUES (1000, 'later')");
    CHECK(refused().message().find("newer stillpointd") != std::string::npos);
  }
  SUBCASE("somebody else's database") {
    SQLite::Database(dir.file().string(), SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE).exec("CREATE TABLE t (x)");
    CHECK(refused().message().find("not a catalog") != std::string::npos);
  }
  SUBCASE("no database at all") {
    std::ofstream(dir.file()) << std::string(8192, 'x');
    CHECK(refused().kind == ErrorKind::damaged);
  }
  SUBCASE("pages overwritten") {
    {
      auto catalog = must_open(dir.file());
      for (int i = 1; i < 100; ++i) REQUIRE(catalog.apply({PutJob{rich_job("j" + std::to_string(i))}}).has_value());
    }
    const auto size = fs::file_size(dir.file());
    std::fstream file(dir.file(), std::ios::in | std::ios::out | std::ios::binary);
    for (std::uintmax_t at = 8192; at < size; at += 4096) {
      file.seekp(static_cast<std::streamoff>(at));
      file << std::string(600, '\xff');
    }
    file.close();
    CHECK(refused().kind == ErrorKind::damaged);
  }
  SUBCASE("a directory that is not there") {
    auto opened = Catalog::open(dir.path / "none" / "catalog.db");
    REQUIRE(opened.has_error());
  }
}

// Each transaction n writes job jn, epoch n and the counter n + 1. Whatever moment the writer dies at, what is found
// is a prefix of whole transactions that holds at least all that were reported as applied.
TEST_CASE("SIGKILL at any moment: all of a transaction or nothing, and nothing that was acknowledged is lost") {
  std::random_device seed_source;
  const auto seed = seed_source();
  CAPTURE(seed);
  std::mt19937 random(seed);
  Directory dir;
  must_open(dir.file());
  std::uint64_t next = 1;
  for (int round = 0; round < 12; ++round) {
    int report[2];
    REQUIRE(::pipe(report) == 0);
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      ::close(report[0]);
      auto catalog = Catalog::open(dir.file());
      if (!catalog) ::_exit(1);
      for (std::uint64_t n = next; n < next + 10'000; ++n) {
        const auto id = "j" + std::to_string(n);
        if (!catalog->apply({PutJob{rich_job(id)}, PutEpoch{rich_epoch(n, id)}, PutCounters{n + 1, Epoch{n + 1}, 1}}))
          ::_exit(2);
        if (::write(report[1], &n, sizeof n) != sizeof n) ::_exit(3);
      }
      ::_exit(0);
    }
    ::close(report[1]);
    std::uint64_t acknowledged = next - 1;
    const auto kill_after = next + std::uniform_int_distribution<std::uint64_t>(0, 15)(random);
    while (acknowledged < kill_after && ::read(report[0], &acknowledged, sizeof acknowledged) == sizeof acknowledged) {}
    ::usleep(std::uniform_int_distribution<useconds_t>(0, 3000)(random));  // somewhere inside a later transaction
    ::kill(child, SIGKILL);
    std::uint64_t last = 0;
    while (::read(report[0], &last, sizeof last) == sizeof last) acknowledged = last;
    ::close(report[0]);
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status));

    auto catalog = must_open(dir.file());  // checks integrity
    const auto state = must_load(catalog);
    const auto found = state.next_job - 1;
    CHECK(found >= acknowledged);
    CHECK(found <= acknowledged + 1);
    CHECK(state.jobs.size() == found);
    CHECK(state.epochs.size() == found);
    for (const auto& [number, epoch] : state.epochs) {
      CHECK(state.jobs.contains(epoch.job));
      CHECK(epoch.images.size() == 2);
    }
    next = found + 1;
  }
}
