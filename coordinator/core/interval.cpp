#include "coordinator/core/interval.h"

#include <algorithm>
#include <cmath>

#include "coordinator/core/epochs.h"
#include "coordinator/core/hosts.h"

namespace stillpoint::coordinator::interval {
namespace {

constexpr std::chrono::seconds kLongAgo{365 * 86'400};
constexpr int kSooner = 8;  // a part of the interval until an attempt that failed is made again, and
constexpr std::chrono::milliseconds kLeastRetry{10'000};

void measure_epochs(const Core& core, const JobRecord& job, IntervalView& view) {
  double stall = 0, commit = 0;
  for (auto entry = core.catalog.epochs.rbegin(); entry != core.catalog.epochs.rend(); ++entry) {
    const EpochRecord& epoch = entry->second;
    const bool measured =
        epoch.commit_ms > 0 && !epoch.control && (has_images(epoch.state) || epoch.state == EpochState::pruned);
    if (epoch.job != job.job || !measured) continue;
    stall += epoch.stall_ms;
    commit += epoch.commit_ms;
    if (++view.epochs == kMeasured) break;
  }
  if (view.epochs == 0) return;
  view.stall_ms = stall / view.epochs;
  view.commit_ms = commit / view.epochs;
  view.cost_ms = view.stall_ms + kUploadShare * view.commit_ms;
}

void observe_hosts(const Core& core, const JobRecord& job, IntervalView& view) {
  double rate = 0;
  for (const auto& host : core.gang_hosts(job)) {
    const auto record = core.catalog.hosts.find(host);
    if (record == core.catalog.hosts.end()) continue;
    const double watched = static_cast<double>(hosts::watched_seconds(core, host));
    view.failures += record->second.failures;
    view.watched_seconds += watched;
    rate += (record->second.failures + kPriorFailures) / (watched + kPriorTime);
  }
  if (rate > 0) view.mtbf_seconds = 1 / rate;
}

std::chrono::milliseconds length(const Core& core, const JobRecord& job) {
  const auto planned = view(core, job);
  if (!planned) return {};
  return std::chrono::milliseconds(static_cast<std::int64_t>(planned->seconds * 1000));
}

}  // namespace

double optimum(double cost, double mtbf) {
  if (cost >= 2 * mtbf) return mtbf;
  const double part = cost / (2 * mtbf);
  return std::sqrt(2 * cost * mtbf) * (1 + std::sqrt(part) / 3 + part / 9) - cost;
}

std::optional<IntervalView> view(const Core& core, const JobRecord& job) {
  IntervalView view;
  if (job.spec.interval_seconds) {
    view.seconds = *job.spec.interval_seconds;
    return view;
  }
  if (!job.spec.interval_auto) return std::nullopt;
  view.automatic = true;
  measure_epochs(core, job, view);
  observe_hosts(core, job, view);
  view.seconds = kFirstInterval;
  if (view.epochs > 0 && view.mtbf_seconds > 0)
    view.seconds = std::clamp(optimum(view.cost_ms / 1000, view.mtbf_seconds),
                              std::clamp(view.commit_ms / 1000, kLeastInterval, kMostInterval), kMostInterval);
  return view;
}

void plan_next(Core& core, const JobRecord& job) { core.run(job.job).next_checkpoint = core.now + length(core, job); }

void plan_after_restart(Core& core, const JobRecord& job) {
  auto& run = core.run(job.job);
  run.quiet_until = core.now + kQuiet;
  run.next_checkpoint = std::max(core.now + length(core, job), run.quiet_until);
}

void plan_after_commit(Core& core, const JobRecord& job, Time begun) {
  if (job.spec.interval_auto) core.run(job.job).next_checkpoint = begun + length(core, job);
}

void plan_after_abort(Core& core, const JobRecord& job) {
  auto& next = core.run(job.job).next_checkpoint;
  const auto whole = length(core, job);
  next = std::min(next, core.now + std::clamp(whole / kSooner, std::min(whole, kLeastRetry), whole));
}

void plan_after_recovery(Core& core, const JobRecord& job) {
  auto& run = core.run(job.job);
  run.quiet_until = core.now + kQuiet;
  const auto newest = epochs::newest_committed(core, job);
  const auto age =
      newest ? std::chrono::seconds(core.wall - core.catalog.epochs.at(*newest).time) : std::chrono::seconds(0);
  const std::chrono::milliseconds left = length(core, job) - std::clamp(age, std::chrono::seconds(0), kLongAgo);
  run.next_checkpoint = std::max(core.now + left, run.quiet_until);
}

bool due(Core& core, const JobRecord& job) {
  return (job.spec.interval_seconds || job.spec.interval_auto) && !quiet(core, job) &&
         core.now >= core.run(job.job).next_checkpoint;
}

bool quiet(Core& core, const JobRecord& job) { return core.now < core.run(job.job).quiet_until; }

}  // namespace stillpoint::coordinator::interval
