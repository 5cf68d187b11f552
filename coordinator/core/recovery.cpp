#include "coordinator/core/recovery.h"

#include "coordinator/core/checkpoint.h"
#include "coordinator/core/finish.h"
#include "coordinator/core/interval.h"
#include "coordinator/core/output.h"
#include "coordinator/core/restart.h"

namespace stillpoint::coordinator::recovery {
namespace {

constexpr std::size_t kRepeatedDeletes = 1'000;  // epochs, the newest ones

void abort_epoch(Core& core, EpochRecord& epoch) {
  epoch.state = EpochState::aborted;
  epoch.reason = "the coordinator ended while it was under way";
  core.save(epoch);
  core.note(Log::Level::warn, epoch.job, {}, epoch.epoch, "epoch aborted", epoch.reason);
}

void settle_epochs(Core& core) {
  for (auto& [number, epoch] : core.catalog.epochs) {
    if (epoch.state != EpochState::attempted && epoch.state != EpochState::captured) continue;
    auto& job = core.job(epoch.job);
    const bool going_on = job.state == JobState::running && epoch.state == EpochState::captured &&
                          job.attempt == number && epoch.incarnation == job.incarnation && !job.exit_code &&
                          !job.stopping;
    if (going_on) {
      checkpoint::await_images(core, job, number);
      continue;
    }
    abort_epoch(core, epoch);
    checkpoint::clean_up(core, job, number);
    if (job.attempt == number) job.attempt.reset();
    if (job.state == JobState::checkpointing) core.set_state(job, JobState::running, "");
    else core.save(job);
  }
}

// The coordinator before may have given up an attempt, and ended before every host had let go of it: a host whose
// daemon has just begun does not know what its guests hold, and says nothing of it; and a capture that waits for its
// instant is in the way of the next one.
void let_go_again(Core& core) {
  std::map<JobId, const EpochRecord*> newest;
  for (const auto& [number, epoch] : core.catalog.epochs) newest[epoch.job] = &epoch;
  for (const auto& [id, epoch] : newest) {
    const auto& job = core.job(id);
    const bool runs = job.state == JobState::running || job.state == JobState::checkpointing;
    if (runs && epoch->state == EpochState::aborted && epoch->incarnation == job.incarnation &&
        !core.run(id).cleanup.contains(epoch->epoch))
      checkpoint::clean_up(core, job, epoch->epoch);
  }
}

// Images that should be gone may be there still: the crash may have come before they were deleted.
void repeat_deletes(Core& core) {
  std::map<JobId, std::vector<Epoch>> gone;
  for (auto entry = core.catalog.epochs.rbegin(); entry != core.catalog.epochs.rend(); ++entry) {
    const auto& [number, epoch] = *entry;
    auto& list = gone[epoch.job];
    if (epoch.state != EpochState::pruned && epoch.state != EpochState::aborted) continue;
    if (list.size() >= kRepeatedDeletes) continue;
    list.push_back(number);
    core.effects.push_back(DropOutput{epoch.job, number});
  }
  for (const auto& [job, epochs] : gone) core.delete_images(Owner::background, job, epochs);
}

void take_up(Core& core, JobRecord& job) {
  auto& run = core.run(job.job);
  if (job.incarnation == Incarnation{}) run.output.known = true;
  if (holds_gang(job.state)) interval::plan_after_recovery(core, job);
  switch (job.state) {
    case JobState::starting:
      if (job.stopping) return finish::take_up_stop(core, job);
      // The fence of the start machine comes first: the placement is still in the record.
      return core.set_state(job, JobState::pending,
                            "the coordinator ended while the job was starting; it starts again");
    case JobState::restarting:
      if (job.stopping) return finish::take_up_stop(core, job);
      return restart::begin_again(core, job);
    case JobState::running:
    case JobState::checkpointing:
    case JobState::migrating:
      output::measure(core, job.job);
      if (job.exit_code) return finish::take_up_end(core, job);
      if (job.stopping) return finish::take_up_stop(core, job);
      return;
    case JobState::pending:
      if (job.stopping) finish::take_up_stop(core, job);
      return;
    case JobState::completed:
    case JobState::failed:
    case JobState::stopped: return;
  }
}

}  // namespace

void take_up(Core& core) {
  // The old coordinator may have spoken to every host until now.
  for (const auto& [name, record] : core.catalog.hosts) {
    auto& host = core.hosts[name];
    host.last_word = host.last_sent = core.now;
  }
  settle_epochs(core);
  let_go_again(core);
  repeat_deletes(core);
  for (auto& [id, job] : core.catalog.jobs) take_up(core, job);
}

}  // namespace stillpoint::coordinator::recovery
