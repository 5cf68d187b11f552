#include "coordinator/core/fence.h"

namespace stillpoint::coordinator::fence {

void begin(Core& core, const JobRecord& job, Incarnation upto, Owner owner, std::set<HostName>& waiting) {
  waiting = core.gang_hosts(job);
  for (const auto& host : waiting)
    core.ask(owner, host, job.job, upto, {}, [](wire::ToHost& m) { m.mutable_destroy(); });
  expire(core, job, owner, waiting);
}

bool answered(Core& core, const Request& request, const wire::FromHost& answer) {
  if (!answer.has_failure() && answer.has_done()) return true;
  const Error error = host_error(request, answer);
  core.note(Log::Level::warn, request.job, request.host, {}, "destroy failed; trying again", error.message());
  core.retry_later(request);
  return false;
}

void expire(Core& core, const JobRecord& job, Owner owner, std::set<HostName>& waiting) {
  std::set<HostName> fenced;
  for (const auto& host : waiting)
    if (core.fenced_by_lease(host)) fenced.insert(host);
  if (fenced.empty()) return;
  std::erase_if(core.requests, [&](const auto& entry) {
    return entry.second.job == job.job && entry.second.owner == owner && fenced.contains(entry.second.host);
  });
  for (const auto& host : fenced) waiting.erase(host);
}

}  // namespace stillpoint::coordinator::fence
