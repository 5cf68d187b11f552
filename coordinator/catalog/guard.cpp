#include "coordinator/catalog/guard.h"

#include <SQLiteCpp/SQLiteCpp.h>
#include <openssl/evp.h>
#include <sqlite3.h>

#include <array>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace stillpoint::coordinator::guard {
namespace {

constexpr int kDigestBytes = 16;  // of SHA-256

struct Table {
  std::string name;
  std::vector<std::string> columns;  // but the digest
  std::vector<std::string> key;      // "rowid" where there is one
};

std::string joined(const std::vector<std::string>& names, const std::string& before, const std::string& between) {
  std::string text;
  for (const auto& name : names) text += (text.empty() ? "" : between) + before + '"' + name + '"';
  return text;
}

// Types and lengths go in, too: no two rows of different values look alike.
void add(EVP_MD_CTX* digest, sqlite3_value* value) {
  const int type = sqlite3_value_type(value);
  std::array<char, 9> head{static_cast<char>(type)};
  if (type == SQLITE_INTEGER) {
    const sqlite3_int64 number = sqlite3_value_int64(value);
    std::memcpy(head.data() + 1, &number, sizeof number);
    EVP_DigestUpdate(digest, head.data(), head.size());
  } else if (type == SQLITE_FLOAT) {
    const double number = sqlite3_value_double(value);
    std::memcpy(head.data() + 1, &number, sizeof number);
    EVP_DigestUpdate(digest, head.data(), head.size());
  } else {
    const void* bytes = type == SQLITE_NULL ? nullptr : sqlite3_value_blob(value);
    const std::int64_t length = sqlite3_value_bytes(value);
    std::memcpy(head.data() + 1, &length, sizeof length);
    EVP_DigestUpdate(digest, head.data(), head.size());
    if (bytes != nullptr) EVP_DigestUpdate(digest, bytes, static_cast<std::size_t>(length));
  }
}

void row_digest(sqlite3_context* context, int count, sqlite3_value** values) {
  const std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> digest(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  std::array<unsigned char, EVP_MAX_MD_SIZE> result{};
  if (!digest || EVP_DigestInit_ex(digest.get(), EVP_sha256(), nullptr) != 1)
    return sqlite3_result_error(context, "no SHA-256", -1);
  for (int i = 0; i < count; ++i) add(digest.get(), values[i]);
  EVP_DigestFinal_ex(digest.get(), result.data(), nullptr);
  sqlite3_result_blob(context, result.data(), kDigestBytes, SQLITE_TRANSIENT);
}

std::vector<Table> sealed_tables(SQLite::Database& database) {
  std::vector<Table> tables;
  SQLite::Statement names(database,
                          "SELECT m.name, m.sql LIKE '%WITHOUT ROWID%' FROM sqlite_master m"
                          " WHERE m.type = 'table' AND EXISTS"
                          " (SELECT 1 FROM pragma_table_info(m.name) c WHERE c.name = 'digest')");
  while (names.executeStep()) {
    Table& table = tables.emplace_back();
    table.name = names.getColumn(0).getString();
    const bool has_rowid = names.getColumn(1).getInt() == 0;
    if (has_rowid) table.key.emplace_back("rowid");
    SQLite::Statement columns(database, "SELECT name, pk FROM pragma_table_info(?) ORDER BY cid");
    columns.bind(1, table.name);
    while (columns.executeStep()) {
      const std::string column = columns.getColumn(0).getString();
      if (column != "digest") table.columns.push_back(column);
      if (!has_rowid && columns.getColumn(1).getInt() > 0) table.key.push_back(column);
    }
  }
  return tables;
}

// With the first table that has one, all have: one that does not is damaged where its columns are named.
void check_tables(SQLite::Database& database, const std::vector<Table>& sealed) {
  if (sealed.empty()) return;
  const auto all = database.execAndGet(
      "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name <> 'schema'");
  if (all.getInt64() != static_cast<std::int64_t>(sealed.size()))
    throw std::runtime_error("integrity check: a table has no digests");
}

void check_rows(SQLite::Database& database) {
  const auto tables = sealed_tables(database);
  check_tables(database, tables);
  for (const Table& table : tables) {
    SQLite::Statement wrong(database, "SELECT 1 FROM \"" + table.name + "\" WHERE digest IS NOT row_digest(" +
                                          joined(table.columns, "", ", ") + ") LIMIT 1");
    if (wrong.executeStep())
      throw std::runtime_error("integrity check: a row of table " + table.name + " is not what was written");
  }
}

}  // namespace

void prepare(SQLite::Database& database) {
  const int flags = SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_INNOCUOUS;
  if (sqlite3_create_function_v2(database.getHandle(), "row_digest", -1, flags, nullptr, row_digest, nullptr, nullptr,
                                 nullptr) != SQLITE_OK)
    throw SQLite::Exception(database.getHandle());
}

void check(SQLite::Database& database) {
  if (const std::string verdict = database.execAndGet("PRAGMA integrity_check(1)").getString(); verdict != "ok")
    throw std::runtime_error("integrity check: " + verdict);
  SQLite::Statement orphans(database, "PRAGMA foreign_key_check");
  if (orphans.executeStep())
    throw std::runtime_error("integrity check: a row of table " + orphans.getColumn(0).getString() +
                             " refers to nothing");
  check_rows(database);
}

void seal_all(SQLite::Database& database) {
  for (const Table& table : sealed_tables(database))
    database.exec("UPDATE \"" + table.name + "\" SET digest = row_digest(" + joined(table.columns, "", ", ") + ")");
}

void keep_sealed(SQLite::Database& database) {
  for (const Table& table : sealed_tables(database)) {
    std::string row;
    for (const auto& column : table.key) row += (row.empty() ? "" : " AND ") + column + " = NEW." + column;
    const std::string seal = " BEGIN UPDATE \"" + table.name + "\" SET digest = row_digest(" +
                             joined(table.columns, "NEW.", ", ") + ") WHERE " + row + "; END";
    database.exec("CREATE TEMP TRIGGER seal_new_" + table.name + " AFTER INSERT ON main.\"" + table.name + "\"" + seal);
    database.exec("CREATE TEMP TRIGGER seal_" + table.name + " AFTER UPDATE OF " + joined(table.columns, "", ", ") +
                  " ON main.\"" + table.name + "\"" + seal);
  }
}

}  // namespace stillpoint::coordinator::guard
