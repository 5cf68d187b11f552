#include "coordinator/catalog/catalog.h"

#include <SQLiteCpp/SQLiteCpp.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>

#include <cerrno>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "common/fd.h"
#include "common/random_id.h"
#include "coordinator/catalog/guard.h"
#include "coordinator/catalog/identity.h"
#include "coordinator/catalog/plausible.h"
#include "coordinator/catalog/schema.h"
#include "coordinator/core/spec_json.h"

namespace stillpoint::coordinator {
namespace {

constexpr int kBusyMs = 5000;  // somebody looks at the database with the sqlite3 shell
// History is bounded: trimmed at start and after each kTrimAfter. That of a job that was removed goes with its age.
constexpr std::int64_t kKeptEvents = 100'000;  // in all
constexpr std::int64_t kKeptOfOne = 10'000;    // of each job, and of what is no job's
constexpr std::int64_t kTrimAfter = 2'000;

std::int64_t number(std::uint64_t value) { return static_cast<std::int64_t>(value); }
std::uint64_t number(const SQLite::Column& column) { return static_cast<std::uint64_t>(column.getInt64()); }
std::uint32_t small(const SQLite::Column& column) { return static_cast<std::uint32_t>(column.getInt64()); }

// Whole message or nothing: a row that does not parse is damage.
template <class Message>
Message parse(const SQLite::Column& column, const char* what) {
  Message message;
  if (!message.ParseFromArray(column.getBlob(), column.getBytes()))
    throw std::runtime_error(std::string("unreadable ") + what);
  return message;
}

// Of text that came from hosts and users: what is not UTF-8 in it is replaced, never an exception.
std::string text_of(const nlohmann::json& document) {
  return document.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

nlohmann::json terms_to_json(const RestartTerms& terms) {
  std::vector<std::string> hosts;
  for (const auto& host : terms.hosts) hosts.push_back(host.value);
  nlohmann::json document = {{"epochNamed", terms.epoch_named},
                             {"hosts", hosts},
                             {"skipLinkCheck", terms.skip_link_check},
                             {"automatic", terms.automatic}};
  if (terms.suspect) document["suspect"] = terms.suspect->value;
  return document;
}

RestartTerms terms_from_json(const nlohmann::json& document) {
  RestartTerms terms;
  terms.epoch_named = document.at("epochNamed").get<bool>();
  terms.skip_link_check = document.at("skipLinkCheck").get<bool>();
  terms.automatic = document.value("automatic", false);  // not in what older versions wrote
  if (const auto suspect = document.find("suspect"); suspect != document.end())
    terms.suspect = HostName{suspect->get<std::string>()};
  for (const auto& host : document.at("hosts")) terms.hosts.push_back(HostName{host.get<std::string>()});
  return terms;
}

template <class State>
State known(std::optional<State> state, const std::string& text) {
  if (!state) throw std::runtime_error("unknown state \"" + text + "\"");
  return *state;
}

EventRecord event_in(SQLite::Statement& row) {
  EventRecord e;
  e.time = row.getColumn(0).getInt64();
  e.job = JobId{row.getColumn(1).getString()};
  e.host = HostName{row.getColumn(2).getString()};
  e.epoch = Epoch{number(row.getColumn(3))};
  e.what = row.getColumn(4).getString();
  e.detail = row.getColumn(5).getString();
  e.incarnation = Incarnation{number(row.getColumn(6))};
  e.job_state = job_state(row.getColumn(7).getString());
  e.epoch_state = epoch_state(row.getColumn(8).getString());
  e.id = number(row.getColumn(9));
  return e;
}

}  // namespace

struct Catalog::Impl {
  std::filesystem::path path;
  SQLite::Database db;
  std::int64_t added = 0;  // events since the history was trimmed
  using Places = std::pair<Incarnation, std::vector<std::pair<std::uint64_t, std::string>>>;
  std::map<JobId, Places> places_written;  // that are in the database as they are here

  explicit Impl(const std::filesystem::path& file) : path(file), db(file.string(), SQLite::OPEN_READWRITE, kBusyMs) {}

  void prepare();
  Error error(const char* step, const std::exception& cause) const;

