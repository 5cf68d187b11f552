#include "bench/catalog/filled_catalog.h"

#include <fmt/format.h>

#include "coordinator/catalog/catalog.h"

namespace stillpoint::bench {
namespace {

using namespace coordinator;

constexpr std::size_t kDescriptionBytes = 4'300;  // of libvirt's XML of a machine of the laboratory
constexpr std::uint32_t kRanksPerGuest = 2;
constexpr WallSeconds kBegin = 1'700'000'000;

HostName host_of(std::uint32_t guest) { return {fmt::format("h{}", guest + 1)}; }

JobRecord job_record(std::uint32_t number) {
  JobRecord job;
  job.job = JobId{fmt::format("j{}", number)};
  job.spec.name = fmt::format("melt-{}", number);
  job.spec.guests = 2 + number % 7;
  job.spec.memory_bytes = 1u << 30;
  job.spec.disk_bytes = 4ull << 30;
  job.spec.ranks_per_guest.assign(job.spec.guests, kRanksPerGuest);
  job.spec.command = {"lmp", "-in", "in.melt"};
  job.manifest = std::string(330, '#');
  job.spool = fmt::format("spool-{}", number);
  job.state = JobState::running;
  job.incarnation = Incarnation{1};
  job.vni = number;
  for (std::uint32_t guest = 0; guest < job.spec.guests; ++guest)
    job.placement.push_back({GuestIndex{guest}, host_of(guest)});
  return job;
}

wire::GuestCut cut_of(std::uint32_t guest, std::uint32_t guests) {
  wire::GuestCut cut;
  cut.set_guest(guest);
  cut.set_output_offset(guest == 0 ? 1'234'567 : 0);
  for (std::uint32_t other = 0; other < guests; ++other) {
    if (other == guest) continue;
    auto& socket = *cut.add_sockets();
    socket.set_local_ip(0x0a630001 + guest);
    socket.set_local_port(1024 + other);
    socket.set_remote_ip(0x0a630001 + other);
    socket.set_remote_port(1024 + guest);
    socket.set_state(1);
    socket.set_bytes_acked(123'456'789);
    socket.set_bytes_received(123'456'789);
    socket.set_inode(20'000 + other);
  }
  for (std::uint32_t rank = 0; rank < kRanksPerGuest; ++rank) {
    auto& report = *cut.add_ranks();
    report.set_rank(guest * kRanksPerGuest + rank);
    report.set_guest(guest);
    report.set_state(wire::RankReport::GATED);
    report.set_call("MPI_Allreduce");
  }
  return cut;
}

wire::GuestImage image_of(const JobRecord& job, Epoch epoch, std::uint32_t guest) {
  wire::GuestImage image;
  image.set_guest(guest);
  const std::string name = fmt::format("{}/{}/e{}/guest-{}", host_of(guest).value, job.job.value, epoch.value, guest);
  for (auto* file : {image.mutable_memory(), image.mutable_disk()}) {
    file->set_path(name + (file == &image.memory() ? ".ram" : ".disk"));
    file->set_raw_bytes(150'000'000);
    file->set_stored_bytes(1'000'000);
    file->set_sha256(std::string(32, static_cast<char>(epoch.value)));
    file->add_copies(host_of(guest + 1).value);
  }
  image.set_base_sha256(std::string(32, 'b'));
  image.set_domain_xml(std::string(kDescriptionBytes, 'x'));
  return image;
}

EpochRecord epoch_record(const JobRecord& job, Epoch number) {
  EpochRecord epoch;
  epoch.epoch = number;
  epoch.job = job.job;
  epoch.incarnation = job.incarnation;
  epoch.state = EpochState::committed;
  epoch.time = kBegin + static_cast<WallSeconds>(number.value) * 30;
  for (std::uint32_t guest = 0; guest < job.spec.guests; ++guest) {
    epoch.cut.push_back(cut_of(guest, job.spec.guests));
    epoch.images.push_back(image_of(job, number, guest));
  }
  epoch.output_offset = 1'234'567;
  epoch.bytes_raw = job.spec.guests * 300'000'000ull;
  epoch.bytes_stored = job.spec.guests * 2'000'000ull;
  epoch.stall_ms = 120.5;
  epoch.capture_ms = 60.25;
  epoch.commit_ms = 2500;
  for (const char* phase : {"examine", "prepare", "close", "drain", "freeze", "capture", "release", "upload"})
    epoch.phases.phases.emplace_back(phase, 12.5);
  return epoch;
}

AddEvent line(const JobRecord& job, const EpochRecord& epoch, const char* what) {
  EventRecord event{epoch.time, job.job, {}, epoch.epoch, what, "8 of 8 guests, 120.5 ms"};
  event.incarnation = job.incarnation;
  event.job_state = job.state;
  event.epoch_state = epoch.state;
  return {event};
}

}  // namespace

Status fill_catalog(const std::filesystem::path& path, const Filling& filling) {
  auto catalog = Catalog::open(path);
  if (!catalog) return catalog.error();
  std::vector<JobRecord> jobs;
  std::vector<CatalogChange> changes{PutCounters{filling.jobs + 1, Epoch{filling.epochs + 1}, filling.jobs + 1}};
  for (std::uint32_t guest = 0; guest < 9; ++guest) changes.emplace_back(PutHost{{host_of(guest), "192.0.2.1"}});
  for (std::uint32_t number = 1; number <= filling.jobs; ++number)
    changes.emplace_back(PutJob{jobs.emplace_back(job_record(number))});
  const std::uint64_t first_kept = filling.epochs - std::min(filling.epochs, filling.jobs * filling.kept) + 1;
  for (std::uint64_t number = 1; number <= filling.epochs; ++number) {
    const JobRecord& job = jobs[number % jobs.size()];
    EpochRecord epoch = epoch_record(job, Epoch{number});
    changes.emplace_back(line(job, epoch, "checkpoint begun"));
    changes.emplace_back(line(job, epoch, "epoch committed"));
    if (number < first_kept) {
      set_pruned(epoch);
      changes.emplace_back(line(job, epoch, "epoch pruned"));
    }
    changes.emplace_back(PutEpoch{std::move(epoch)});
    if (number % 100 != 0 && number != filling.epochs) continue;
    if (auto applied = catalog->apply(std::exchange(changes, {})); !applied) return applied;
  }
  return {};
}

}  // namespace stillpoint::bench
