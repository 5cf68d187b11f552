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
#include "coordinator/catalog/spec_json.h"

using namespace stillpoint;
using namespace stillpoint::coordinator;
namespace fs = std::filesystem;

namespace {

struct Directory {
  fs::path path;
  Directory() {
    std::string name = (fs::temp_directory_path() / "stillpoint-catalog-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~Directory() { fs::remove_all(path); }
  fs::path file() const { return path / "catalog.db"; }
};

JobRecord rich_job(const std::string& id) {
  JobRecord job;
  job.job = JobId{id};
  job.spec.name = "melt";
  job.spec.guests = 2;
  job.spec.memory_bytes = 512ull << 20;
  job.spec.disk_bytes = 4ull << 30;
  job.spec.ranks_per_guest = {2, 3};
  job.spec.command = {"lmp", "-in", "päth with \"quotes\"\n", ""};
  job.spec.env = {{"OMP_NUM_THREADS", "1"}, {"EMPTY", ""}};
  job.spec.files = {"in.melt", "dir/data"};
  job.spec.outputs = {"log.lammps"};
  job.spec.interval_seconds = 600;
  job.spec.keep = 7;
  job.spec.durability = "local";
  job.spec.later_durability = "site";
  job.spec.while_uploading = "refuse";
  job.spec.restart_on_failure = false;
  job.spec.max_restarts = 1;
  job.spec.hosts = {HostName{"h2"}, HostName{"h1"}};
  job.spec.spread = false;
  job.spec.submit_directory = "/home/somebody";
  job.manifest = std::string("metadata:\n  name: melt\0x", 24);
  job.spool = "abc";
  job.state = JobState::checkpointing;
  job.reason = "because";
  job.incarnation = Incarnation{3};
  job.vni = 77;
  job.placement = {{GuestIndex{1}, HostName{"h2"}}, {GuestIndex{0}, HostName{"h1"}}};
  job.restored_from = Epoch{4};
  job.restarts = 2;
  job.exit_code = -3;
  job.stopping = true;
  job.attempt = Epoch{9};
  job.missing_outputs = {"log.lammps: it was not \"there\"", "ü"};
  job.restart = RestartTerms{true, {HostName{"h2"}, HostName{"h3"}}, true, true, HostName{"h1"}};
  job.automatic_restarts = 4;
  job.setbacks = 2;
  return job;
}

EpochRecord rich_epoch(std::uint64_t number, const std::string& job) {
  EpochRecord e;
  e.epoch = Epoch{number};
  e.job = JobId{job};
  e.incarnation = Incarnation{2};
  e.state = EpochState::committed;
  e.time = 1'700'000'000;
  e.reason = "none";
  for (std::uint32_t g : {1u, 0u}) {
    wire::GuestCut cut;
    cut.set_guest(g);
    cut.set_output_offset(1234);
    auto* socket = cut.add_sockets();
    socket->set_local_ip(0x0a630001);
    socket->set_bytes_acked(~0ull);
    cut.add_ranks()->set_call("MPI_Allreduce");
    e.cut.push_back(cut);
    wire::GuestImage image;
    image.set_guest(g);
    image.mutable_memory()->set_path("h1/j1/e2/guest-0.ram");
    image.mutable_memory()->set_sha256(std::string("\0\x01\xff", 3));
    image.mutable_disk()->set_stored_bytes(99);
    image.set_domain_xml("<domain/>");
    e.images.push_back(image);
  }
  e.output_offset = ~0ull;
  e.bytes_raw = 1ull << 40;
  e.bytes_stored = 12345;
  e.stall_ms = 0.1 + 0.2;
  e.capture_ms = 1.0 / 3;
  e.commit_ms = 1e9;
  e.phases.phases = {{"close", 1.5}, {"drain", 2.25}, {"close", 0.1}};
  e.control = true;
  e.restored_from = Epoch{6};
  e.verified = 1'700'000'500;
  return e;
}

template <class Message>
std::string bytes(const std::vector<Message>& messages) {
  std::string all;
  for (const auto& m : messages) all += m.SerializeAsString() + "|";
  return all;
}

void check_equal(const JobRecord& a, const JobRecord& b) {
  CHECK(a.job == b.job);
  CHECK(spec_to_json(a.spec) == spec_to_json(b.spec));
  CHECK(a.manifest == b.manifest);
  CHECK(a.spool == b.spool);
  CHECK(a.state == b.state);
  CHECK(a.reason == b.reason);
  CHECK(a.incarnation == b.incarnation);
  CHECK(a.vni == b.vni);
  CHECK(a.missing_outputs == b.missing_outputs);
  CHECK(a.restart == b.restart);
  REQUIRE(a.placement.size() == b.placement.size());
  for (std::size_t i = 0; i < a.placement.size(); ++i) {
    CHECK(a.placement[i].guest == b.placement[i].guest);
    CHECK(a.placement[i].host == b.placement[i].host);
  }
  CHECK(a.restored_from == b.restored_from);
  CHECK(a.restarts == b.restarts);
  CHECK(a.automatic_restarts == b.automatic_restarts);
  CHECK(a.setbacks == b.setbacks);
  CHECK(a.exit_code == b.exit_code);
  CHECK(a.stopping == b.stopping);
  CHECK(a.attempt == b.attempt);
}

void check_equal(const EpochRecord& a, const EpochRecord& b) {
  CHECK(a.restored_from == b.restored_from);
  CHECK(a.epoch == b.epoch);
  CHECK(a.job == b.job);
  CHECK(a.incarnation == b.incarnation);
  CHECK(a.state == b.state);
  CHECK(a.time == b.time);
  CHECK(a.reason == b.reason);
  CHECK(bytes(a.cut) == bytes(b.cut));
  CHECK(bytes(a.images) == bytes(b.images));
  CHECK(a.output_offset == b.output_offset);
  CHECK(a.bytes_raw == b.bytes_raw);
  CHECK(a.bytes_stored == b.bytes_stored);
  CHECK(a.stall_ms == b.stall_ms);
  CHECK(a.capture_ms == b.capture_ms);
  CHECK(a.commit_ms == b.commit_ms);
  CHECK(a.phases.phases == b.phases.phases);
  CHECK(a.control == b.control);
  CHECK(a.verified == b.verified);
}

Catalog must_open(const fs::path& path) {
  auto opened = Catalog::open(path);
  REQUIRE(opened.has_value());
  return std::move(*opened);
}

CatalogState must_load(Catalog& catalog) {
  auto loaded = catalog.load();
  REQUIRE(loaded.has_value());
  return std::move(*loaded);
}

}  // namespace

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
  const auto job = rich_job("j1");
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
                        PutCounters{3, Epoch{10}, 78}})
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
}