  void put(const PutJob& change);
  void put(const DropJob& change);
  void put(const PutEpoch& change);
  void put(const PutHost& change);
  void put(const PutCounters& change);
  void put(const AddEvent& change);
  void put(const DropEpoch& change) { run("DELETE FROM epochs WHERE epoch = ?", number(change.epoch.value)); }
  void put(const AddLostJobs& change) {
    run("INSERT OR REPLACE INTO lost_jobs (first, last) VALUES (?,?)", number(change.numbers.first),
        number(change.numbers.last));
  }
  void put(const FoundJob& change) {
    std::vector<CatalogState::Lost> hit;
    SQLite::Statement rows(db, "SELECT first, last FROM lost_jobs WHERE ? BETWEEN first AND last");
    rows.bind(1, number(change.number));
    while (rows.executeStep()) hit.push_back({number(rows.getColumn(0)), number(rows.getColumn(1))});
    run("DELETE FROM lost_jobs WHERE ? BETWEEN first AND last", number(change.number));
    found_again(hit, change.number);
    for (const auto& numbers : hit) put(AddLostJobs{numbers});
  }
  std::vector<CatalogState::Lost> lost_jobs();
  void trim();
  void put_places(const JobRecord& job);
  void put_images(const EpochRecord& epoch);

  void load_jobs(CatalogState& state);
  void load_epochs(CatalogState& state);
  void load_site(CatalogState& state);

