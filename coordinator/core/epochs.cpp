#include "coordinator/core/epochs.h"

#include <fmt/format.h>

namespace stillpoint::coordinator::epochs {

std::set<Epoch> present_history(const Core& core, const JobRecord& job) { return present_history(core.catalog, job); }

std::set<Epoch> present_history(const CatalogState& catalog, const JobRecord& job) {
  // By incarnation, the newest first: the epochs that it took, up to the one that the next incarnation came from.
  std::set<Epoch> history;
  Incarnation incarnation = job.incarnation;
  Epoch from = job.restored_from;
  std::optional<Epoch> upto;
  for (;;) {
    for (const auto& [number, epoch] : catalog.epochs)
      if (epoch.job == job.job && epoch.incarnation == incarnation && (!upto || number <= *upto))
        history.insert(number);
    const auto source = catalog.epochs.find(from);
    if (source == catalog.epochs.end()) return history;
    if (upto && from >= *upto) return history;  // a record that makes no sense must not keep us here
    upto = from;
    incarnation = source->second.incarnation;
    from = source->second.restored_from;
  }
}

std::optional<Epoch> newest_committed(const Core& core, const JobRecord& job, std::optional<Epoch> before) {
  return newest_committed(core.catalog, job, before);
}

std::optional<Epoch> newest_committed(const CatalogState& catalog, const JobRecord& job, std::optional<Epoch> before) {
  std::optional<Epoch> newest;
  for (const auto number : present_history(catalog, job)) {
    const auto& epoch = catalog.epochs.at(number);
    if (epoch.state == EpochState::committed && !epoch.control && (!before || number < *before)) newest = number;
  }
  return newest;
}

std::string passed_over(const Core& core, const JobRecord& job, std::optional<Epoch> taken) {
  std::string text;
  for (const auto number : present_history(core, job)) {
    const auto& epoch = core.catalog.epochs.at(number);
    if (epoch.state != EpochState::damaged || epoch.control || (taken && number < *taken)) continue;
    text += fmt::format("{}checkpoint {} is damaged ({})", text.empty() ? "" : "; ", number.value, epoch.reason);
  }
  if (!text.empty() && taken) text += fmt::format("; checkpoint {} is taken instead", taken->value);
  return text;
}

Result<Epoch> choose(const Core& core, const JobRecord& job, std::optional<Epoch> from) {
  if (!from) {
    if (const auto newest = newest_committed(core, job)) return *newest;
    const std::string damaged = passed_over(core, job, std::nullopt);
    if (damaged.empty())
      return refused("restart", job.job.value, "the job has no committed checkpoint; submit it anew");
    return Error{ErrorKind::damaged, "restart", job.job.value,
                 fmt::format("it has no checkpoint that is whole: {}; once that is put right: stillpoint verify {}",
                             damaged, job.job.value)};
  }
  const auto found = core.catalog.epochs.find(*from);
  const std::string object = fmt::format("checkpoint {} of {}", from->value, job.job.value);
  if (found == core.catalog.epochs.end()) return Error{ErrorKind::not_found, "restart", object, "no such checkpoint"};
  const auto& epoch = found->second;
  if (epoch.job != job.job)
    return Error{ErrorKind::not_found, "restart", object,
                 fmt::format("no such checkpoint: {} is one of {}", from->value, epoch.job.value)};
  // The running gang would be given up for it.
  if (epoch.state == EpochState::damaged)
    return Error{
        ErrorKind::damaged, "restart", object,
        fmt::format("{}; once that is put right: stillpoint verify {} {}", epoch.reason, job.job.value, from->value)};
  if (epoch.state != EpochState::committed)
    return refused("restart", object,
                   fmt::format("it is {}{}", name(epoch.state), epoch.reason.empty() ? "" : ": " + epoch.reason));
  return *from;
}

}  // namespace stillpoint::coordinator::epochs