TEST_CASE("writing a record again replaces it whole") {
  Directory dir;
  auto catalog = must_open(dir.file());
  auto job = rich_job("j1");
  auto epoch = rich_epoch(9, "j1");
  REQUIRE(catalog.apply({PutJob{job}, PutEpoch{epoch}}).has_value());
  REQUIRE(catalog.apply({PutJob{job}, PutEpoch{epoch}}).has_value());
  job.incarnation = Incarnation{4};
  job.placement.pop_back();
  job.exit_code.reset();
  job.attempt.reset();
  job.missing_outputs.clear();
  job.restart.reset();
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
  REQUIRE(
      catalog
          .apply({PutJob{rich_job("j1")}, PutEpoch{rich_epoch(9, "j1")}, PutJob{rich_job("j2")},
                  PutEpoch{rich_epoch(10, "j2")}, AddEvent{{1, JobId{"j1"}, HostName{}, Epoch{}, "job submitted", ""}}})
          .has_value());
  REQUIRE(catalog.apply({DropJob{JobId{"j1"}}}).has_value());
  REQUIRE(catalog.apply({DropJob{JobId{"j1"}}}).has_value());
  const auto state = must_load(catalog);
  CHECK(state.jobs.size() == 1);
  CHECK(state.epochs.size() == 1);
  CHECK(state.epochs.contains(Epoch{10}));
  auto events = catalog.events(JobId{"j1"});
  REQUIRE(events.has_value());
  CHECK(events->size() == 1);
}

TEST_CASE("events come oldest first, the newest of them when there are many") {
  Directory dir;
  auto catalog = must_open(dir.file());
  for (int i = 0; i < 20; ++i)
    REQUIRE(catalog.apply({AddEvent{{i, JobId{i % 2 == 0 ? "j1" : "j2"}, HostName{"h1"}, Epoch{5}, "what", "detail"}}})
                .has_value());
  auto events = catalog.events(JobId{"j1"}, 3);
  REQUIRE(events.has_value());
  REQUIRE(events->size() == 3);
  CHECK(events->front().time == 14);
  CHECK(events->back().time == 18);
  CHECK(events->back().host == HostName{"h1"});
  CHECK(events->back().epoch == Epoch{5});
  auto all = catalog.events(JobId{});
  REQUIRE(all.has_value());
  CHECK(all->size() == 20);
}

TEST_CASE("history is bounded while the coordinator runs, not only when it starts") {
  Directory dir;
  auto catalog = must_open(dir.file());
  std::vector<CatalogChange> many;
  for (int i = 0; i < 5'000; ++i) many.push_back(AddEvent{{i, JobId{"j1"}, HostName{}, Epoch{}, "what", ""}});
  for (int round = 0; round < 22; ++round) REQUIRE(catalog.apply(many).has_value());
  SQLite::Database db(dir.file().string());
  CHECK(db.execAndGet("SELECT count(*) FROM events").getInt() == 100'000);
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

TEST_CASE("each migration can be made from each version before it") {
  for (const auto& from : migrations()) {
    Directory dir;
    std::ofstream(dir.file()).close();
    {
      SQLite::Database db(dir.file().string(), SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE);
      migrate(db, from.version);
      CHECK(db.execAndGet("SELECT max(version) FROM schema").getInt() == from.version);
    }
    auto catalog = must_open(dir.file());
    CHECK(must_load(catalog).coordinator.size() == 32);
    SQLite::Database db(dir.file().string());
    CHECK(db.execAndGet("SELECT max(version) FROM schema").getInt() == migrations().back().version);
  }
}

TEST_CASE("what version 1 kept is there in the newest, and epochs learn what they came by") {
  Directory dir;
  {
    SQLite::Database db(dir.file().string(), SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE);
    migrate(db, 1);
    db.exec("INSERT INTO jobs VALUES ('j1','melt','" + spec_to_json(rich_job("j1").spec).dump() +
            "','','','running','',2,1,NULL,0,NULL);"
            "INSERT INTO incarnations VALUES ('j1',1,5,0), ('j1',2,6,3);"
            "INSERT INTO epochs VALUES (3,'j1',1,'committed',0,'',0,0,0,0,0,0,0), "
            "(4,'j1',2,'committed',0,'',0,0,0,0,0,0,0);");
  }
  auto catalog = must_open(dir.file());
  const auto state = must_load(catalog);
  CHECK(state.jobs.at(JobId{"j1"}).missing_outputs.empty());
  CHECK_FALSE(state.jobs.at(JobId{"j1"}).restart.has_value());
  CHECK(state.epochs.at(Epoch{3}).restored_from == Epoch{0});
  CHECK(state.epochs.at(Epoch{4}).restored_from == Epoch{3});
  CHECK(state.epochs.at(Epoch{4}).verified == 0);
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
