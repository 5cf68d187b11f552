#include "coordinator/core/store_room.h"

#include <fmt/format.h>

namespace stillpoint::coordinator {
namespace {

std::string mib(std::uint64_t bytes) { return fmt::format("{} MiB", bytes >> 20); }

}  // namespace

std::string room_remedy(const Core& core) {
  struct Held {
    std::uint64_t bytes = 0, epochs = 0;
  };
  std::map<JobId, Held> by_job;
  for (const auto& [number, epoch] : core.catalog.epochs) {
    if (!has_images(epoch.state)) continue;
    by_job[epoch.job].bytes += epoch.bytes_stored;
    by_job[epoch.job].epochs += 1;
  }
  const JobRecord* most = nullptr;
  for (const auto& [id, held] : by_job)
    if (most == nullptr || held.bytes > by_job.at(most->job).bytes) most = &core.catalog.jobs.at(id);
  if (most == nullptr) return "no job holds checkpoints: make room there";
  const Held& held = by_job.at(most->job);
  const std::string text = fmt::format("job {} ({}) holds most, {} in {} checkpoint{}", most->job.value,
                                       most->spec.name, mib(held.bytes), held.epochs, held.epochs == 1 ? "" : "s");
  if (is_over(most->state)) return fmt::format("{}, and is over: stillpoint rm {}", text, most->job.value);
  if (held.epochs > 1) return fmt::format("{}: stillpoint prune {} --keep 1", text, most->job.value);
  return text + ": make room there, or remove jobs that are over: stillpoint rm";
}

std::optional<Error> store_full(const Core& core, const JobRecord& job) {
  for (const auto& name : core.gang_hosts(job)) {
    const auto found = core.hosts.find(name);
    if (found == core.hosts.end() || found->second.image_free >= found->second.store.reserve_bytes()) continue;
    return Error{
        ErrorKind::storage_full, "checkpoint", job.job.value,
        fmt::format("host {} has {} free for images and begins nothing with less than {}; {}", name.value,
                    mib(found->second.image_free), mib(found->second.store.reserve_bytes()), room_remedy(core))};
  }
  return std::nullopt;
}

}  // namespace stillpoint::coordinator
