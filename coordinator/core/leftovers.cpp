#include "coordinator/core/leftovers.h"

#include <fmt/format.h>

#include <algorithm>

namespace stillpoint::coordinator::leftovers {
namespace {

constexpr int kEpochsOfOneRequest = 1'000;
constexpr std::size_t kMostUnheardOf = 10'000;                 // of one job: what a host says is not worth more memory
constexpr std::uint64_t kMostNumber = std::uint64_t{1} << 40;  // none comes near the end of what a catalog can count

}  // namespace

bool known_deleted(const Core& core, const JobId& job, Epoch epoch) {
  if (epoch >= core.catalog.next_epoch || core.imports.contains(job)) return false;
  if (core.catalog.jobs.contains(job)) {
    if (const auto run = core.runs.find(job); run != core.runs.end() && run->second.remove) return true;
    const auto known = core.catalog.epochs.find(epoch);
    return known != core.catalog.epochs.end() && known->second.job == job &&
           (known->second.state == EpochState::aborted || known->second.state == EpochState::pruned);
  }
  const auto number = number_of(job);
  return number && *number < core.catalog.next_job && !was_lost(core.catalog, *number);
}

namespace {

void add_lost(Core& core, std::uint64_t first, std::uint64_t last) {
  core.catalog.lost_jobs.push_back({first, last});
  core.persist(AddLostJobs{{first, last}});
}

// Numbers beyond what was given out: the catalog was put back from an older copy, which leapt ahead, but not far
// enough. Whose they are is not known to be removed, whatever the copy says.
void learn(Core& core, const wire::HeldImages& held) {
  const std::uint64_t first_job = core.catalog.next_job;
  const Epoch first_epoch = core.catalog.next_epoch;
  for (const auto& theirs : held.jobs()) {
    const JobId job{theirs.job()};
    const auto number = number_of(job);
    if (!number || *number >= kMostNumber) continue;
    bool is_beyond = false;
    for (const auto epoch : theirs.epochs()) {
      if (epoch < first_epoch.value || epoch >= kMostNumber) continue;
      is_beyond = true;
      core.catalog.next_epoch = std::max(core.catalog.next_epoch, Epoch{epoch + 1});
    }
    core.catalog.next_job = std::max(core.catalog.next_job, *number + 1);
    if (is_beyond && *number < first_job && !core.catalog.jobs.contains(job) && !was_lost(core.catalog, *number))
      add_lost(core, *number, *number);
  }
  if (core.catalog.next_job > first_job) add_lost(core, first_job, core.catalog.next_job - 1);
  if (core.catalog.next_job > first_job || core.catalog.next_epoch > first_epoch) core.save_counters();
}

}  // namespace

void on_unheard_of(Core& core, const JobId& job, Epoch epoch) {
  const auto number = number_of(job);
  if (!number || *number >= kMostNumber || epoch.value >= kMostNumber) return;
  if (core.catalog.epochs.contains(epoch) || core.imports.contains(job)) return;
  if (auto& epochs = core.unheard_of[job]; epochs.size() < kMostUnheardOf) epochs.insert(epoch);
}

std::vector<Epoch> epochs_with_images(const Core& core, const JobId& job) {
  std::set<Epoch> epochs;
  if (const auto theirs = core.unheard_of.find(job); theirs != core.unheard_of.end()) epochs = theirs->second;
  for (const auto& [number, epoch] : core.catalog.epochs)
    if (epoch.job == job) epochs.insert(number);
    else epochs.erase(number);
  return {epochs.begin(), epochs.end()};
}

void on_held(Core& core, const HostName& host, const wire::HeldImages& held) {
  learn(core, held);
  for (const auto& theirs : held.jobs()) {
    const JobId job{theirs.job()};
    wire::DeleteImages gone;
    for (const auto epoch : theirs.epochs()) {
      if (!known_deleted(core, job, Epoch{epoch})) on_unheard_of(core, job, Epoch{epoch});
      else if (gone.epochs_size() < kEpochsOfOneRequest) gone.add_epochs(epoch);
    }
    if (gone.epochs_size() == 0) continue;  // of more than one request takes, the rest goes after the next hello
    core.effects.push_back(
        Log{Log::Level::info, EventRecord{core.wall,
                                          job,
                                          host,
                                          {},
                                          "deleted images still held",
                                          fmt::format("of {} checkpoints; they go now", gone.epochs_size())}});
    // What this host was still storing when its epoch was given up, a partner may have got a copy of after it had
    // deleted what it had. So all are asked, once for all that say so at the time.
    if (core.hosts.at(host).hello.store_is_own()) {
      for (const auto epoch : gone.epochs()) core.left_over[job].insert(Epoch{epoch});
      continue;
    }
    core.ask(Owner::background, host, job, Incarnation{}, Epoch{},
             [&](wire::ToHost& m) { *m.mutable_delete_images() = gone; });
  }
}

void tick(Core& core) {
  for (const auto& [job, epochs] : std::exchange(core.left_over, {}))
    core.delete_images(Owner::background, job, {epochs.begin(), epochs.end()});
}

}  // namespace stillpoint::coordinator::leftovers
