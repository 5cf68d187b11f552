#include "coordinator/core/ranks.h"

namespace stillpoint::coordinator::ranks {
namespace {

void answer_all(Core& core, const JobId& job, bool (*done)(const RanksQuery&, Time)) {
  auto& queries = core.run(job).queries;
  std::erase_if(queries, [&](const RanksQuery& query) {
    if (!done(query, core.now)) return false;
    core.reply(query.request, Ranks{last(core, job)});
    return true;
  });
  if (queries.empty()) core.cancel(job, Owner::query);
}

}  // namespace

std::vector<wire::RankReport> last(const Core& core, const JobId& job) {
  std::vector<wire::RankReport> result;
  if (const auto run = core.runs.find(job); run != core.runs.end())
    for (const auto& [rank, report] : run->second.ranks) result.push_back(report);
  return result;
}

void on_query(Core& core, const QueryRanks& event) {
  const JobRecord* job = core.find(event.job);
  if (job == nullptr)
    return core.refuse(event.request, Error{ErrorKind::not_found, "status", event.job.value, "no such job"});
  auto& run = core.run(event.job);
  const bool can_ask =
      (job->state == JobState::running || job->state == JobState::checkpointing) && run.queries.size() < kMaxQueries;
  if (!can_ask) return core.reply(event.request, Ranks{last(core, event.job)});
  RanksQuery query{event.request, {}, core.now + kAnswerSlack};
  for (const auto& host : core.gang_hosts(*job)) {
    if (!core.usable(host)) continue;
    query.waiting.insert(host);
    if (!core.is_asked(event.job, Owner::query, host))
      core.ask(Owner::query, host, event.job, job->incarnation, {}, [](wire::ToHost& m) { m.mutable_query(); });
  }
  run.queries.push_back(std::move(query));
  answer_all(core, event.job, [](const RanksQuery& q, Time) { return q.waiting.empty(); });
}

void on_answer(Core& core, const Request& request, const wire::FromHost& answer) {
  if (!answer.has_failure() && answer.has_ranks()) learn(core, core.job(request.job), answer.ranks().ranks());
  for (auto& query : core.run(request.job).queries) query.waiting.erase(request.host);
  answer_all(core, request.job, [](const RanksQuery& q, Time) { return q.waiting.empty(); });
}

void tick(Core& core, const JobId& job) {
  if (core.run(job).queries.empty()) return;
  answer_all(core, job, [](const RanksQuery& q, Time now) { return now >= q.deadline; });
}

void end(Core& core, const JobId& job) {
  answer_all(core, job, [](const RanksQuery&, Time) { return true; });
}

}  // namespace stillpoint::coordinator::ranks
