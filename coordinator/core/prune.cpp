#include "coordinator/core/prune.h"

#include <fmt/format.h>

#include <algorithm>

#include "coordinator/core/checkpoint_records.h"
#include "coordinator/core/copies.h"
#include "coordinator/core/epochs.h"
#include "coordinator/core/relay.h"

namespace stillpoint::coordinator::prune {
namespace {

bool is_used(const Core& core, const JobId& job, Epoch epoch) {
  const auto run = core.runs.find(job);
  if (run == core.runs.end()) return false;
  const auto exported = run->second.exported_until.find(epoch);
  return (run->second.restart && run->second.restart->epoch == epoch) ||
         (exported != run->second.exported_until.end() && core.now < exported->second);
}

// Epochs older than the newest `keep` committed ones that can be had now; those of histories that were left by a
// restart go first. A damaged one counts for nothing and goes with its age, and so does one whose hosts are all away.
// Control epochs are nobody's checkpoints: they neither count nor go.
std::vector<Epoch> surplus(const Core& core, const JobRecord& job, std::size_t keep) {
  const auto present = epochs::present_history(core, job);
  std::vector<Epoch> found;
  for (const auto& [number, epoch] : core.catalog.epochs)
    if (epoch.job == job.job && has_images(epoch.state) && !epoch.control) found.push_back(number);
  std::stable_partition(found.begin(), found.end(), [&](Epoch e) { return !present.contains(e); });
  for (keep = std::max<std::size_t>(1, keep); keep > 0 && !found.empty(); found.pop_back())
    if (const auto& epoch = core.catalog.epochs.at(found.back());
        epoch.state == EpochState::committed && copies::lost_images(core, epoch).empty())
      --keep;
  std::erase_if(found, [&](Epoch e) { return is_used(core, job.job, e); });
  return found;
}

std::vector<Epoch> prune(Core& core, const JobRecord& job, Owner owner, std::uint32_t keep) {
  auto gone = surplus(core, job, keep);
  for (auto number : gone) {
    auto& epoch = core.epoch(number);
    set_pruned(epoch);
    checkpoint_records::deleted(core, epoch.job, epoch.epoch);
    core.save(epoch);
    core.note(Log::Level::info, job.job, {}, number, "epoch pruned", fmt::format("{} are kept", keep));
  }
  core.delete_images(owner, job.job, gone);
  return gone;
}

bool is_waiting(const Core& core, const JobId& job) {
  return std::ranges::any_of(
      core.requests, [&](const auto& entry) { return entry.second.job == job && entry.second.owner == Owner::prune; });
}

void finish(Core& core, const JobId& job) {
  auto& slot = core.run(job).prune;
  const PruneRun run = std::move(*slot);
  slot.reset();
  core.reply(run.request, run.answer);
}

}  // namespace

void after_commit(Core& core, const JobRecord& job) { prune(core, job, Owner::background, job.spec.keep); }

void on_request(Core& core, const PruneJob& event) {
  const JobRecord* job = core.find(event.job);
  if (job == nullptr)
    return core.refuse(event.request, Error{ErrorKind::not_found, "prune", event.job.value, "no such job"});
  auto& run = core.run(event.job);
  std::string why;
  if (run.remove) why = "the job is being removed";
  else if (run.prune) why = "its checkpoints are being pruned already; wait for that";
  else if (event.keep == 0u) why = "one checkpoint is always kept; `stillpoint rm` removes a job with all of them";
  if (!why.empty()) return core.refuse(event.request, refused("prune", event.job.value, why));
  run.prune = PruneRun{event.request, core.now + kRemoveDeadline, {event.job, {}, {}, 0}};
  auto& answer = run.prune->answer;
  answer.pruned = prune(core, *job, Owner::prune, event.keep.value_or(job->spec.keep));
  for (const auto& [number, epoch] : core.catalog.epochs)
    if (epoch.job == event.job && has_images(epoch.state)) answer.kept.push_back(number);
  if (!is_waiting(core, event.job)) finish(core, event.job);
}

void on_answer(Core& core, const Request& request, const wire::FromHost& answer) {
  if (answer.has_failure()) {
    Request again = request;  // they are pruned: the deleting goes on until it is done, whoever waits
    again.owner = Owner::background;
    relay::on_background(core, again, answer);
  }
  core.run(request.job).prune->answer.freed_bytes += answer.done().freed_bytes();
  if (!is_waiting(core, request.job)) finish(core, request.job);
}

void tick(Core& core, const JobId& job) {
  const auto& slot = core.run(job).prune;
  if (!slot || core.now < slot->deadline) return;
  for (auto& [number, request] : core.requests)
    if (request.job == job && request.owner == Owner::prune) request.owner = Owner::background;
  finish(core, job);
}

}  // namespace stillpoint::coordinator::prune
