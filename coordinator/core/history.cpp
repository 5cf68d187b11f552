#include "coordinator/core/history.h"

#include <fmt/format.h>

namespace stillpoint::coordinator::history {
namespace {

bool is_told(const Core& core, const JobRecord& job) {
  const auto told = core.told_jobs.find(job.job);
  return told != core.told_jobs.end() && told->second == job.state;
}

bool is_told(const Core& core, const EpochRecord& epoch) {
  const auto told = core.told_epochs.find(epoch.epoch);
  return told != core.told_epochs.end() && told->second == epoch.state;
}

Log log_of(Core& core, const JobRecord& job) {
  const auto level = job.state == JobState::failed ? Log::Level::error : Log::Level::info;
  return {level,
          line(core, {core.wall, job.job, {}, {}, fmt::format("job {}", coordinator::name(job.state)), job.reason})};
}

Log log_of(Core& core, const EpochRecord& epoch) {
  const bool well = epoch.state != EpochState::aborted && epoch.state != EpochState::damaged;
  return {
      well ? Log::Level::info : Log::Level::warn,
      line(core, {core.wall, epoch.job, {}, epoch.epoch, fmt::format("epoch {}", name(epoch.state)), epoch.reason})};
}

// The last transaction that has the record is the one that has its state: the line goes with it.
void add_missing(Core& core, Persist& persist, std::vector<Log>& logs) {
  std::vector<Log> missing;
  for (const CatalogChange& change : persist.changes) {
    if (const auto* put = std::get_if<PutJob>(&change)) {
      const JobRecord* job = core.find(put->job.job);
      if (job != nullptr && job->state == put->job.state && !is_told(core, *job)) missing.push_back(log_of(core, *job));
    } else if (const auto* epoch_put = std::get_if<PutEpoch>(&change)) {
      const auto epoch = core.catalog.epochs.find(epoch_put->epoch.epoch);
      if (epoch != core.catalog.epochs.end() && epoch->second.state == epoch_put->epoch.state &&
          !is_told(core, epoch->second))
        missing.push_back(log_of(core, epoch->second));
    }
  }
  for (Log& log : missing) {
    persist.changes.emplace_back(AddEvent{log.event});
    logs.push_back(std::move(log));
  }
}

void put_waiting(Core& core, Persist& persist) {
  std::vector<CatalogChange> rows;
  for (EventRecord& event : core.untold) rows.emplace_back(AddEvent{std::move(event)});
  core.untold.clear();
  persist.changes.insert(persist.changes.begin(), std::make_move_iterator(rows.begin()),
                         std::make_move_iterator(rows.end()));
}

void forget_removed(Core& core) {
  std::erase_if(core.told_jobs, [&](const auto& entry) { return !core.catalog.jobs.contains(entry.first); });
  std::erase_if(core.told_epochs, [&](const auto& entry) { return !core.catalog.epochs.contains(entry.first); });
}

}  // namespace

void take_up(Core& core) {
  for (const auto& [id, job] : core.catalog.jobs) core.told_jobs[id] = job.state;
  for (const auto& [number, epoch] : core.catalog.epochs) core.told_epochs[number] = epoch.state;
}

EventRecord line(Core& core, EventRecord event) {
  if (const JobRecord* job = core.find(event.job)) {
    event.incarnation = job->incarnation;
    event.job_state = core.told_jobs[event.job] = job->state;
  }
  if (const auto epoch = core.catalog.epochs.find(event.epoch); epoch != core.catalog.epochs.end())
    event.epoch_state = core.told_epochs[event.epoch] = epoch->second.state;
  return event;
}

void tell(Core& core, const JobRecord& job) {
  const auto told = core.told_jobs.find(job.job);
  if (told == core.told_jobs.end() || told->second == job.state) return;  // new: its first line follows
  Log log = log_of(core, job);
  core.persist(AddEvent{log.event});
  core.effects.emplace_back(std::move(log));
}

void complete(Core& core, bool flush) {
  std::vector<Log> logs;
  bool removed = false;
  Persist* first = nullptr;
  for (auto effect = core.effects.rbegin(); effect != core.effects.rend(); ++effect)
    if (auto* persist = std::get_if<Persist>(&*effect)) {
      first = persist;
      add_missing(core, *persist, logs);
      for (const CatalogChange& change : persist->changes) removed |= std::holds_alternative<DropJob>(change);
    }
  if (removed) forget_removed(core);
  if (!core.untold.empty() && first == nullptr && flush)
    first = &std::get<Persist>(core.effects.emplace_back(Persist{}));
  if (!core.untold.empty() && first != nullptr) put_waiting(core, *first);
  for (Log& log : logs) core.effects.emplace_back(std::move(log));
}

}  // namespace stillpoint::coordinator::history
