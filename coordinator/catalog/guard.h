// What finds damage of the catalog's file before anything is done by it. SQLite's own check finds a broken structure,
// not a flipped bit inside a value; so every row has a digest of its other columns beside them, made by a trigger when
// the row is written and compared when the catalog is opened. Chance, not malice: who can write the file can make
// digests.
//
// On the thread of the database; all throw SQLite::Exception, and check_ std::runtime_error that begins with
// "integrity check" where something is wrong.
#pragma once

#include <SQLiteCpp/Database.h>

namespace stillpoint::coordinator::guard {

// Before anything else with the connection: makes row_digest() known, which migrations and the rest here use.
void prepare(SQLite::Database& database);
// Structure, references, and the rows' digests where the schema has them. Reads the whole file.
void check(SQLite::Database& database);
// After a migration: the digest of every row anew, over the columns that it has now.
void seal_all(SQLite::Database& database);
// For this connection's lifetime: what it writes is sealed.
void keep_sealed(SQLite::Database& database);

}  // namespace stillpoint::coordinator::guard
