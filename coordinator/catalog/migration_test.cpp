// Each version of the schema with data in it, as the program of that version wrote it, and what is there of it in the
// newest. A new migration gets a step in fixture(), and what it must make of the data.
#include <SQLiteCpp/SQLiteCpp.h>

#include "coordinator/catalog/guard.h"
#include "coordinator/catalog/schema.h"
#include "coordinator/catalog/test_records.h"

using namespace stillpoint;
using namespace stillpoint::coordinator;
using namespace stillpoint::coordinator::testing;

namespace {

void bind_message(SQLite::Database& db, const char* sql, std::int64_t epoch, std::int64_t guest,
                  const std::string& bytes) {
  SQLite::Statement statement(db, sql);
  statement.bind(1, epoch);
  statement.bind(2, guest);
  statement.bind(3, bytes.data(), static_cast<int>(bytes.size()));
  statement.exec();
}

// j1 runs as incarnation 2, restored from epoch 3; 2 was pruned, 3 and 4 are committed, 5 was aborted. j2 failed.
void insert_version_1(SQLite::Database& db) {
  const std::string spec = spec_to_json(rich_job("j1").spec).dump();
  for (const char* job : {"('j1','melt',?,'text','spool1','running','',2,1,NULL,0,NULL)",
                          "('j2','melt',?,'','','failed','why',1,0,7,0,NULL)"}) {
    SQLite::Statement insert(db, std::string("INSERT INTO jobs VALUES ") + job);
    insert.bind(1, spec);
    insert.exec();
  }
  db.exec(
      "INSERT INTO site VALUES (1,'0123456789abcdef0123456789abcdef');"
      "INSERT INTO counters VALUES ('next_job',3), ('next_epoch',6), ('next_vni',7);"
      "INSERT INTO hosts VALUES ('h1','192.0.2.1',0), ('h2','192.0.2.2',1);"
      "INSERT INTO incarnations VALUES ('j1',1,5,0), ('j1',2,6,3), ('j2',1,4,0);"
      "INSERT INTO placements VALUES ('j1',2,0,0,'h1'), ('j1',2,1,1,'h2');"
      "INSERT INTO epochs VALUES (3,'j1',1,'committed',1700,'',14,1000,100,0.5,0.25,2000,0),"
      " (2,'j1',1,'pruned',1600,'',7,1000,100,0.5,0.25,2000,0),"
      " (4,'j1',2,'committed',1800,'',21,1000,50,0.5,0.25,2000,0), (5,'j1',2,'aborted',1900,'no room',0,0,0,0,0,0,1);"
      "INSERT INTO phases VALUES (3,0,'close',1.5), (3,1,'drain',2.5);"
      "INSERT INTO events VALUES (1,1700,'j1','','3','epoch committed','100 bytes stored'), (9,1900,'','h2',0,"
      "'host lost','');");
  const auto rich = rich_epoch(3, "j1");
  for (std::int64_t epoch : {2, 3, 4})
    for (std::size_t i = 0; i < 2; ++i) {
      bind_message(db, "INSERT INTO guest_cuts VALUES (?1,?2,?2,?3)", epoch, rich.cut[i].guest(),
                   rich.cut[i].SerializeAsString());
      bind_message(db, "INSERT INTO images VALUES (?1,?2,?2,'m','d',?3)", epoch, rich.images[i].guest(),
                   rich.images[i].SerializeAsString());
    }
}

// What the program of each version wrote beside what the one before it did.
void add_version(SQLite::Database& db, int version) {
  switch (version) {
    case 1: return insert_version_1(db);
    case 2:
      return db.exec(
                 "UPDATE jobs SET missing_outputs = '[\"a: gone\"]' WHERE id = 'j2';"
                 "UPDATE epochs SET restored_from = 3 WHERE epoch >= 4"),
             void();
    case 3: return db.exec("UPDATE jobs SET automatic_restarts = 2, setbacks = 1 WHERE id = 'j1'"), void();
    case 4:
      return db.exec("UPDATE epochs SET state = 'damaged', reason = 'a bit', verified = 2000 WHERE epoch = 3"), void();
    case 5: return db.exec("UPDATE hosts SET failures = 3, watched_seconds = 600 WHERE name = 'h2'"), void();
    case 6: return db.exec("UPDATE events SET incarnation = 1, job_state = 'running' WHERE id = 1"), void();
    case 7:
      db.exec("UPDATE jobs SET anywhere = 1 WHERE id = 'j2'; INSERT INTO lost_jobs VALUES (10, 12, NULL)");
      return guard::seal_all(db);
    case 8: return db.exec("UPDATE hosts SET lease_ms = 60000 WHERE name = 'h2'"), guard::seal_all(db);
    default: FAIL("a version without data for it: ", version);
  }
}

void make_fixture(const std::filesystem::path& path, int version) {
  SQLite::Database db(path.string(), SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE);
  guard::prepare(db);
  for (const auto& step : migrations()) {
    if (step.version > version) break;
    migrate(db, step.version);
    add_version(db, step.version);
  }
  CHECK(version_of(db) == version);
}

void check_state(const CatalogState& state, int version) {
  CHECK(state.coordinator == "0123456789abcdef0123456789abcdef");
  CHECK(state.next_job == 3);
  CHECK(state.next_epoch == Epoch{6});
  CHECK(state.next_vni == 7);
  CHECK(state.hosts.at(HostName{"h2"}).cordoned);
  CHECK(state.hosts.at(HostName{"h2"}).failures == (version >= 5 ? 3 : 0));
  CHECK(state.hosts.at(HostName{"h2"}).lease == std::chrono::milliseconds(version >= 8 ? 60'000 : 0));
  REQUIRE(state.jobs.size() == 2);
  const auto& running = state.jobs.at(JobId{"j1"});
  CHECK(spec_to_json(running.spec) == spec_to_json(rich_job("j1").spec));
  CHECK(running.manifest == "text");
  CHECK(running.spool == "spool1");
  CHECK(running.incarnation == Incarnation{2});
  CHECK(running.vni == 6);
  CHECK(running.restored_from == Epoch{3});
  CHECK(running.placement.size() == 2);
  CHECK(running.automatic_restarts == (version >= 3 ? 2 : 0));
  CHECK_FALSE(running.restart.has_value());
  CHECK_FALSE(running.anywhere);
  const auto& failed = state.jobs.at(JobId{"j2"});
  CHECK(failed.exit_code == 7);
  CHECK(failed.reason == "why");
  CHECK(failed.missing_outputs.size() == (version >= 2 ? 1 : 0));
  CHECK(failed.anywhere == (version >= 7));
  REQUIRE(state.epochs.size() == 4);
  // Before version 7 the names of its images were kept.
  const auto& pruned = state.epochs.at(Epoch{2});
  CHECK(pruned.state == EpochState::pruned);
  CHECK(pruned.images.empty());
  CHECK(pruned.cut.empty());
  const auto& oldest = state.epochs.at(Epoch{3});
  CHECK(oldest.state == (version >= 4 ? EpochState::damaged : EpochState::committed));
  CHECK(oldest.verified == (version >= 4 ? 2000 : 0));
  CHECK(oldest.output_offset == 14);
  CHECK(oldest.phases.phases.size() == 2);
  REQUIRE(oldest.images.size() == 2);
  CHECK(oldest.images[0].memory().path() == "h1/j1/e2/guest-0.ram");
  CHECK(oldest.cut.size() == 2);
  // Version 2 computes it for what version 1 kept.
  CHECK(oldest.restored_from == Epoch{0});
  CHECK(state.epochs.at(Epoch{4}).restored_from == Epoch{3});
  CHECK(state.epochs.at(Epoch{5}).control);
  CHECK(state.lost_jobs.size() == (version >= 7 ? 1 : 0));
}

}  // namespace

TEST_CASE("what each version kept is there in the newest, and what it writes then stays") {
  for (const auto& from : migrations()) {
    CAPTURE(from.version);
    Directory dir;
    make_fixture(dir.file(), from.version);
    {
      auto catalog = must_open(dir.file());
      check_state(must_load(catalog), from.version);
      const auto events = catalog.events({}).value();
      REQUIRE(events.size() == 2);
      CHECK(events[0].what == "epoch committed");
      CHECK(events[0].job_state.has_value() == (from.version >= 6));
      CHECK(events[1].id == 9);
      REQUIRE(catalog.apply({AddEvent{{1, JobId{"j1"}, {}, {}, "new", ""}}, PutCounters{3, Epoch{6}, 7}}).has_value());
      CHECK(catalog.newest_event().value() == 10);
    }
    auto again = must_open(dir.file());  // its rows are sealed now, whoever wrote them
    check_state(must_load(again), from.version);
  }
}

TEST_CASE("a migration that is interrupted between its steps is taken up") {
  Directory dir;
  make_fixture(dir.file(), 2);
  {
    SQLite::Database db(dir.file().string(), SQLite::OPEN_READWRITE);
    guard::prepare(db);
    migrate(db, 4);
  }
  auto catalog = must_open(dir.file());
  check_state(must_load(catalog), 2);
}

TEST_CASE("every table but those of the schema itself has a digest in its rows") {
  Directory dir;
  must_open(dir.file());
  SQLite::Database db(dir.file().string());
  SQLite::Statement tables(db,
                           "SELECT name FROM sqlite_master m WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
                           " AND name <> 'schema' AND NOT EXISTS"
                           " (SELECT 1 FROM pragma_table_info(m.name) c WHERE c.name = 'digest')");
  CHECK_FALSE(tables.executeStep());
}
