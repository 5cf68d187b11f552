#include "coordinator/core/loss.h"

#include <fmt/format.h>

#include "coordinator/core/checkpoint.h"
#include "coordinator/core/epochs.h"
#include "coordinator/core/ranks.h"
#include "coordinator/core/start.h"

namespace stillpoint::coordinator::loss {

std::string verdict(const Core& core, const JobRecord& job, const automatic::Loss& loss, const std::string& refused) {
  const auto newest = epochs::newest_committed(core, job);
  const std::string remedy = newest ? fmt::format("bring it back from checkpoint {} with `stillpoint restart {}`",
                                                  newest->value, job.job.value)
                                    : "it has no checkpoint to restart from; submit it anew";
  return fmt::format("{}; {}{}{}", loss.why, refused, refused.empty() ? "" : "; ", remedy);
}

void job_lost(Core& core, JobRecord& job, const automatic::Loss& loss) {
  checkpoint::abort(core, job, Error{ErrorKind::transient, "", "", loss.why});
  core.run(job.job).rank_lost.reset();
  core.destroy_gang(job.job, job.incarnation, core.gang_hosts(job));
  ranks::end(core, job.job);
  const auto refused = automatic::refusal(core, job, loss);
  if (!refused) return automatic::bring_back(core, job, loss);
  core.set_state(job, JobState::failed, verdict(core, job, loss, *refused));
  core.note(Log::Level::error, job.job, {}, {}, "failed", loss.why);
  start::try_pending(core);
}

}  // namespace stillpoint::coordinator::loss
