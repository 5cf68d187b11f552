#include "coordinator/catalog/restore.h"

#include <SQLiteCpp/SQLiteCpp.h>
#include <fcntl.h>
#include <stdio.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <ctime>

#include "common/file.h"
#include "coordinator/catalog/backup.h"
#include "coordinator/catalog/catalog.h"
#include "coordinator/catalog/identity.h"
#include "coordinator/core/after_loss.h"

namespace stillpoint::coordinator {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kEventsAhead = 100'000'000, kEventsOfASecond = 1'000;  // more lines of history than there are
constexpr std::int64_t kMostJobs = std::int64_t{1} << 40;
constexpr const char* kCatalog = "catalog.db";
constexpr const char* kNew = "catalog.db.new";  // being made; whoever finds one begins again

WallSeconds wall() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string time_text(WallSeconds seconds, const char* format) {
  const auto when = static_cast<std::time_t>(seconds);
  std::tm parts{};
  char text[64] = "";
  if (::gmtime_r(&when, &parts) != nullptr) std::strftime(text, sizeof text, format, &parts);
  return text;
}

void remove_with_log(const fs::path& path) {
  std::error_code ignored;
  for (const char* suffix : {"", "-wal", "-shm", "-journal"}) fs::remove(path.string() + suffix, ignored);
}

// A catalog that is being made goes again unless it got its name.
struct Making {
  fs::path path;
  ~Making() { remove_with_log(path); }
};

// The catalog and its log, which belong together, under a name that nobody has; a log alone, too, whose catalog was put
// aside before. Empty: there was no catalog.
Result<fs::path> put_aside(const fs::path& catalog) {
  std::error_code failed;
  const bool is_there = fs::exists(catalog, failed);
  const std::string stem = catalog.string() + ".aside-" + time_text(wall(), "%Y%m%dT%H%M%SZ");
  for (int i = 0; i < 100; ++i) {
    const fs::path aside = stem + (i == 0 ? "" : "-" + std::to_string(i));
    if (fs::exists(aside, failed) || fs::exists(aside.string() + "-wal", failed)) continue;
    // The catalog goes first: without it no start is possible. One without its log would look like an older one.
    for (const char* suffix : {"", "-wal", "-shm"}) {
      fs::rename(catalog.string() + suffix, aside.string() + suffix, failed);
      if (failed && failed != std::errc::no_such_file_or_directory)
        return Error{ErrorKind::permanent, "put aside", catalog.string(), failed.message()};
      if (auto synced = sync_directory(catalog.parent_path()); !synced) return synced.error();
    }
    return is_there ? aside : fs::path();
  }
  return Error{ErrorKind::permanent, "put aside", catalog.string(), "too many older ones lie there; move them away"};
}

// What is closed lies in one file, without a log.
Status close_into_place(Catalog catalog, const fs::path& made, const fs::path& place) {
  { const Catalog closing = std::move(catalog); }
  return publish_new(made, place);
}

// Of the jobs that have a directory with their output.
std::uint64_t newest_job_in(const fs::path& jobs) {
  std::uint64_t newest = 0;
  std::error_code failed;
  for (const auto& entry : fs::directory_iterator(jobs, failed))
    newest = std::max(newest, number_of(JobId{entry.path().filename().string()}).value_or(0));
  return newest;
}

// As far as the lost catalog can still say it; 0: it cannot.
std::uint64_t newest_job_of(const fs::path& catalog) {
  try {
    SQLite::Database database(catalog.string(), SQLite::OPEN_READONLY);
    const std::int64_t next = database.execAndGet("SELECT value FROM counters WHERE name = 'next_job'").getInt64();
    return next > 0 && next < kMostJobs ? static_cast<std::uint64_t>(next - 1) : 0;
  } catch (const std::exception&) {
    return 0;
  }
}

// Ids of history are never given out twice; the last change is a line of it.
void begin_history_at(std::vector<CatalogChange>& changes, std::uint64_t id) {
  std::get<AddEvent>(changes.back()).event.id = id;
}

// The made one is closed and takes the place of the one that is there, which is kept aside.
Result<PutBack> take_the_place(const fs::path& state_directory, Catalog made, PutBack done) {
  const fs::path place = state_directory / kCatalog;
  auto aside = put_aside(place);
  if (!aside) return aside.error();
  done.aside = std::move(*aside);
  if (auto placed = close_into_place(std::move(made), state_directory / kNew, place); !placed) return placed.error();
  if (auto noted = keep_identity(state_directory, done.coordinator); !noted) return noted.error();
  return done;
}

}  // namespace

Result<PutBack> restore_catalog(const fs::path& state_directory, const fs::path& backup) {
  const Making making{state_directory / kNew};
  remove_with_log(making.path);
  std::error_code failed;
  if (!fs::is_regular_file(backup, failed))
    return Error{ErrorKind::not_found, "restore", backup.string(), "there is no such file"};
  // Through the database, not as bytes: a backup with a log beside it counts with its log.
  if (auto copied = back_up_catalog(fs::absolute(backup), fs::absolute(making.path)); !copied)
    return Error{copied.error().kind, "restore", backup.string(), copied.error().cause};
  auto catalog = Catalog::open(making.path, Catalog::Missing::is_made_anew);
  if (!catalog) return Error{catalog.error().kind, "restore", backup.string(), catalog.error().cause};
  auto state = catalog->load();
  if (!state) return Error{state.error().kind, "restore", backup.string(), state.error().cause};
  const auto known = read_identity(state_directory);
  if (!known) return known.error();
  if (*known && **known != state->coordinator)
    return Error{ErrorKind::refused, "restore", backup.string(),
                 "it is of another coordinator, " + state->coordinator + "; the hosts of this one would refuse it"};
  PutBack done;
  done.coordinator = state->coordinator;
  done.jobs = state->jobs.size();
  const auto newest = catalog->events({.limit = 1, .newest = true});
  if (!newest) return newest.error();
  if (!newest->empty()) done.as_of = newest->front().time;
  const std::string what = "the catalog was put back as it was at " + time_text(done.as_of, "%Y-%m-%dT%H:%M:%SZ");
  auto changes = after_loss(*state, what, wall());
  begin_history_at(changes, (newest->empty() ? 0 : newest->front().id) + kEventsAhead);
  if (auto applied = catalog->apply(changes); !applied) return applied.error();
  return take_the_place(state_directory, std::move(*catalog), std::move(done));
}

Result<PutBack> begin_anew(const fs::path& state_directory) {
  const Making making{state_directory / kNew};
  remove_with_log(making.path);
  auto catalog = Catalog::open(making.path, Catalog::Missing::is_made_anew);
  if (!catalog) return catalog.error();
  auto state = catalog->load();
  if (!state) return state.error();
  PutBack done;
  done.coordinator = state->coordinator;
  const auto now = wall();
  const auto newest = std::max(newest_job_in(state_directory / "jobs"), newest_job_of(state_directory / kCatalog));
  auto changes = beyond_loss(newest, now);
  begin_history_at(changes, kEventsOfASecond * static_cast<std::uint64_t>(now));
  if (auto applied = catalog->apply(changes); !applied) return applied.error();
  return take_the_place(state_directory, std::move(*catalog), std::move(done));
}

}  // namespace stillpoint::coordinator
