#include "tests/simulation/cluster.h"

#include <fmt/format.h>

#include <algorithm>

namespace stillpoint::simulation {
namespace {

using namespace coordinator;

constexpr Time kBegin{Millis(1'000'000)};
constexpr std::uint64_t kMostAtOnce = 100'000;  // events of one millisecond

}  // namespace

Cluster::Cluster(Plan p, bool keep_transcript)
    : agenda(kBegin),
      plan(std::move(p)),
      invariants(*this),
      network(agenda, plan.shape, [this](const auto& session) { hosts[session->host]->drop_session(session); }),
      store(plan.shape.own_stores),
      record(keep_transcript) {
  for (std::size_t i = 0; i < plan.shape.hosts; ++i) hosts.push_back(std::make_unique<HostNode>(*this, i));
  coordinator = std::make_unique<CoordinatorNode>(*this);
}

// Deadlines are shorter than the real ones, so that a history that meets them takes less; what they mean is the same.
Settings Cluster::settings() const {
  Settings settings;
  settings.heartbeat = Millis(1'000);
  settings.lease = lease;
  settings.start_deadline = Millis(40'000);
  settings.drain_deadline = Millis(5'000);
  settings.hold = Millis(12'000);
  settings.prepare_deadline = Millis(30'000);
  settings.capture_deadline = Millis(8'000);
  settings.upload_deadline = Millis(30'000);
  settings.restore_deadline = Millis(40'000);
  settings.link_deadline = Millis(10'000);
  settings.check_invariants = true;
  return settings;
}

Outcome Cluster::run() {
  coordinator->start();
  for (auto& host : hosts) host->boot();
  for (const auto& happening : plan.happenings)
    agenda.at(kBegin + Millis(500) + happening.at, [this, &happening] { befall(happening); });
  run_until(kBegin + Millis(500) + Millis(1'000) * plan.shape.seconds);
  if (invariants.broken().empty()) come_home();
  Outcome outcome;
  outcome.broken = invariants.broken();
  outcome.transcript = std::move(transcript_);
  count(outcome);
  return outcome;
}

void Cluster::run_until(Time end) {
  Time last{};
  for (std::uint64_t at_once = 0; invariants.broken().empty() && agenda.step(end); ++at_once) {
    if (std::exchange(last, agenda.now()) != agenda.now()) at_once = 0;
    if (at_once > kMostAtOnce)
      invariants.fail("no stuck gang", "something is done again and again, and time stands still");
    invariants.check_machines();
  }
}

void Cluster::write(const std::string& who, const std::string& what) {
  transcript_.push_back(
      fmt::format("{:9.3f} {:3} {}", static_cast<double>((agenda.now() - kBegin).count()) / 1000, who, what));
}

HostNode* Cluster::host(const HostName& name) const {
  for (const auto& host : hosts)
    if (host->name() == name) return host.get();
  return nullptr;
}

bool Cluster::joined(const HostNode& a, const HostNode& b) const {
  if (&a == &b) return true;
  return a.powered() && b.powered() && !a.is_apart() && !b.is_apart() && network.is_reachable(a.index_) &&
         network.is_reachable(b.index_);
}

Machine* Cluster::machine(const node::DomainId& id, HostNode** where) {
  for (auto& host : hosts)
    if (Machine* const found = host->machine(id)) {
      if (where != nullptr) *where = host.get();
      return found;
    }
  return nullptr;
}

std::optional<JobId> Cluster::job(std::uint32_t number) const {
  const auto request = submissions_.find(number);
  if (request == submissions_.end()) return std::nullopt;
  const auto reply = coordinator->replies().find(request->second);
  if (reply == coordinator->replies().end() || !reply->second) return std::nullopt;
  return std::get<Submitted>(reply->second.value()).job;
}

// ---- what befalls it

void Cluster::befall(const Happening& happening) {
  if (calm_) return;  // it stands at the end or behind it
  tell("-", [&] { return "* " + print(happening); });
  if (happening.host != 0 && happening.what != What::image_damage && happening.what != What::cordon)
    return befall_host(happening, *hosts[happening.host - 1]);
  if (befall_client(happening)) return;
  const Millis time(happening.value);
  auto& c = *coordinator;
  switch (happening.what) {
    case What::coordinator_crash: return c.crash(time);
    case What::coordinator_crash_after: return c.crash_after(static_cast<std::uint64_t>(happening.value));
    case What::coordinator_pause: return c.pause(time);
    case What::coordinator_disk_full: c.set_disk_full(true); return agenda.in(time, [&c] { c.set_disk_full(false); });
    case What::coordinator_disk_slow: c.set_disk_slow(true); return agenda.in(time, [&c] { c.set_disk_slow(false); });
    case What::wall_clock: return c.jump_wall(happening.value);
    default: break;
  }
  const auto id = job(happening.job);
  if (!id) return;
  if (happening.what == What::image_damage) return damage_image(*id, hosts[happening.host - 1]->name());
  if (happening.what == What::defer) deferring[*id] = happening.value;
  if (happening.what == What::end) ending[*id] = static_cast<int>(happening.value);
  if (happening.what != What::guest_dies && happening.what != What::rank_killed) return;
  for (auto& host : hosts)
    for (auto& [name, machine] : host->machines()) {
      if (name.job != *id ||
          (happening.what == What::guest_dies && name.guest.value != static_cast<std::uint64_t>(happening.value)))
        continue;
      if (happening.what == What::rank_killed) {
        if (machine.guest.kill_rank()) invariants.lost_a_part(machine);
        return;
      }
      invariants.lost_a_part(machine);
      return host->lose_machine(node::DomainId(name), "killed");
    }
}

void Cluster::submit(const Happening& happening) {
  JobSpec spec;
  spec.name = "heat";
  spec.guests = plan.shape.sizes_differ ? 1 + (plan.shape.guests + happening.job) % 3 : plan.shape.guests;
  spec.memory_bytes = static_cast<std::uint64_t>(plan.shape.guest_mib) << 20;
  spec.disk_bytes = 4ull << 30;
  spec.ranks_per_guest.assign(spec.guests, 1);
  spec.command = {"./heat"};
  spec.files = {"heat"};
  spec.outputs = {"field.ppm"};
  spec.keep = plan.shape.keep;
  spec.durability = plan.shape.durability;
  if (plan.shape.copied_later) spec.later_durability = "host-loss";
  if (plan.shape.interval_seconds != 0) spec.interval_seconds = plan.shape.interval_seconds;
  if ((spec.interval_auto = plan.shape.interval_auto)) spec.interval_seconds.reset();
  spec.spread = !plan.shape.packed;
  if (plan.shape.hosts_named && happening.job % 2 == 1)
    for (std::size_t i = 0; i < std::min<std::size_t>(spec.guests, hosts.size()); ++i)
      spec.hosts.push_back(hosts[i]->name());
  spec.restart_on_failure = plan.shape.max_restarts != 0;
  spec.max_restarts = plan.shape.max_restarts;
  submissions_[happening.job] = coordinator->ask([&](RequestId r) { return SubmitJob{r, spec, "manifest", "spool"}; });
}

bool Cluster::befall_client(const Happening& happening) {
  if (happening.what == What::submit) {
    submit(happening);
    return true;
  }
  if (happening.what == What::cordon) {
    const HostName name = hosts[happening.host - 1]->name();
    coordinator->ask([&](RequestId r) { return CordonHost{r, name, true}; });
    agenda.in(Millis(happening.value), [this, name] {
      coordinator->ask([&](RequestId r) { return CordonHost{r, name, false}; });
    });
    return true;
  }
  const auto id = job(happening.job);
  const auto asked = [&](auto make) {
    if (id) coordinator->ask([&](RequestId r) { return Event(make(r)); });
    return true;
  };
  switch (happening.what) {
    case What::checkpoint: return asked([&](RequestId r) { return CheckpointJob{r, *id, std::nullopt}; });
    case What::stop: return asked([&](RequestId r) { return StopJob{r, *id}; });
    case What::remove: return asked([&](RequestId r) { return RemoveJob{r, *id}; });
    case What::verify: return asked([&](RequestId r) { return VerifyJob{r, *id, std::nullopt}; });
    case What::prune: return asked([&](RequestId r) { return PruneJob{r, *id, std::nullopt}; });
    case What::ranks: return asked([&](RequestId r) { return QueryRanks{r, *id}; });
    case What::restart: {
      std::optional<Epoch> from;
      std::int64_t left = happening.value;
      const auto& epochs = coordinator->durable().epochs;
      for (auto epoch = epochs.rbegin(); epoch != epochs.rend() && left > 0; ++epoch)
        if (id && epoch->second.job == *id && epoch->second.state == EpochState::committed && --left == 0)
          from = epoch->first;
      return asked([&](RequestId r) { return RestartJob{r, *id, from, {}, false}; });
    }
    default: return false;
  }
}

void Cluster::befall_host(const Happening& happening, HostNode& host) {
  const Millis time(happening.value);
  const auto cut = [&](Network::Way way) {
    const std::size_t index = host.index_;
    network.cut(index, way, true);
    agenda.in(time, [this, index, way] { network.cut(index, way, false); });
  };
  switch (happening.what) {
    case What::daemon_crash: return host.crash_daemon(time);
    case What::daemon_pause: return host.pause_daemon(time, false);
    case What::power_loss: return host.lose_power(time, false);
    case What::disk_loss: return host.lose_power(time, true);
    case What::suspend: return host.pause_daemon(time, true);
    case What::host_disk_full: host.set_disk_full(true); return agenda.in(time, [&host] { host.set_disk_full(false); });
    case What::host_disk_slow: host.set_disk_slow(true); return agenda.in(time, [&host] { host.set_disk_slow(false); });
    case What::apart: host.set_apart(1); return agenda.in(time, [&host] { host.set_apart(-1); });
    case What::session_drop: return host.drop_session();
    case What::mute: return cut(Network::up);
    case What::deafen: return cut(Network::down);
    case What::partition: cut(Network::up); return cut(Network::down);
    default: return;
  }
}

void Cluster::damage_image(const JobId& job, const HostName& host) {
  const std::string place = store.own() ? host.value : "";
  StoredImage* newest = nullptr;
  for (auto& [path, image] : store.all())
    if (image.job == job && image.places.contains(place) && (newest == nullptr || newest->epoch < image.epoch))
      newest = &image;
  if (newest != nullptr) newest->damaged.insert(place);
}

}  // namespace stillpoint::simulation
