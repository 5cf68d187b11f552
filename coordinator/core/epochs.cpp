#include "coordinator/core/epochs.h"

#include <fmt/format.h>

namespace stillpoint::coordinator::epochs {

std::optional<Epoch> newest_committed(const Core& core, const JobId& job, std::optional<Epoch> before) {
  std::optional<Epoch> newest;
  for (const auto& [number, epoch] : core.catalog.epochs)
    if (epoch.job == job && epoch.state == EpochState::committed && !epoch.control && (!before || number < *before))
      newest = number;
  return newest;
}

Result<Epoch> choose(const Core& core, const JobRecord& job, std::optional<Epoch> from) {
  if (!from) {
    if (const auto newest = newest_committed(core, job.job)) return *newest;
    return refused("restart", job.job.value, "the job has no committed checkpoint; submit it anew");
  }
  const auto found = core.catalog.epochs.find(*from);
  const std::string object = fmt::format("checkpoint {} of {}", from->value, job.job.value);
  if (found == core.catalog.epochs.end()) return Error{ErrorKind::not_found, "restart", object, "no such checkpoint"};
  const auto& epoch = found->second;
  if (epoch.job != job.job)
    return Error{ErrorKind::not_found, "restart", object,
                 fmt::format("no such checkpoint: {} is one of {}", from->value, epoch.job.value)};
  if (epoch.state != EpochState::committed)
    return refused("restart", object,
                   fmt::format("it is {}{}", name(epoch.state), epoch.reason.empty() ? "" : ": " + epoch.reason));
  return *from;
}

}  // namespace stillpoint::coordinator::epochs
