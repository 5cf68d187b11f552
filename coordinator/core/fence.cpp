#include "coordinator/core/fence.h"

#include <algorithm>

namespace stillpoint::coordinator::fence {
namespace {

// Of a job that may run anywhere: whoever was never heard of since this coordinator began has ended by itself what runs
// there when a lease has passed since then. Whoever comes meanwhile is told to (hosts::settle_presence).
const HostName kUnknownHosts{"hosts that the catalog does not know"};

bool is_being_destroyed(const Core& core, const JobId& job) {
  return std::ranges::any_of(core.requests, [&](const auto& entry) {
    return entry.second.job == job && entry.second.owner == Owner::background && entry.second.message.has_destroy();
  });
}

}  // namespace

void begin(Core& core, const JobRecord& job, Incarnation upto, Owner owner, std::set<HostName>& waiting) {
  waiting = core.gang_hosts(job);
  if (job.anywhere)
    for (const auto& [name, host] : core.hosts) waiting.insert(name);
  for (const auto& host : waiting)
    core.ask(owner, host, job.job, upto, {}, [](wire::ToHost& m) { m.mutable_destroy(); });
  if (job.anywhere) waiting.insert(kUnknownHosts);
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
    if (core.fenced_by_lease(host) && (host != kUnknownHosts || !is_being_destroyed(core, job.job)))
      fenced.insert(host);
  if (fenced.empty()) return;
  std::erase_if(core.requests, [&](const auto& entry) {
    return entry.second.job == job.job && entry.second.owner == owner && fenced.contains(entry.second.host);
  });
  for (const auto& host : fenced) waiting.erase(host);
}

}  // namespace stillpoint::coordinator::fence
