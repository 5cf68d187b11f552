#include "coordinator/core/after_loss.h"

#include <algorithm>

#include "coordinator/core/epochs.h"

namespace stillpoint::coordinator {
namespace {

constexpr std::uint32_t kMostVni = 0xffffff;
constexpr WallSeconds kBeginning = 1'577'836'800;  // of 2020

std::string way_out(const CatalogState& state, const JobRecord& job) {
  const std::string first = "`stillpoint catalog rebuild` takes in checkpoints since then, ";
  if (!epochs::newest_committed(state, job)) return first + "of which it has none else to be brought back from";
  return first + "then `stillpoint restart " + job.job.value + "` brings it back from its newest one";
}

}  // namespace

std::vector<CatalogChange> after_loss(const CatalogState& state, const std::string& what_happened, WallSeconds now) {
  std::vector<CatalogChange> changes;
  for (const auto& [number, epoch] : state.epochs)
    if (epoch.state == EpochState::attempted || epoch.state == EpochState::captured)
      changes.emplace_back(DropEpoch{number});
  for (const auto& [id, before] : state.jobs) {
    JobRecord job = before;
    if (job.state == JobState::completed && job.missing_outputs.empty()) continue;  // it can never run again
    // Its history goes on behind its newest checkpoint, as after a restart from there.
    if (const auto newest = epochs::newest_committed(state, job)) job.restored_from = *newest;
    job.incarnation = Incarnation{job.incarnation.value + kIncarnationsAhead};
    job.attempt.reset();
    job.anywhere = true;
    if (!is_over(job.state)) {
      job.state = JobState::failed;
      job.reason = what_happened + "; what became of the job since is not known: " + way_out(state, job);
      job.stopping = false;
      job.restart.reset();
      job.exit_code.reset();
    }
    EventRecord event{now, id, {}, {}, "put back", job.reason};
    event.incarnation = job.incarnation;
    event.job_state = job.state;
    changes.emplace_back(PutJob{std::move(job)});
    changes.emplace_back(AddEvent{std::move(event)});
  }
  changes.emplace_back(AddLostJobs{{state.next_job, state.next_job + kJobsAhead - 1}});
  changes.emplace_back(PutCounters{state.next_job + kJobsAhead, Epoch{state.next_epoch.value + kEpochsAhead},
                                   (state.next_vni + kVnisAhead) % kMostVni + 1});
  changes.emplace_back(AddEvent{{now, {}, {}, {}, "catalog put back", what_happened}});
  return changes;
}

std::vector<CatalogChange> beyond_loss(std::uint64_t newest_job, WallSeconds now) {
  const auto seconds = static_cast<std::uint64_t>(std::max<WallSeconds>(now - kBeginning, 0));
  const std::uint64_t next_job = newest_job + kJobsAhead + 1;
  return {AddLostJobs{{1, next_job - 1}},
          PutCounters{next_job, Epoch{kEpochsAhead + seconds}, static_cast<std::uint32_t>(seconds % kMostVni) + 1},
          AddEvent{{now, {}, {}, {}, "catalog made anew", "an empty one: no job of before is known"}}};
}

}  // namespace stillpoint::coordinator
