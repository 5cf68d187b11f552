// What the ranks were doing when last heard, and fresh answers for `status`. Core's strand.
#pragma once

#include "coordinator/core/core.h"

namespace stillpoint::coordinator::ranks {

template <class Reports>
void learn(Core& core, const JobRecord& job, const Reports& reports) {
  auto& runs = core.run(job.job);
  if (runs.rank_count == 0) runs.rank_count = job.spec.ranks();
  // Spawned processes have a numbering of their own.
  for (const wire::RankReport& report : reports)
    if (report.rank() < runs.rank_count && !report.spawned()) runs.ranks[report.rank()] = report;
}
std::vector<wire::RankReport> last(const Core& core, const JobId& job);

void on_query(Core& core, const QueryRanks& event);
void on_answer(Core& core, const Request& request, const wire::FromHost& answer);
// Answers with what is known when a host takes too long.
void tick(Core& core, const JobId& job);
// The gang is gone: whoever still asks gets what was last known.
void end(Core& core, const JobId& job);

}  // namespace stillpoint::coordinator::ranks
