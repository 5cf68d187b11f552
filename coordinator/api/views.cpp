#include "coordinator/api/views.h"

#include <algorithm>
#include <ctime>
#include <nlohmann/json.hpp>

#include "coordinator/core/copies.h"

namespace stillpoint::coordinator {
namespace {

using nlohmann::json;

std::string iso_time(WallSeconds seconds) {
  const auto when = static_cast<std::time_t>(seconds);
  std::tm parts{};
  char text[32] = "";
  if (::gmtime_r(&when, &parts) != nullptr) std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

const char* rank_state(wire::RankReport::State state) {
  switch (state) {
    case wire::RankReport::STARTING: return "starting";
    case wire::RankReport::COMPUTING: return "computing";
    case wire::RankReport::IN_CALL: return "in-call";
    case wire::RankReport::GATED: return "gated";
    case wire::RankReport::FINALIZED: return "finalized";
    case wire::RankReport::FAILED: return "failed";
    case wire::RankReport::DEFERRING: return "deferring";
    case wire::RankReport::STOPPED: return "stopped";
    default: return "unknown";
  }
}

constexpr std::uint64_t kPageBytes = 4096;  // of StoreFigures

json ratio(std::uint64_t of, std::uint64_t to) {
  return of == 0 || to == 0 ? json(nullptr) : json(static_cast<double>(of) / static_cast<double>(to));
}

json numbers(const std::vector<Epoch>& epochs) {
  json list = json::array();
  for (const auto epoch : epochs) list.push_back(epoch.value);
  return list;
}

const char* check_state(EpochCheck::State state) {
  switch (state) {
    case EpochCheck::State::ok: return "ok";
    case EpochCheck::State::damaged: return "damaged";
    case EpochCheck::State::unchecked: return "unchecked";
  }
  return "unknown";
}

const char* host_state(HostView::State state) {
  switch (state) {
    case HostView::State::up: return "up";
    case HostView::State::silent: return "silent";
    case HostView::State::lost: return "lost";
    case HostView::State::cordoned: return "cordoned";
  }
  return "unknown";
}

// In which call, since when, on which communicator with how many processes, and what of it has not arrived.
json doing_json(const wire::RankReport& report) {
  return {{"call", report.call()},   {"sinceMs", report.since_ms()},
          {"calls", report.calls()}, {"communicator", report.communicator()},
          {"peers", report.peers()}, {"bytesInFlight", report.in_flight()}};
}

// Every rank of the spec, whether or not anything was heard of it.
json ranks_json(const JobRecord& job, const std::vector<wire::RankReport>& reports) {
  std::map<std::uint64_t, std::string> host_of;
  for (const auto& place : job.placement) host_of[place.guest.value] = place.host.value;
  json ranks = json::array();
  std::uint32_t rank = 0;
  for (std::uint32_t guest = 0; guest < job.spec.ranks_per_guest.size(); ++guest)
    for (std::uint32_t i = 0; i < job.spec.ranks_per_guest[guest]; ++i, ++rank) {
      const auto host = host_of.find(guest);
      ranks.push_back({{"rank", rank},
                       {"guest", guest},
                       {"host", host == host_of.end() ? json(nullptr) : json(host->second)},
                       {"state", "unknown"}});
    }
  for (const auto& report : reports) {
    if (report.rank() >= ranks.size()) continue;
    json& one = ranks[report.rank()];
    one["state"] = rank_state(report.state());
    one["guest"] = report.guest();  // mpirun may have been told to place ranks otherwise
    const auto host = host_of.find(report.guest());
    if (host != host_of.end()) one["host"] = host->second;
    one.update(doing_json(report));
  }
  return ranks;
}

// Of an attempt, as its ranks were last heard of; spawned processes too.
json cut_ranks_json(const EpochRecord& e) {
  json ranks = json::array();
  for (const auto& guest : e.cut)
    for (const auto& report : guest.ranks()) {
      json one = {{"rank", report.rank()}, {"guest", guest.guest()}, {"state", rank_state(report.state())}};
      if (report.spawned()) one["spawned"] = true;
      one.update(doing_json(report));
      ranks.push_back(std::move(one));
    }
  return ranks;
}

json hosts_of(const JobRecord& job) {
  std::vector<Placement> placement = job.placement;
  std::stable_sort(placement.begin(), placement.end(), [](const auto& a, const auto& b) { return a.guest < b.guest; });
  json hosts = json::array();
  for (const auto& place : placement)
    if (std::find(hosts.begin(), hosts.end(), place.host.value) == hosts.end()) hosts.push_back(place.host.value);
  return hosts;
}

json phases_json(const PhaseTimes& times) {
  json phases = json::object();
  // A phase that ran several times (drain after a failed verify) counts as the sum.
  for (const auto& [name, ms] : times.phases) phases[name] = phases.value(name, 0.0) + ms;
  return phases;
}

json interval_json(const std::optional<IntervalView>& interval) {
  if (!interval) return nullptr;
  json document = {{"policy", interval->automatic ? "auto" : "fixed"}, {"seconds", interval->seconds}};
  if (interval->automatic)
    document["inputs"] = {{"checkpoints", interval->epochs},      {"stallMs", interval->stall_ms},
                          {"commitMs", interval->commit_ms},      {"costMs", interval->cost_ms},
                          {"hostFailures", interval->failures},   {"watchedSeconds", interval->watched_seconds},
                          {"mtbfSeconds", interval->mtbf_seconds}};
  return document;
}

// While hosts are silent: that, and what comes of it.
std::string reason_of(const Coordinator& core, const JobRecord& job) {
  const std::string silent = core.silent_hosts(job.job);
  if (silent.empty()) return job.reason;
  return job.reason + (job.reason.empty() ? "" : "; ") + "no word from " + silent +
         ", which is lost when its lease ends";
}

}  // namespace

const JobRecord* find_job(const CatalogState& state, const std::string& id_or_name) {
  if (const auto found = state.jobs.find(JobId{id_or_name}); found != state.jobs.end()) return &found->second;
  const JobRecord* newest = nullptr;
  for (const auto& [id, job] : state.jobs)
    if (job.spec.name == id_or_name && (newest == nullptr || number_of(id) > number_of(newest->job))) newest = &job;
  return newest;
}

json status_json(const Coordinator& core, const JobRecord& job, const std::vector<wire::RankReport>& ranks) {
  json newest = nullptr, committed = nullptr;
  for (const auto& [number, epoch] : core.state().epochs) {
    if (epoch.job != job.job) continue;
    newest = number.value;
    if (epoch.state == EpochState::committed) committed = number.value;
  }
  return {{"job", job.job.value},
          {"name", job.spec.name},
          {"state", std::string(name(job.state))},
          {"reason", reason_of(core, job)},
          {"incarnation", job.incarnation.value},
          {"epoch", std::move(newest)},
          {"hosts", hosts_of(job)},
          {"ranks", ranks_json(job, ranks.empty() ? core.last_ranks(job.job) : ranks)},
          {"lastCheckpoint", std::move(committed)},
          {"restoredFrom", job.restored_from.value == 0 ? json(nullptr) : json(job.restored_from.value)},
          {"restarts", job.restarts},
          {"automaticRestarts", job.automatic_restarts},
          {"exitCode", job.exit_code ? json(*job.exit_code) : json(nullptr)},
          {"phase", core.phase(job.job)},
          {"checkpointInterval", interval_json(core.interval(job.job))},
          {"whileUploading", job.spec.while_uploading},
          {"submitDirectory", job.spec.submit_directory}};
}

json jobs_json(const Coordinator& core) {
  std::vector<const JobRecord*> jobs;
  for (const auto& [id, job] : core.state().jobs) jobs.push_back(&job);
  std::sort(jobs.begin(), jobs.end(),
            [](const auto* a, const auto* b) { return number_of(a->job) < number_of(b->job); });
  json list = json::array();
  for (const auto* job : jobs) list.push_back(status_json(core, *job));
  return list;
}

json checkpoint_json(const EpochRecord& e) {
  return {{"job", e.job.value},
          {"epoch", e.epoch.value},
          {"stallMs", e.stall_ms},
          {"captureMs", e.capture_ms},
          {"commitMs", e.commit_ms},
          {"bytesRaw", e.bytes_raw},
          {"bytesStored", e.bytes_stored},
          {"phases", phases_json(e.phases)},
          {"ranks", cut_ranks_json(e)}};
}

// Where each guest's memory lies; its disk lies with it.
json images_json(const EpochRecord& e) {
  json list = json::array();
  for (const auto& image : e.images) {
    const std::string& path = image.memory().path();
    const auto& copies = image.memory().copies();
    list.push_back({{"guest", image.guest()},
                    {"host", path.substr(0, path.find('/'))},
                    {"copies", std::vector<std::string>(copies.begin(), copies.end())}});
  }
  return list;
}

json checkpoints_json(const Coordinator& core, const JobRecord& job) {
  json list = json::array();
  for (const auto& [number, epoch] : core.state().epochs) {
    if (epoch.job != job.job) continue;
    json one = checkpoint_json(epoch);
    one["state"] = std::string(name(epoch.state));
    one["time"] = iso_time(epoch.time);
    one["level"] = has_images(epoch.state) ? copies::level(epoch) : "";
    one["images"] = images_json(epoch);
    one["incarnation"] = epoch.incarnation.value;
    one["reason"] = epoch.reason;
    one["verified"] = epoch.verified == 0 ? json(nullptr) : json(iso_time(epoch.verified));
    one["outputOffset"] = epoch.output_offset;
    if (epoch.control) one["control"] = true;
    list.push_back(std::move(one));
  }
  return list;
}

json restart_json(const Restarted& restarted) {
  return {{"job", restarted.job.value},     {"incarnation", restarted.incarnation.value},
          {"epoch", restarted.epoch.value}, {"restartMs", restarted.restart_ms},
          {"reason", restarted.story},      {"phases", phases_json(restarted.phases)}};
}

json verified_json(const Verified& verified) {
  json epochs = json::array();
  for (const auto& check : verified.epochs) {
    json copies = json::array();
    for (const auto& [place, copy] : check.copies)
      copies.push_back({{"place", place}, {"state", check_state(copy.state)}, {"bytes", copy.bytes}});
    epochs.push_back({{"epoch", check.epoch.value},
                      {"state", check_state(check.state)},
                      {"bytes", check.bytes},
                      {"problems", check.problems},
                      {"mended", check.mended},
                      {"copies", std::move(copies)}});
  }
  return {{"job", verified.job.value}, {"epochs", std::move(epochs)}};
}

json pruned_json(const Pruned& pruned) {
  return {{"job", pruned.job.value},
          {"pruned", numbers(pruned.pruned)},
          {"kept", numbers(pruned.kept)},
          {"freedBytes", pruned.freed_bytes}};
}

json rebuilt_json(const Rebuilt& rebuilt) {
  json jobs = json::array();
  for (const auto& job : rebuilt.jobs)
    jobs.push_back({{"job", job.job.value}, {"name", job.name}, {"checkpoints", numbers(job.epochs)}});
  return {{"jobs", std::move(jobs)}, {"problems", rebuilt.problems}};
}

json store_json(const Coordinator& core) {
  struct Of {
    std::uint64_t images = 0, raw = 0, stored = 0;
  };
  std::map<JobId, Of> by_job;
  std::map<std::string, std::uint64_t> raw_by_host;  // who stored it
  for (const auto& [number, epoch] : core.state().epochs) {
    if (!has_images(epoch.state)) continue;
    Of& job = by_job[epoch.job];
    job.images += epoch.images.size();
    job.raw += epoch.bytes_raw;
    job.stored += epoch.bytes_stored;
    for (const auto& image : epoch.images)
      for (const auto* file : {&image.memory(), &image.disk()})
        raw_by_host[file->path().substr(0, file->path().find('/'))] += file->raw_bytes();
  }
  json hosts = json::array(), jobs = json::array();
  std::uint64_t raw = 0, pages = 0, packed = 0;  // of the hosts that have said what they hold
  for (const auto& view : core.hosts()) {
    const bool known = view.daemon_pid != 0;
    if (known) {
      raw += raw_by_host[view.host.value];
      pages += view.store.pages();
      packed += view.store.pack_bytes();
    }
    const auto figure = [&](std::uint64_t value) { return known ? json(value) : json(nullptr); };
    hosts.push_back({{"name", view.host.value},
                     {"state", host_state(view.state)},
                     {"packs", figure(view.store.packs())},
                     {"bytes", figure(view.store.pack_bytes())},
                     {"freeBytes", figure(view.image_free_bytes)},
                     {"totalBytes", figure(view.store.total_bytes())},
                     {"reserveBytes", figure(view.store.reserve_bytes())}});
  }
  for (const auto& [id, of] : by_job) {
    const auto job = core.state().jobs.find(id);
    jobs.push_back({{"job", id.value},
                    {"name", job == core.state().jobs.end() ? std::string() : job->second.spec.name},
                    {"images", of.images},
                    {"bytesRaw", of.raw},
                    {"bytesStored", of.stored}});
  }
  std::sort(jobs.begin(), jobs.end(), [](const json& a, const json& b) {
    return number_of(JobId{a["job"].get<std::string>()}) < number_of(JobId{b["job"].get<std::string>()});
  });
  return {{"hosts", std::move(hosts)},
          {"jobs", std::move(jobs)},
          {"deduplication", ratio(raw, pages * kPageBytes)},
          {"compression", ratio(pages * kPageBytes, packed)}};
}

json hosts_json(const Coordinator& core) {
  json list = json::array();
  for (const auto& view : core.hosts()) {
    json jobs = json::array();
    for (const auto& job : view.jobs) jobs.push_back(job.value);
    const auto record = core.state().hosts.find(view.host);
    list.push_back({{"name", view.host.value},
                    {"state", host_state(view.state)},
                    {"connected", view.connected},
                    {"daemonPid", view.daemon_pid == 0 ? json(nullptr) : json(view.daemon_pid)},
                    {"accel", view.accelerator},
                    {"acceleratorReason", view.accelerator_reason},
                    {"captureMode", view.capture_mode},
                    {"captureReason", view.capture_reason},
                    {"address", record == core.state().hosts.end() ? std::string() : record->second.address},
                    {"cpus", view.cpus},
                    {"failures", view.failures},
                    {"watchedSeconds", view.watched_seconds},
                    {"memory", view.memory_bytes},
                    {"memoryFree", view.memory_free_bytes},
                    {"jobs", std::move(jobs)}});
  }
  return list;
}

json events_json(const std::vector<EventRecord>& events) {
  json list = json::array();
  for (const auto& e : events)
    list.push_back({{"id", e.id},
                    {"time", iso_time(e.time)},
                    {"job", e.job.value},
                    {"incarnation", e.incarnation.value == 0 ? json(nullptr) : json(e.incarnation.value)},
                    {"jobState", e.job_state ? json(name(*e.job_state)) : json(nullptr)},
                    {"host", e.host.value},
                    {"epoch", e.epoch.value == 0 ? json(nullptr) : json(e.epoch.value)},
                    {"epochState", e.epoch_state ? json(name(*e.epoch_state)) : json(nullptr)},
                    {"what", e.what},
                    {"detail", e.detail}});
  return list;
}

json error_json(const Error& error) {
  return {{"error", {{"kind", std::string(name(error.kind))}, {"message", error.message()}}}};
}

}  // namespace stillpoint::coordinator