  template <class... Values>
  void run(const char* sql, const Values&... values) {
    SQLite::Statement statement(db, sql);
    int at = 0;
    (statement.bind(++at, values), ...);
    statement.exec();
  }
};

void Catalog::Impl::prepare() {
  if (const std::string mode = db.execAndGet("PRAGMA journal_mode = WAL").getString(); mode != "wal")
    throw std::runtime_error("the write-ahead log cannot be used here (journal_mode stays " + mode +
                             "): the state directory must be on a local file system");
  db.exec("PRAGMA synchronous = FULL");
  db.exec("PRAGMA foreign_keys = ON");
  db.exec("PRAGMA trusted_schema = OFF");
  guard::prepare(db);
}

Error Catalog::Impl::error(const char* step, const std::exception& cause) const {
  Error error{ErrorKind::permanent, step, path.string(), cause.what()};
  if (const auto* sqlite = dynamic_cast<const SQLite::Exception*>(&cause)) {
    const int code = sqlite->getErrorCode();
    if (code == SQLITE_FULL) error.kind = ErrorKind::storage_full;
    if (code == SQLITE_CORRUPT || code == SQLITE_NOTADB) error.kind = ErrorKind::damaged;
    if (code == SQLITE_BUSY) error.kind = ErrorKind::transient;
  }
  if (error.cause.starts_with("integrity check") || error.cause.starts_with("unreadable"))
    error.kind = ErrorKind::damaged;
  if (error.kind == ErrorKind::damaged) error.cause += "; " + std::string(kWayOut);
  return error;
}

// ---- writing

void Catalog::Impl::put(const PutJob& change) {
  const JobRecord& job = change.job;
  SQLite::Statement insert(
      db,
      "INSERT INTO jobs (id, name, spec, manifest, spool, state, reason, incarnation, restarts, exit_code, stopping, "
      "attempt, missing_outputs, restart, automatic_restarts, setbacks, anywhere)"
      " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (id) DO UPDATE SET name=excluded.name, "
      "spec=excluded.spec,"
      " manifest=excluded.manifest, spool=excluded.spool, state=excluded.state, reason=excluded.reason,"
      " incarnation=excluded.incarnation, restarts=excluded.restarts, exit_code=excluded.exit_code,"
      " stopping=excluded.stopping, attempt=excluded.attempt,"
      " missing_outputs=excluded.missing_outputs, restart=excluded.restart,"
      " automatic_restarts=excluded.automatic_restarts, setbacks=excluded.setbacks, anywhere=excluded.anywhere");
  int at = 0;
  insert.bind(++at, job.job.value);
  insert.bind(++at, job.spec.name);
  insert.bind(++at, spec_to_json(job.spec).dump());
  insert.bind(++at, job.manifest);
  insert.bind(++at, job.spool);
  insert.bind(++at, std::string(name(job.state)));
  insert.bind(++at, job.reason);
  insert.bind(++at, number(job.incarnation.value));
  insert.bind(++at, std::int64_t{job.restarts});
  if (++at; job.exit_code) insert.bind(at, *job.exit_code);
  insert.bind(++at, job.stopping ? 1 : 0);
  if (++at; job.attempt) insert.bind(at, number(job.attempt->value));
  insert.bind(++at, text_of(job.missing_outputs));
  if (++at; job.restart) insert.bind(at, text_of(terms_to_json(*job.restart)));
  insert.bind(++at, std::int64_t{job.automatic_restarts});
  insert.bind(++at, std::int64_t{job.setbacks});
  insert.bind(++at, job.anywhere ? 1 : 0);
  insert.exec();

  run("INSERT INTO incarnations (job, incarnation, vni, restored_from) VALUES (?,?,?,?)"
      " ON CONFLICT (job, incarnation) DO UPDATE SET vni=excluded.vni, restored_from=excluded.restored_from",
      job.job.value, number(job.incarnation.value), std::int64_t{job.vni}, number(job.restored_from.value));
  put_places(job);
}

// A gang may have a thousand places, and its job is written often: rows that are there as they should be stay.
void Catalog::Impl::put_places(const JobRecord& job) {
  Places places{job.incarnation, {}};
  for (const auto& place : job.placement) places.second.emplace_back(place.guest.value, place.host.value);
  const auto written = places_written.find(job.job);
  if (written != places_written.end() && written->second == places) return;
  run("DELETE FROM placements WHERE job = ? AND incarnation = ?", job.job.value, number(job.incarnation.value));
  SQLite::Statement insert(db, "INSERT INTO placements (job, incarnation, position, guest, host) VALUES (?,?,?,?,?)");
  for (std::size_t i = 0; i < places.second.size(); ++i) {
    insert.reset();
    insert.bind(1, job.job.value);
    insert.bind(2, number(job.incarnation.value));
    insert.bind(3, number(i));
    insert.bind(4, number(places.second[i].first));
    insert.bind(5, places.second[i].second);
    insert.exec();
  }
  places_written[job.job] = std::move(places);
}

void Catalog::Impl::put(const DropJob& change) {
  run("DELETE FROM jobs WHERE id = ?", change.job.value);
  places_written.erase(change.job);
}

void Catalog::Impl::put(const PutEpoch& change) {
  const EpochRecord& e = change.epoch;
  run("INSERT INTO epochs (epoch, job, incarnation, state, time, reason, output_offset, bytes_raw, bytes_stored, "
      "stall_ms,"
      " capture_ms, commit_ms, control, restored_from, verified) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
      " ON CONFLICT (epoch) DO UPDATE SET job=excluded.job, incarnation=excluded.incarnation, state=excluded.state,"
      " time=excluded.time, reason=excluded.reason, output_offset=excluded.output_offset, bytes_raw=excluded.bytes_raw,"
      " bytes_stored=excluded.bytes_stored, stall_ms=excluded.stall_ms, capture_ms=excluded.capture_ms,"
      " commit_ms=excluded.commit_ms, control=excluded.control, restored_from=excluded.restored_from, "
      "verified=excluded.verified",
      number(e.epoch.value), e.job.value, number(e.incarnation.value), std::string(name(e.state)), std::int64_t{e.time},
      e.reason, number(e.output_offset), number(e.bytes_raw), number(e.bytes_stored), e.stall_ms, e.capture_ms,
      e.commit_ms, e.control ? 1 : 0, number(e.restored_from.value), std::int64_t{e.verified});
  run("DELETE FROM phases WHERE epoch = ?", number(e.epoch.value));
  for (std::size_t i = 0; i < e.phases.phases.size(); ++i)
    run("INSERT INTO phases (epoch, position, name, ms) VALUES (?,?,?,?)", number(e.epoch.value), number(i),
        e.phases.phases[i].first, e.phases.phases[i].second);
  put_images(e);
}

void Catalog::Impl::put_images(const EpochRecord& e) {
  run("DELETE FROM guest_cuts WHERE epoch = ?", number(e.epoch.value));
  SQLite::Statement cut(db, "INSERT INTO guest_cuts (epoch, position, guest, cut) VALUES (?,?,?,?)");
  for (std::size_t i = 0; i < e.cut.size(); ++i) {
    const std::string bytes = e.cut[i].SerializeAsString();
    cut.reset();
    cut.bind(1, number(e.epoch.value));
    cut.bind(2, number(i));
    cut.bind(3, std::int64_t{e.cut[i].guest()});
    cut.bindNoCopy(4, bytes.data(), static_cast<int>(bytes.size()));
    cut.exec();
  }
  run("DELETE FROM images WHERE epoch = ?", number(e.epoch.value));
  SQLite::Statement image(
      db, "INSERT INTO images (epoch, position, guest, memory_path, disk_path, image) VALUES (?,?,?,?,?,?)");
  for (std::size_t i = 0; i < e.images.size(); ++i) {
    const std::string bytes = e.images[i].SerializeAsString();
    image.reset();
    image.bind(1, number(e.epoch.value));
    image.bind(2, number(i));
    image.bind(3, std::int64_t{e.images[i].guest()});
    image.bind(4, e.images[i].memory().path());
    image.bind(5, e.images[i].disk().path());
    image.bindNoCopy(6, bytes.data(), static_cast<int>(bytes.size()));
    image.exec();
  }
}

void Catalog::Impl::put(const PutHost& change) {
  run("INSERT INTO hosts (name, address, cordoned, failures, watched_seconds, lease_ms) VALUES (?,?,?,?,?,?)"
      " ON CONFLICT (name) DO UPDATE SET address=excluded.address, cordoned=excluded.cordoned,"
      " failures=excluded.failures, watched_seconds=excluded.watched_seconds, lease_ms=excluded.lease_ms",
      change.host.host.value, change.host.address, change.host.cordoned ? 1 : 0, std::int64_t{change.host.failures},
      number(change.host.watched_seconds), std::int64_t{change.host.lease.count()});
}

void Catalog::Impl::put(const PutCounters& change) {
  const char* sql =
      "INSERT INTO counters (name, value) VALUES (?,?) ON CONFLICT (name) DO UPDATE SET value=excluded.value";
  run(sql, "next_job", number(change.next_job));
  run(sql, "next_epoch", number(change.next_epoch.value));
  run(sql, "next_vni", std::int64_t{change.next_vni});
}

void Catalog::Impl::put(const AddEvent& change) {
  const EventRecord& e = change.event;
  run("INSERT INTO events (id, time, job, host, epoch, what, detail, incarnation, job_state, epoch_state)"
      " VALUES (NULLIF(?, 0),?,?,?,?,?,?,?,?,?)",
      number(e.id), std::int64_t{e.time}, e.job.value, e.host.value, number(e.epoch.value), e.what, e.detail,
      number(e.incarnation.value), e.job_state ? std::string(name(*e.job_state)) : "",
      e.epoch_state ? std::string(name(*e.epoch_state)) : "");
  if (++added >= kTrimAfter) trim();
}

void Catalog::Impl::trim() {
  run("DELETE FROM events WHERE id <= (SELECT id FROM events ORDER BY id DESC LIMIT 1 OFFSET ?)", kKeptEvents);
  std::vector<std::string> long_ones;
  SQLite::Statement counts(db, "SELECT job FROM events GROUP BY job HAVING count(*) > ?");
  counts.bind(1, kKeptOfOne);
  while (counts.executeStep()) long_ones.push_back(counts.getColumn(0).getString());
  for (const std::string& job : long_ones)
    run("DELETE FROM events WHERE job = ?1"
        " AND id <= (SELECT id FROM events WHERE job = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
        job, kKeptOfOne);
  added = 0;
}

// ---- reading

std::vector<CatalogState::Lost> Catalog::Impl::lost_jobs() {
  std::vector<CatalogState::Lost> lost;
  SQLite::Statement rows(db, "SELECT first, last FROM lost_jobs ORDER BY first");
  while (rows.executeStep()) lost.push_back({number(rows.getColumn(0)), number(rows.getColumn(1))});
  return lost;
}

void Catalog::Impl::load_site(CatalogState& state) {
  SQLite::Statement site(db, "SELECT coordinator FROM site");
  if (!site.executeStep()) throw std::runtime_error("integrity check: the site's row is gone");
  state.coordinator = site.getColumn(0).getString();
  state.lost_jobs = lost_jobs();
  SQLite::Statement counters(db, "SELECT name, value FROM counters");
  while (counters.executeStep()) {
    const std::string key = counters.getColumn(0).getString();
    const auto value = number(counters.getColumn(1));
    if (key == "next_job") state.next_job = value;
    else if (key == "next_epoch") state.next_epoch = Epoch{value};
    else if (key == "next_vni") state.next_vni = static_cast<std::uint32_t>(value);
  }
  SQLite::Statement hosts(db, "SELECT name, address, cordoned, failures, watched_seconds, lease_ms FROM hosts");
  while (hosts.executeStep()) {
    HostRecord host{HostName{hosts.getColumn(0).getString()},
                    hosts.getColumn(1).getString(),
                    hosts.getColumn(2).getInt() != 0,
                    static_cast<std::uint32_t>(number(hosts.getColumn(3))),
                    number(hosts.getColumn(4)),
                    std::chrono::milliseconds(number(hosts.getColumn(5)))};
    state.hosts.emplace(host.host, host);
  }
}

void Catalog::Impl::load_jobs(CatalogState& state) {
  SQLite::Statement rows(
      db,
      "SELECT j.id, j.spec, j.manifest, j.spool, j.state, j.reason, j.incarnation, i.vni, i.restored_from, j.restarts,"
      " j.exit_code, j.stopping, j.attempt, j.missing_outputs, j.restart, j.automatic_restarts, j.setbacks, j.anywhere "
      "FROM jobs j "
      "JOIN incarnations i ON i.job = "
      "j.id AND i.incarnation = "
      "j.incarnation");
  while (rows.executeStep()) {
    JobRecord job;
    job.job = JobId{rows.getColumn(0).getString()};
    auto spec = spec_from_json(nlohmann::json::parse(rows.getColumn(1).getString()));
    if (!spec) throw std::runtime_error("unreadable spec of " + job.job.value + ": " + spec.error().cause);
    job.spec = std::move(*spec);
    job.manifest = rows.getColumn(2).getString();
    job.spool = rows.getColumn(3).getString();
    const std::string text = rows.getColumn(4).getString();
    job.state = known(job_state(text), text);
    job.reason = rows.getColumn(5).getString();
    job.incarnation = Incarnation{number(rows.getColumn(6))};
    job.vni = small(rows.getColumn(7));
    job.restored_from = Epoch{number(rows.getColumn(8))};
    job.restarts = small(rows.getColumn(9));
    if (!rows.getColumn(10).isNull()) job.exit_code = rows.getColumn(10).getInt();
    job.stopping = rows.getColumn(11).getInt() != 0;
    if (!rows.getColumn(12).isNull()) job.attempt = Epoch{number(rows.getColumn(12))};
    job.missing_outputs = nlohmann::json::parse(rows.getColumn(13).getString()).get<std::vector<std::string>>();
    if (!rows.getColumn(14).isNull())
      job.restart = terms_from_json(nlohmann::json::parse(rows.getColumn(14).getString()));
    job.automatic_restarts = small(rows.getColumn(15));
    job.setbacks = small(rows.getColumn(16));
    job.anywhere = rows.getColumn(17).getInt() != 0;
    state.jobs.emplace(job.job, std::move(job));
  }
  SQLite::Statement places(
      db,
      "SELECT p.job, p.guest, p.host FROM placements p JOIN jobs j ON j.id = p.job AND j.incarnation = p.incarnation"
      " ORDER BY p.job, p.position");
  while (places.executeStep())
    state.jobs.at(JobId{places.getColumn(0).getString()})
        .placement.push_back({GuestIndex{number(places.getColumn(1))}, HostName{places.getColumn(2).getString()}});
}

void Catalog::Impl::load_epochs(CatalogState& state) {
  SQLite::Statement rows(db,
                         "SELECT epoch, job, incarnation, state, time, reason, output_offset, bytes_raw, bytes_stored, "
                         "stall_ms, capture_ms,"
                         " commit_ms, control, restored_from, verified FROM epochs");
  while (rows.executeStep()) {
    EpochRecord e;
    e.epoch = Epoch{number(rows.getColumn(0))};
    e.job = JobId{rows.getColumn(1).getString()};
    e.incarnation = Incarnation{number(rows.getColumn(2))};
    const std::string text = rows.getColumn(3).getString();
    e.state = known(epoch_state(text), text);
    e.time = rows.getColumn(4).getInt64();
    e.reason = rows.getColumn(5).getString();
    e.output_offset = number(rows.getColumn(6));
    e.bytes_raw = number(rows.getColumn(7));
    e.bytes_stored = number(rows.getColumn(8));
    e.stall_ms = rows.getColumn(9).getDouble();
    e.capture_ms = rows.getColumn(10).getDouble();
    e.commit_ms = rows.getColumn(11).getDouble();
    e.control = rows.getColumn(12).getInt() != 0;
    e.restored_from = Epoch{number(rows.getColumn(13))};
    e.verified = rows.getColumn(14).getInt64();
    state.epochs.emplace(e.epoch, std::move(e));
  }
  SQLite::Statement phases(db, "SELECT epoch, name, ms FROM phases ORDER BY epoch, position");
  while (phases.executeStep())
    state.epochs.at(Epoch{number(phases.getColumn(0))})
        .phases.phases.emplace_back(phases.getColumn(1).getString(), phases.getColumn(2).getDouble());
  SQLite::Statement cuts(db, "SELECT epoch, cut FROM guest_cuts ORDER BY epoch, position");
  while (cuts.executeStep())
    state.epochs.at(Epoch{number(cuts.getColumn(0))}).cut.push_back(parse<wire::GuestCut>(cuts.getColumn(1), "cut"));
  SQLite::Statement images(db, "SELECT epoch, image FROM images ORDER BY epoch, position");
  while (images.executeStep())
    state.epochs.at(Epoch{number(images.getColumn(0))})
        .images.push_back(parse<wire::GuestImage>(images.getColumn(1), "image record"));
}

// ---- the interface

Catalog::Catalog(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Catalog::Catalog(Catalog&&) noexcept = default;
Catalog& Catalog::operator=(Catalog&&) noexcept = default;
Catalog::~Catalog() = default;

namespace {

bool is_empty_file(const std::filesystem::path& path) {
  std::error_code failed;
  const auto size = std::filesystem::file_size(path, failed);
  return failed || size == 0;
}

// Of a catalog that is to be made: the one that the hosts know, if there was one before.
Result<std::string> identity_for(const std::filesystem::path& path, Catalog::Missing missing) {
  auto known = read_identity(path.parent_path());
  if (!known) return known.error();
  if (*known && missing == Catalog::Missing::is_first_start && is_empty_file(path))
    return Error{ErrorKind::damaged, "opening", path.string(),
                 "the catalog is gone, and this is no first start (coordinator-id is there); " + std::string(kWayOut)};
  if (*known) return std::move(**known);
  return random_id();
}

}  // namespace

Result<Catalog> Catalog::open(const std::filesystem::path& path, Missing missing) {
  const auto identity = identity_for(path, missing);
  if (!identity) return identity.error();
  // Made here and not by SQLite: nobody else may read job environments out of it, whatever the umask. SQLite gives its
  // log the same mode.
  Fd made(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!made) return errno_error("opening", path.string(), errno);
  if (::fchmod(made.get(), 0600) != 0) return errno_error("opening", path.string(), errno);
  made.reset();  // before SQLite opens it: closing any descriptor of a file drops the process's locks on it
  std::unique_ptr<Impl> impl;
  std::string kept;
  try {
    impl = std::make_unique<Impl>(path);
    impl->prepare();
    guard::check(impl->db);
    migrate(impl->db);
    guard::keep_sealed(impl->db);
    SQLite::Transaction transaction(impl->db, SQLite::TransactionBehavior::IMMEDIATE);
    impl->run("INSERT OR IGNORE INTO site (id, coordinator) VALUES (1, ?)", *identity);
    impl->trim();
    transaction.commit();
    kept = impl->db.execAndGet("SELECT coordinator FROM site").getString();
  } catch (const std::exception& cause) {
    if (impl) return impl->error("opening", cause);
    return Error{ErrorKind::damaged, "opening", path.string(), std::string(cause.what()) + "; " + kWayOut};
  }
  if (missing == Missing::is_first_start)
    if (auto noted = keep_identity(path.parent_path(), kept); !noted) return noted.error();
  return Catalog(std::move(impl));
}

Result<CatalogState> Catalog::load() {
  try {
    CatalogState state;
    SQLite::Transaction transaction(impl_->db);  // one snapshot
    impl_->load_site(state);
    impl_->load_jobs(state);
    impl_->load_epochs(state);
    // What is read later only must be readable, too.
    SQLite::Statement(impl_->db,
                      "SELECT time, job, host, epoch, what, detail, incarnation, job_state, epoch_state, id"
                      " FROM events ORDER BY id LIMIT 1")
        .executeStep();
    const auto problem = nonsense_in(state);
    const auto jobs = impl_->db.execAndGet("SELECT count(*) FROM jobs").getInt64();
    if (jobs != static_cast<std::int64_t>(state.jobs.size()))
      throw std::runtime_error("integrity check: a job without its incarnation");
    if (problem) throw std::runtime_error("integrity check: " + *problem);
    return state;
  } catch (const SQLite::Exception& cause) {
    Error error = impl_->error("loading", cause);
    if (cause.getErrorCode() != SQLITE_ERROR) return error;
    error.kind = ErrorKind::damaged;  // of the schema: a table or column goes by another name
    error.cause += "; " + std::string(kWayOut);
    return error;
  } catch (const std::exception& cause) {  // a record that cannot be read
    return impl_->error("loading", std::runtime_error("unreadable record: " + std::string(cause.what())));
  }
}

Status Catalog::apply(const std::vector<CatalogChange>& changes) {
  try {
    SQLite::Transaction transaction(impl_->db, SQLite::TransactionBehavior::IMMEDIATE);
    for (const auto& change : changes) std::visit([this](const auto& one) { impl_->put(one); }, change);
    transaction.commit();
    return {};
  } catch (const std::exception& cause) {
    impl_->places_written.clear();  // the transaction is rolled back
    return impl_->error("write", cause);
  }
}

Result<std::vector<EventRecord>> Catalog::events(const EventsWanted& wanted) {
  try {
    const std::string which = std::string("id > ?1") + (wanted.job.empty() ? "" : " AND job = ?2") +
                              (wanted.host.empty() ? "" : " AND host = ?3 AND host <> ''");
    SQLite::Statement rows(impl_->db,
                           "SELECT * FROM (SELECT time, job, host, epoch, what, detail, incarnation, job_state,"
                           " epoch_state, id FROM events WHERE " +
                               which + " ORDER BY id " + (wanted.newest ? "DESC" : "ASC") + " LIMIT ?4) ORDER BY id");
    rows.bind(1, number(wanted.after));
    if (!wanted.job.empty()) rows.bind(2, wanted.job.value);
    if (!wanted.host.empty()) rows.bind(3, wanted.host.value);
    rows.bind(4, number(wanted.limit));
    std::vector<EventRecord> events;
    while (rows.executeStep()) events.push_back(event_in(rows));
    return events;
  } catch (const std::exception& cause) {
    return impl_->error("reading of events", cause);
  }
}

Result<std::uint64_t> Catalog::newest_event() {
  try {
    SQLite::Statement newest(impl_->db, "SELECT seq FROM sqlite_sequence WHERE name = 'events'");
    return newest.executeStep() ? number(newest.getColumn(0)) : std::uint64_t{0};
  } catch (const std::exception& cause) {
    return impl_->error("reading of events", cause);
  }
}

}  // namespace stillpoint::coordinator
