#include "coordinator/core/commit.h"

#include <fmt/format.h>

#include "coordinator/core/automatic.h"
#include "coordinator/core/checkpoint.h"
#include "coordinator/core/checkpoint_records.h"
#include "coordinator/core/interval.h"
#include "coordinator/core/leftovers.h"
#include "coordinator/core/prune.h"

namespace stillpoint::coordinator::checkpoint {
namespace {

void commit(Core& core, JobRecord& job, CheckpointRun run) {
  core.run(job.job).checkpoint.reset();
  auto& epoch = core.epoch(run.epoch);
  epoch.state = EpochState::committed;
  epoch.restored_from = job.restored_from;
  for (auto& [guest, image] : run.images) {
    epoch.bytes_raw += image.memory().raw_bytes() + image.disk().raw_bytes();
    epoch.bytes_stored += image.memory().stored_bytes() + image.disk().stored_bytes();
    epoch.images.push_back(std::move(image));
  }
  add_phase(run.phases, name(run.phase), ms_between(run.since, core.now));
  epoch.phases = std::move(run.phases);
  epoch.commit_ms = ms_between(run.asked, core.now);
  job.attempt.reset();
  automatic::got_further(job);
  core.save(epoch);
  core.save(job);
  interval::plan_after_commit(core, job, run.asked);
  core.note(Log::Level::info, job.job, {}, run.epoch, "epoch committed",
            fmt::format("{} bytes stored", epoch.bytes_stored));
  core.effects.push_back(JobChanged{job.job});
  if (run.request) core.reply(*run.request, CheckpointTaken{epoch});
  checkpoint_records::changed(core, epoch);
  prune::after_commit(core, job);
}

}  // namespace

std::string missing_images(Core& core, const JobRecord& job) {
  const auto& run = *core.run(job.job).checkpoint;
  std::string text;
  for (const auto& place : job.placement)
    if (!run.images.contains(static_cast<std::uint32_t>(place.guest.value)))
      text += fmt::format("{}guest {} on {}", text.empty() ? "" : ", ", place.guest.value, place.host.value);
  return text;
}

void commit_if_complete(Core& core, JobRecord& job) {
  auto& run = core.run(job.job).checkpoint;
  if (!run || run->phase != CheckpointRun::Phase::upload || run->images.size() < job.spec.guests) return;
  commit(core, job, std::move(*run));
}

void on_images(Core& core, const HostName& host, const wire::FromHost& message) {
  const JobId id{message.gang().job()};
  const Epoch number{message.epoch()};
  JobRecord* job = core.find(id);
  auto* run = job != nullptr && core.run(id).checkpoint ? &*core.run(id).checkpoint : nullptr;
  if (run == nullptr || run->epoch != number || message.gang().incarnation() != job->incarnation.value) {
    const auto known = core.catalog.epochs.find(number);
    if (known != core.catalog.epochs.end() && has_images(known->second.state)) return;  // said once more
    // One that was never heard of is nobody's to delete until its job is removed: the catalog may have been put back
    // from an older copy.
    const bool deleted = leftovers::known_deleted(core, id, number);
    core.stale(
        host, id, number,
        std::string("images of an epoch that will not be committed; they ") + (deleted ? "are deleted" : "stay"));
    if (deleted) core.delete_images(Owner::background, id, {number});
    else leftovers::on_unheard_of(core, id, number);
    return;
  }
  using Phase = CheckpointRun::Phase;
  const bool early = run->phase == Phase::examine || run->phase == Phase::prepare || run->phase == Phase::close ||
                     run->phase == Phase::reopen || run->phase == Phase::defer || run->phase == Phase::drain;
  if (early) return core.stale(host, id, number, "images before anything was captured");
  const auto& report = message.images();
  if (message.has_failure() || report.has_failure()) {
    Error error = host_failure(report.has_failure() ? report.failure() : message.failure());
    error.object += " on " + host.value;
    return abort(core, *job, error);
  }
  for (const auto& image : report.images()) {
    if (core.host_of(*job, image.guest()) != host)
      return core.stale(host, id, number, "an image of a guest that is not there");
    run->images[image.guest()] = image;
  }
  commit_if_complete(core, *job);
}

void await_images(Core& core, JobRecord& job, Epoch number) {
  auto& run = core.run(job.job).checkpoint.emplace();
  run.phase = CheckpointRun::Phase::upload;
  run.epoch = number;
  run.shut = run.since = core.now;
  run.asked = core.now - std::chrono::seconds(std::max<WallSeconds>(0, core.wall - core.epoch(number).time));
  run.deadline = core.now + core.settings.upload_deadline + core.time_to_store(job);
}

}  // namespace stillpoint::coordinator::checkpoint
