#include "coordinator/catalog/schema.h"

#include <SQLiteCpp/SQLiteCpp.h>

#include <stdexcept>
#include <string>

#include "coordinator/catalog/guard.h"

namespace stillpoint::coordinator {
namespace {

constexpr int kApplicationId = 0x53504331;  // "SPC1": what `file` and a mix-up of databases go by

// Numbers of 64 bits without sign are kept as SQLite's signed ones with the same bits. Foreign keys are checked at the
// end of a transaction: the core names the changes in its own order.
constexpr Migration kMigrations[] = {
    {1, R"sql(
      CREATE TABLE site (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        coordinator TEXT NOT NULL);
      CREATE TABLE counters (
        name TEXT PRIMARY KEY,
        value INTEGER NOT NULL) WITHOUT ROWID;
      CREATE TABLE hosts (
        name TEXT PRIMARY KEY,
        address TEXT NOT NULL,
        cordoned INTEGER NOT NULL) WITHOUT ROWID;
      CREATE TABLE jobs (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        spec TEXT NOT NULL,                   -- JSON, as the API takes it
        manifest TEXT NOT NULL,
        spool TEXT NOT NULL,
        state TEXT NOT NULL,
        reason TEXT NOT NULL,
        incarnation INTEGER NOT NULL,         -- the current one; 0 before the first launch
        restarts INTEGER NOT NULL,
        exit_code INTEGER,
        stopping INTEGER NOT NULL,
        attempt INTEGER) WITHOUT ROWID;
      CREATE INDEX jobs_by_name ON jobs(name);
      CREATE TABLE incarnations (             -- the current one of each job, and what went before
        job TEXT NOT NULL REFERENCES jobs(id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
        incarnation INTEGER NOT NULL,
        vni INTEGER NOT NULL,
        restored_from INTEGER NOT NULL,
        PRIMARY KEY (job, incarnation)) WITHOUT ROWID;
      CREATE TABLE placements (
        job TEXT NOT NULL,
        incarnation INTEGER NOT NULL,
        position INTEGER NOT NULL,
        guest INTEGER NOT NULL,
        host TEXT NOT NULL,
        PRIMARY KEY (job, incarnation, position),
        FOREIGN KEY (job, incarnation) REFERENCES incarnations(job, incarnation)
          ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED) WITHOUT ROWID;
      CREATE TABLE epochs (
        epoch INTEGER PRIMARY KEY,
        job TEXT NOT NULL REFERENCES jobs(id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
        incarnation INTEGER NOT NULL,
        state TEXT NOT NULL,
        time INTEGER NOT NULL,
        reason TEXT NOT NULL,
        output_offset INTEGER NOT NULL,
        bytes_raw INTEGER NOT NULL,
        bytes_stored INTEGER NOT NULL,
        stall_ms REAL NOT NULL,
        capture_ms REAL NOT NULL,
        commit_ms REAL NOT NULL,
        control INTEGER NOT NULL);
      CREATE INDEX epochs_by_job ON epochs(job);
      CREATE TABLE phases (
        epoch INTEGER NOT NULL REFERENCES epochs(epoch) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
        position INTEGER NOT NULL,
        name TEXT NOT NULL,
        ms REAL NOT NULL,
        PRIMARY KEY (epoch, position)) WITHOUT ROWID;
      CREATE TABLE guest_cuts (
        epoch INTEGER NOT NULL REFERENCES epochs(epoch) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
        position INTEGER NOT NULL,
        guest INTEGER NOT NULL,
        cut BLOB NOT NULL,                    -- wire.GuestCut
        PRIMARY KEY (epoch, position));
      CREATE TABLE images (
        epoch INTEGER NOT NULL REFERENCES epochs(epoch) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
        position INTEGER NOT NULL,
        guest INTEGER NOT NULL,
        memory_path TEXT NOT NULL,
        disk_path TEXT NOT NULL,
        image BLOB NOT NULL,                  -- wire.GuestImage
        PRIMARY KEY (epoch, position));
      CREATE TABLE events (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        time INTEGER NOT NULL,
        job TEXT NOT NULL,                    -- no reference: history outlives the job
        host TEXT NOT NULL,
        epoch INTEGER NOT NULL,
        what TEXT NOT NULL,
        detail TEXT NOT NULL);
      CREATE INDEX events_by_job ON events(job, id);
    )sql"},
    {2, R"sql(
      ALTER TABLE jobs ADD COLUMN missing_outputs TEXT NOT NULL DEFAULT '[]';  -- JSON
      ALTER TABLE jobs ADD COLUMN restart TEXT;                                -- JSON: terms of the one under way
      ALTER TABLE epochs ADD COLUMN restored_from INTEGER NOT NULL DEFAULT 0;
      UPDATE epochs SET restored_from = coalesce(
        (SELECT i.restored_from FROM incarnations i WHERE i.job = epochs.job AND i.incarnation = epochs.incarnation), 0);
    )sql"},
    {3, R"sql(
      ALTER TABLE jobs ADD COLUMN automatic_restarts INTEGER NOT NULL DEFAULT 0;
      ALTER TABLE jobs ADD COLUMN setbacks INTEGER NOT NULL DEFAULT 0;
    )sql"},
    // From here on an epoch's state may be "damaged", which older programs do not know.
    {4, R"sql(
      ALTER TABLE epochs ADD COLUMN verified INTEGER NOT NULL DEFAULT 0;
    )sql"},
    {5, R"sql(
      ALTER TABLE hosts ADD COLUMN failures INTEGER NOT NULL DEFAULT 0;
      ALTER TABLE hosts ADD COLUMN watched_seconds INTEGER NOT NULL DEFAULT 0;
    )sql"},
    {6, R"sql(
      ALTER TABLE events ADD COLUMN incarnation INTEGER NOT NULL DEFAULT 0;
      ALTER TABLE events ADD COLUMN job_state TEXT NOT NULL DEFAULT '';    -- from then on; '' where none is named
      ALTER TABLE events ADD COLUMN epoch_state TEXT NOT NULL DEFAULT '';
      CREATE INDEX events_by_host ON events(host, id) WHERE host <> '';
    )sql"},
    // From here on every row has its digest (guard.h), and what is pruned has no images.
    {7, R"sql(
      DELETE FROM images WHERE epoch IN (SELECT epoch FROM epochs WHERE state = 'pruned');
      DELETE FROM guest_cuts WHERE epoch IN (SELECT epoch FROM epochs WHERE state = 'pruned');
      ALTER TABLE jobs ADD COLUMN anywhere INTEGER NOT NULL DEFAULT 0;
      CREATE TABLE lost_jobs (                -- numbers of jobs that a catalog which was lost may have given out
        first INTEGER PRIMARY KEY,
        last INTEGER NOT NULL,
        digest BLOB);
      ALTER TABLE site ADD COLUMN digest BLOB;
      ALTER TABLE counters ADD COLUMN digest BLOB;
      ALTER TABLE hosts ADD COLUMN digest BLOB;
      ALTER TABLE jobs ADD COLUMN digest BLOB;
      ALTER TABLE incarnations ADD COLUMN digest BLOB;
      ALTER TABLE placements ADD COLUMN digest BLOB;
      ALTER TABLE epochs ADD COLUMN digest BLOB;
      ALTER TABLE phases ADD COLUMN digest BLOB;
      ALTER TABLE guest_cuts ADD COLUMN digest BLOB;
      ALTER TABLE images ADD COLUMN digest BLOB;
      ALTER TABLE events ADD COLUMN digest BLOB;
    )sql"},
    // A coordinator that is started with a shorter lease waits out the one that hosts still go by.
    {8, "ALTER TABLE hosts ADD COLUMN lease_ms INTEGER NOT NULL DEFAULT 0;"},
};

}  // namespace

int version_of(SQLite::Database& database) {
  if (!database.tableExists("schema")) return 0;
  return database.execAndGet("SELECT coalesce(max(version), 0) FROM schema").getInt();
}

bool is_empty(SQLite::Database& database) {
  return database.execAndGet("SELECT count(*) FROM sqlite_master").getInt() == 0;
}

std::span<const Migration> migrations() { return kMigrations; }

void migrate(SQLite::Database& database, int upto) {
  const int newest = kMigrations[std::size(kMigrations) - 1].version;
  const int version = version_of(database);
  const int application = database.execAndGet("PRAGMA application_id").getInt();
  if (version == 0 ? !is_empty(database) : application != kApplicationId)
    throw std::runtime_error("this database is not a catalog of Stillpoint");
  if (version > newest)
    throw std::runtime_error("it has schema version " + std::to_string(version) + ", this program knows up to " +
                             std::to_string(newest) + ": run the newer stillpointd that wrote it");
  for (const Migration& migration : kMigrations) {
    if (migration.version <= version || (upto != 0 && migration.version > upto)) continue;
    SQLite::Transaction transaction(database, SQLite::TransactionBehavior::IMMEDIATE);
    if (migration.version == 1) {
      database.exec("CREATE TABLE schema (version INTEGER PRIMARY KEY, applied TEXT NOT NULL)");
      database.exec("PRAGMA application_id = " + std::to_string(kApplicationId));
    }
    database.exec(migration.sql);
    guard::seal_all(database);
    database.exec("INSERT INTO schema VALUES (" + std::to_string(migration.version) + ", datetime('now'))");
    transaction.commit();
  }
}

}  // namespace stillpoint::coordinator
