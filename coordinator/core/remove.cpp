// Removal of a job that is over: images first, then its rows and files, so that a crash in between leaks nothing.
#include <fmt/format.h>

#include <algorithm>

#include "coordinator/core/checkpoint.h"
#include "coordinator/core/checkpoint_records.h"
#include "coordinator/core/finish.h"
#include "coordinator/core/leftovers.h"
#include "coordinator/core/verify.h"

namespace stillpoint::coordinator::finish {
namespace {

void drop(Core& core, const JobId& id, RequestId request) {
  const std::string spool = core.job(id).spool;
  // A copy that follows a commit ends with its host's deletion, and may before that have come to a partner that had
  // deleted its own already.
  if (!core.job(id).spec.later_durability.empty())
    core.delete_images(Owner::background, id, leftovers::epochs_with_images(core, id));
  std::erase_if(core.catalog.epochs, [&](const auto& entry) { return entry.second.job == id; });
  core.catalog.jobs.erase(id);
  core.unheard_of.erase(id);
  core.runs.erase(id);
  core.persist(DropJob{id});
  core.note(Log::Level::info, id, {}, {}, "removed", "");
  core.effects.push_back(DropJobFiles{id, spool});
  core.effects.push_back(JobChanged{id});
  core.reply(request, Acknowledged{});
}

// Hosts that have not answered yet.
std::set<HostName> still_asked(const Core& core, const JobId& id) {
  std::set<HostName> hosts;
  for (const auto& [number, request] : core.requests)
    if (request.job == id && request.owner == Owner::remove) hosts.insert(request.host);
  return hosts;
}

}  // namespace

void on_remove(Core& core, const RemoveJob& event) {
  JobRecord* job = core.find(event.job);
  if (job == nullptr)
    return core.refuse(event.request, Error{ErrorKind::not_found, "rm", event.job.value, "no such job"});
  auto& run = core.run(event.job);
  if (!is_over(job->state))
    return core.refuse(event.request, refused("rm", event.job.value,
                                              fmt::format("the job is {}; stop it first: stillpoint stop {}",
                                                          coordinator::name(job->state), event.job.value)));
  if (run.remove) return core.refuse(event.request, refused("rm", event.job.value, "the job is being removed already"));
  const std::vector<Epoch> epochs = leftovers::epochs_with_images(core, event.job);
  const bool reachable =
      std::any_of(core.hosts.begin(), core.hosts.end(), [&](const auto& entry) { return core.usable(entry.first); });
  if (!epochs.empty() && !reachable)
    return core.refuse(event.request, Error{ErrorKind::transient, "rm", event.job.value,
                                            "no host is up that could delete its images; try again when one is"});
  if (run.prune)
    return core.refuse(event.request,
                       refused("rm", event.job.value, "its checkpoints are being pruned; try again when that is done"));
  checkpoint::refuse_turns(core, event.job, "the job is being removed");
  core.cancel(event.job, Owner::later);
  verify::cancel(core, event.job, refused("verify", event.job.value, "the job is being removed"));
  for (const Epoch number : epochs) {
    const auto known = core.catalog.epochs.find(number);
    if (known == core.catalog.epochs.end() || !has_images(known->second.state)) continue;
    set_pruned(known->second);
    checkpoint_records::deleted(core, event.job, number);
    core.save(known->second);
  }
  if (epochs.empty()) return drop(core, event.job, event.request);
  run.remove = RemoveRun{event.request, core.now + kRemoveDeadline};
  core.delete_images(Owner::remove, event.job, epochs);
}

void on_removed(Core& core, const Request& request, const wire::FromHost& answer) {
  auto& run = core.run(request.job);
  const RequestId client = run.remove->request;
  if (!answer.has_failure()) {
    if (still_asked(core, request.job).empty()) drop(core, request.job, client);
    return;
  }
  run.remove.reset();
  core.cancel(request.job, Owner::remove);
  Error error = host_error(request, answer);
  core.refuse(client, Error{error.kind, "rm", request.job.value,
                            "its images could not be deleted: " + error.message() + "; try again"});
}

void expire_removal(Core& core, const JobId& id) {
  auto& run = core.run(id);
  if (!run.remove || core.now < run.remove->deadline) return;
  const RequestId client = run.remove->request;
  run.remove.reset();
  const std::set<HostName> silent = still_asked(core, id);
  core.cancel(id, Owner::remove);
  core.refuse(client, Error{ErrorKind::deadline, "rm", id.value,
                            fmt::format("its images were not deleted in time on {}; try again", joined(silent))});
}

}  // namespace stillpoint::coordinator::finish
