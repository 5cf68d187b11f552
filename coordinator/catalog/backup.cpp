#include "coordinator/catalog/backup.h"

#include <SQLiteCpp/Backup.h>
#include <SQLiteCpp/SQLiteCpp.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <unistd.h>

#include <cerrno>

#include "common/fd.h"
#include "common/file.h"
#include "common/random_id.h"
#include "coordinator/catalog/guard.h"
#include "coordinator/catalog/schema.h"

namespace stillpoint::coordinator {
namespace {

namespace fs = std::filesystem;

constexpr int kBusyMs = 5000;

// A file that goes with the object, and what SQLite puts beside it.
struct Temporary {
  fs::path path;
  ~Temporary() {
    std::error_code ignored;
    for (const char* suffix : {"", "-journal", "-wal", "-shm"}) fs::remove(path.string() + suffix, ignored);
  }
};

Error backup_error(const fs::path& to, const std::exception& cause) {
  Error error{ErrorKind::permanent, "backup", to.string(), cause.what()};
  const auto* sqlite = dynamic_cast<const SQLite::Exception*>(&cause);
  const int code = sqlite == nullptr ? SQLITE_ERROR : sqlite->getErrorCode();
  if (code == SQLITE_FULL || code == SQLITE_IOERR) {
    std::error_code failed;
    if (const auto space = fs::space(to.parent_path(), failed);
        code == SQLITE_FULL || (!failed && space.available == 0)) {
      error.kind = ErrorKind::storage_full;
      error.cause = "there is no room for it; name a file on another disk";
    }
  }
  if (error.cause.starts_with("integrity check")) error.kind = ErrorKind::damaged;
  return error;
}

void copy_database(const fs::path& catalog, const fs::path& to) {
  SQLite::Database from(catalog.string(), SQLite::OPEN_READWRITE, kBusyMs);
  SQLite::Database copied(to.string(), SQLite::OPEN_READWRITE, kBusyMs);
  SQLite::Backup backup(copied, from);
  // In one step: a reader of a write-ahead log sees one moment and keeps nobody from writing.
  if (const int code = backup.executeStep(-1); code != SQLITE_DONE)
    throw std::runtime_error(std::string("it was not copied whole: ") + sqlite3_errstr(code));
}

// One file, without a log beside it; and whole.
void close_and_check(const fs::path& path) {
  SQLite::Database database(path.string(), SQLite::OPEN_READWRITE, kBusyMs);
  database.exec("PRAGMA journal_mode = DELETE");
  guard::prepare(database);
  guard::check(database);
  if (version_of(database) == 0) throw std::runtime_error("integrity check: it is no catalog");
}

Status sync_file(const fs::path& path) {
  const Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file || ::fsync(file.get()) != 0) return errno_error("sync", path.string(), errno);
  return {};
}

}  // namespace

Status publish_new(const fs::path& from, const fs::path& to) {
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) != 0) {
    if (errno == EEXIST)
      return Error{ErrorKind::refused, "backup", to.string(), "there is something of that name already; name another"};
    return errno_error("rename", to.string(), errno);
  }
  return sync_directory(to.parent_path());
}

Result<std::uint64_t> back_up_catalog(const fs::path& catalog, const fs::path& to) {
  if (!to.is_absolute())
    return Error{ErrorKind::refused, "backup", to.string(), "the path must be absolute: the coordinator writes it"};
  std::error_code failed;
  if (fs::symlink_status(to, failed).type() != fs::file_type::not_found)
    return Error{ErrorKind::refused, "backup", to.string(), "there is something of that name already; name another"};
  const auto id = random_id();
  if (!id) return id.error();
  const Temporary part{to.string() + ".part-" + *id};
  Fd made(::open(part.path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!made) return errno_error("backup", to.string(), errno);
  made.reset();  // before SQLite opens it: closing any descriptor of a file drops the process's locks on it
  try {
    copy_database(catalog, part.path);
    close_and_check(part.path);
  } catch (const std::exception& cause) {
    return backup_error(to, cause);
  }
  if (auto synced = sync_file(part.path); !synced) return synced.error();
  const auto bytes = fs::file_size(part.path, failed);
  if (auto published = publish_new(part.path, to); !published) return published.error();
  return std::uint64_t{bytes};
}

}  // namespace stillpoint::coordinator
