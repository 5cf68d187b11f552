#include "coordinator/core/loss.h"

#include <fmt/format.h>

#include "coordinator/core/checkpoint.h"
#include "coordinator/core/epochs.h"
#include "coordinator/core/ranks.h"
#include "coordinator/core/start.h"

namespace stillpoint::coordinator::loss {

std::string remedy(const Core& core, const JobRecord& job) {
  if (const auto newest = epochs::newest_committed(core, job))
    return fmt::format("bring it back from checkpoint {} with `stillpoint restart {}`", newest->value, job.job.value);
  return "it has no checkpoint to restart from; submit it anew";
}

// The policy of restartOnFailure goes here: restart::begin with the newest epoch instead of the failed state.
void job_lost(Core& core, JobRecord& job, const std::string& why) {
  checkpoint::abort(core, job, Error{ErrorKind::transient, "", "", why});
  core.run(job.job).rank_lost.reset();
  core.destroy_gang(job.job, job.incarnation, core.gang_hosts(job));
  core.note(Log::Level::error, job.job, {}, {}, "failed", why);
  core.set_state(job, JobState::failed, fmt::format("{}; {}", why, remedy(core, job)));
  ranks::end(core, job.job);
  start::try_pending(core);
}

}  // namespace stillpoint::coordinator::loss
