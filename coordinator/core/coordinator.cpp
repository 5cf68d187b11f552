#include "coordinator/core/coordinator.h"

#include "coordinator/core/checkpoint.h"
#include "coordinator/core/checkpoint_records.h"
#include "coordinator/core/core.h"
#include "coordinator/core/finish.h"
#include "coordinator/core/history.h"
#include "coordinator/core/hosts.h"
#include "coordinator/core/interval.h"
#include "coordinator/core/invariants.h"
#include "coordinator/core/later.h"
#include "coordinator/core/leftovers.h"
#include "coordinator/core/output.h"
#include "coordinator/core/prune.h"
#include "coordinator/core/ranks.h"
#include "coordinator/core/rebuild.h"
#include "coordinator/core/recovery.h"
#include "coordinator/core/restart.h"
#include "coordinator/core/start.h"
#include "coordinator/core/transfer.h"
#include "coordinator/core/verify.h"

namespace stillpoint::coordinator {

struct Coordinator::Impl {
  Impl(Settings settings, CatalogState state) : core(settings, std::move(state)), invariants(core.catalog) {}

  Core core;
  Invariants invariants;
};

namespace {

void tick(Core& core) {
  hosts::tick(core);
  std::vector<JobId> ids;
  for (const auto& [id, run] : core.runs) ids.push_back(id);
  for (const auto& id : ids) {
    JobRecord* job = core.find(id);
    if (job == nullptr) continue;
    output::tick(core, *job);
    start::tick(core, *job);
    checkpoint::tick(core, *job);
    restart::tick(core, *job);
    finish::tick(core, *job);
    finish::expire_removal(core, id);
    verify::tick(core, id);
    prune::tick(core, id);
    ranks::tick(core, id);
  }
  transfer::tick(core);
  later::tick(core);
  leftovers::tick(core);
  checkpoint_records::tick(core);
  rebuild::tick(core);
  start::try_pending(core);
}

struct Handle {
  Core& core;
  void operator()(HostConnected& e) const { hosts::on_connected(core, std::move(e)); }
  void operator()(HostDisconnected& e) const { hosts::on_disconnected(core, e); }
  void operator()(HostSpoke& e) const { hosts::on_spoke(core, e); }
  void operator()(SubmitJob& e) const { start::on_submit(core, std::move(e)); }
  void operator()(CheckpointJob& e) const { checkpoint::on_request(core, e); }
  void operator()(RestartJob& e) const { restart::on_request(core, e); }
  void operator()(StopJob& e) const { finish::on_stop(core, e); }
  void operator()(RemoveJob& e) const { finish::on_remove(core, e); }
  void operator()(VerifyJob& e) const { verify::on_request(core, e); }
  void operator()(PruneJob& e) const { prune::on_request(core, e); }
  void operator()(BeginImport& e) const { transfer::on_begin(core, std::move(e)); }
  void operator()(ImportPiece& e) const { transfer::on_piece(core, std::move(e)); }
  void operator()(FinishImport& e) const { transfer::on_finish(core, e); }
  void operator()(AbandonImport& e) const { transfer::on_abandon(core, e); }
  void operator()(ExportPiece& e) const { transfer::on_export(core, e); }
  void operator()(CordonHost& e) const { hosts::on_cordon(core, e); }
  void operator()(RebuildCatalog& e) const { rebuild::on_request(core, e); }
  void operator()(QueryRanks& e) const { ranks::on_query(core, e); }
  void operator()(SpoolRead& e) const { start::on_spool(core, std::move(e)); }
  void operator()(OutputDurable& e) const { output::on_durable(core, e); }
  void operator()(OutputFailed& e) const { output::on_failed(core, e); }
  void operator()(OutputPieceStored& e) const { finish::on_stored(core, e); }
  void operator()(Tick&) const { tick(core); }
};

// Request numbers of an earlier coordinator must not be met again: hosts may remember them.
std::uint64_t first_request(WallSeconds wall) { return (static_cast<std::uint64_t>(wall) << 24) | 1; }

// This process itself stood still: what hosts said meanwhile is still in the queue, so their silence proves nothing.
void forgive_own_pause(Core& core) {
  const auto pause = core.now - core.last_step;
  if (pause <= 4 * core.settings.heartbeat) return;
  for (auto& [name, host] : core.hosts)
    if (host.connected) host.last_word = std::max(host.last_word, core.now - core.settings.heartbeat);
}

}  // namespace

Coordinator::Coordinator(Settings settings, CatalogState state)
    : impl_(std::make_unique<Impl>(settings, std::move(state))) {}
Coordinator::~Coordinator() = default;

Effects Coordinator::step(Event event, Time now, WallSeconds wall) {
  auto& core = impl_->core;
  core.now = now;
  core.wall = wall;
  if (!core.recovered) {
    core.recovered = true;
    core.begun = core.last_step = now;
    core.next_request = first_request(wall);
    history::take_up(core);
    recovery::take_up(core);
  }
  forgive_own_pause(core);
  core.last_step = now;
  std::visit(Handle{core}, event);
  history::complete(core, std::holds_alternative<Tick>(event));
  Effects effects = std::exchange(core.effects, {});
  if (core.settings.check_invariants) impl_->invariants.check(core, effects);
  return effects;
}

const CatalogState& Coordinator::state() const { return impl_->core.catalog; }
std::vector<HostView> Coordinator::hosts() const { return hosts::views(impl_->core); }
std::vector<wire::RankReport> Coordinator::last_ranks(const JobId& job) const { return ranks::last(impl_->core, job); }
std::uint64_t Coordinator::rejected() const { return impl_->core.rejected; }
std::vector<std::string> Coordinator::broken_invariants() const { return impl_->invariants.broken(); }

std::optional<IntervalView> Coordinator::interval(const JobId& job) const {
  const auto found = impl_->core.catalog.jobs.find(job);
  if (found == impl_->core.catalog.jobs.end() || is_over(found->second.state)) return std::nullopt;
  return interval::view(impl_->core, found->second);
}

std::string Coordinator::silent_hosts(const JobId& job) const {
  const auto found = impl_->core.catalog.jobs.find(job);
  std::set<HostName> silent;
  if (found != impl_->core.catalog.jobs.end() && holds_gang(found->second.state))
    for (const auto& host : impl_->core.gang_hosts(found->second))
      if (const auto& h = impl_->core.hosts.at(host); impl_->core.silent(host) && !h.lost) silent.insert(host);
  return joined(silent);
}

std::string Coordinator::phase(const JobId& job) const {
  const auto found = impl_->core.runs.find(job);
  if (found == impl_->core.runs.end()) return "";
  const auto& run = found->second;
  if (run.finish) return std::string(finish::name(run.finish->phase));
  if (run.restart) return std::string(restart::name(run.restart->phase));
  if (run.start) return std::string(start::name(run.start->phase));
  if (run.checkpoint) return std::string(checkpoint::name(run.checkpoint->phase));
  return "";
}

}  // namespace stillpoint::coordinator
