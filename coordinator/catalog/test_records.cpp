#include "coordinator/catalog/test_records.h"

namespace stillpoint::coordinator::testing {

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

namespace {

template <class Message>
std::string bytes(const std::vector<Message>& messages) {
  std::string all;
  for (const auto& m : messages) all += m.SerializeAsString() + "|";
  return all;
}

}  // namespace

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
  CHECK(a.anywhere == b.anywhere);
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

Catalog must_open(const std::filesystem::path& path) {
  auto opened = Catalog::open(path);
  REQUIRE(opened.has_value());
  return std::move(*opened);
}

CatalogState must_load(Catalog& catalog) {
  auto loaded = catalog.load();
  REQUIRE(loaded.has_value());
  return std::move(*loaded);
}

void check_equal(const CatalogState& a, const CatalogState& b) {
  CHECK(a.coordinator == b.coordinator);
  CHECK(a.next_job == b.next_job);
  CHECK(a.next_epoch == b.next_epoch);
  CHECK(a.next_vni == b.next_vni);
  CHECK(a.lost_jobs.size() == b.lost_jobs.size());
  REQUIRE(a.jobs.size() == b.jobs.size());
  for (const auto& [id, job] : a.jobs) {
    REQUIRE(b.jobs.contains(id));
    check_equal(job, b.jobs.at(id));
  }
  REQUIRE(a.epochs.size() == b.epochs.size());
  for (const auto& [number, epoch] : a.epochs) {
    REQUIRE(b.epochs.contains(number));
    check_equal(epoch, b.epochs.at(number));
  }
  REQUIRE(a.hosts.size() == b.hosts.size());
  for (const auto& [name, host] : a.hosts) {
    REQUIRE(b.hosts.contains(name));
    CHECK(host.address == b.hosts.at(name).address);
    CHECK(host.cordoned == b.hosts.at(name).cordoned);
    CHECK(host.lease == b.hosts.at(name).lease);
  }
}

void make_rich_catalog(const std::filesystem::path& path) {
  auto catalog = must_open(path);
  std::uint64_t next = 1;
  for (const char* id : {"j1", "j2", "j3"}) {
    std::vector<CatalogChange> changes{PutJob{rich_job(id)}};
    for (int i = 0; i < 4; ++i, ++next) {
      changes.emplace_back(PutEpoch{rich_epoch(next, id)});
      changes.emplace_back(AddEvent{{1'700'000'000, JobId{id}, HostName{"h1"}, Epoch{next}, "epoch committed", "so"}});
    }
    changes.emplace_back(PutCounters{4, Epoch{next}, 78});
    REQUIRE(catalog.apply(changes).has_value());
  }
  REQUIRE(catalog
              .apply({DropJob{JobId{"j2"}},
                      PutHost{{HostName{"h1"}, "192.0.2.1", true, 2, 60, std::chrono::milliseconds(10'000)}},
                      PutHost{{HostName{"h2"}, "192.0.2.2", false}}, AddLostJobs{{7, 9}}})
              .has_value());
}

}  // namespace stillpoint::coordinator::testing
