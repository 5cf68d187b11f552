#include "coordinator/core/leftovers.h"

#include <fmt/format.h>

#include <charconv>

namespace stillpoint::coordinator::leftovers {
namespace {

constexpr int kEpochsOfOneRequest = 1'000;

// "j7" → 7; nothing if it is no id that a catalog made.
std::optional<std::uint64_t> number_of(const std::string& job) {
  std::uint64_t number = 0;
  const char* const end = job.data() + job.size();
  if (job.size() < 2 || job[0] != 'j' || job[1] == '0') return std::nullopt;
  const auto parsed = std::from_chars(job.data() + 1, end, number);
  if (parsed.ec != std::errc{} || parsed.ptr != end) return std::nullopt;
  return number;
}

}  // namespace

bool known_deleted(const Core& core, const JobId& job, Epoch epoch) {
  if (epoch >= core.catalog.next_epoch || core.imports.contains(job)) return false;
  if (core.catalog.jobs.contains(job)) {
    const auto known = core.catalog.epochs.find(epoch);
    return known != core.catalog.epochs.end() && known->second.job == job &&
           (known->second.state == EpochState::aborted || known->second.state == EpochState::pruned);
  }
  const auto number = number_of(job.value);
  return number && *number < core.catalog.next_job;
}

void on_held(Core& core, const HostName& host, const wire::HeldImages& held) {
  for (const auto& theirs : held.jobs()) {
    const JobId job{theirs.job()};
    wire::DeleteImages gone;
    for (const auto epoch : theirs.epochs())
      if (gone.epochs_size() < kEpochsOfOneRequest && known_deleted(core, job, Epoch{epoch})) gone.add_epochs(epoch);
    if (gone.epochs_size() == 0) continue;  // of more than one request takes, the rest goes after the next hello
    core.effects.push_back(
        Log{Log::Level::info, EventRecord{core.wall,
                                          job,
                                          host,
                                          {},
                                          "deleted images still held",
                                          fmt::format("of {} checkpoints; they go now", gone.epochs_size())}});
    core.ask(Owner::background, host, job, Incarnation{}, Epoch{}, [&](wire::ToHost& m) {
      *m.mutable_delete_images() = gone;
      m.mutable_delete_images()->set_all_hosts(core.hosts.at(host).hello.store_is_own());  // copies too
    });
  }
}

}  // namespace stillpoint::coordinator::leftovers
