// The catalog's schema as numbered, forward-only migrations. On the catalog's thread.
#pragma once

#include <span>

namespace SQLite {
class Database;
}

namespace stillpoint::coordinator {

// Migration n brings version n - 1 to n. Never changed once released: a new one is added at the end.
struct Migration {
  int version;
  const char* sql;
};
std::span<const Migration> migrations();

// 0: nothing is there yet, or it is no catalog.
int version_of(SQLite::Database& database);
bool is_empty(SQLite::Database& database);

// With guard::prepare() before it. Brings the database to version upto (0: the newest), each step in a transaction of
// its own. Throws SQLite::Exception, and std::runtime_error when the database is newer than this program or not a
// catalog.
void migrate(SQLite::Database& database, int upto = 0);

}  // namespace stillpoint::coordinator
