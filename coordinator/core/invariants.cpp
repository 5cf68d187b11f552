#include "coordinator/core/invariants.h"

#include <fmt/format.h>

#include <cassert>

namespace stillpoint::coordinator {
namespace {

bool may_follow(EpochState before, EpochState after) {
  switch (before) {
    // Committed at once when the last release is answered after the last image is durable.
    case EpochState::attempted: return after != EpochState::pruned && after != EpochState::damaged;
    case EpochState::captured: return after == EpochState::committed || after == EpochState::aborted || after == before;
    case EpochState::committed:
    case EpochState::damaged: return has_images(after) || after == EpochState::pruned;
    case EpochState::aborted:
    case EpochState::pruned: return after == before;
  }
  return false;
}

bool is_at_its_end(const JobRecord& job) { return job.state == JobState::completed && job.missing_outputs.empty(); }

std::set<std::uint32_t> guests_of(const std::vector<wire::GuestImage>& images) {
  std::set<std::uint32_t> guests;
  for (const auto& image : images) guests.insert(image.guest());
  return guests;
}

}  // namespace

Invariants::Invariants(const CatalogState& begin) : next_epoch_(begin.next_epoch), next_job_(begin.next_job) {
  for (const auto& [number, epoch] : begin.epochs) epochs_[number] = epoch.state;
  for (const auto& [id, job] : begin.jobs) jobs_[id] = {job.incarnation, is_at_its_end(job), job.state};
}

void Invariants::expect(bool holds, const std::string& what) {
  if (!holds) broken_.push_back(what);
}

void Invariants::check_job(const Core& core, const JobRecord& job) {
  const std::string who = "job " + job.job.value;
  const auto run = core.runs.find(job.job);
  const bool has_run = run != core.runs.end();
  const JobRun none;
  const JobRun& r = has_run ? run->second : none;
  const int machines = int{r.start.has_value()} + int{r.restart.has_value()} + int{r.finish.has_value()};
  expect(machines <= 1, who + " is started, restarted and ended at the same time");
  expect(!r.checkpoint || machines == 0, who + " has a checkpoint under way beside a start, restart or end");
  expect(!r.checkpoint || job.attempt == r.checkpoint->epoch,
         who + ": the attempt in the record is not the one under way");
  expect(!job.attempt || r.checkpoint || !core.recovered, who + " names an attempt that nobody drives");
  expect(
      (job.state == JobState::checkpointing) == (r.checkpoint && r.checkpoint->phase != CheckpointRun::Phase::upload),
      who + ": state checkpointing and the attempt's phase differ");
  expect(
      (job.state == JobState::restarting) == (r.restart.has_value() || (r.finish && job.state == JobState::restarting)),
      who + " is restarting and nobody drives it");
  expect(job.state != JobState::starting || r.start || r.finish, who + " is starting and nobody drives it");
  expect(!is_over(job.state) || machines == 0, who + " is over and still driven");
  expect(job.state != JobState::running || job.placement.size() == job.spec.guests,
         who + " runs without a place for each guest");
  std::set<std::uint64_t> guests;
  for (const auto& place : job.placement) guests.insert(place.guest.value);
  expect(guests.size() == job.placement.size(), who + " places a guest twice");
  expect(job.state != JobState::completed || job.exit_code.has_value(), who + " is completed without an exit code");

  const auto before = jobs_.find(job.job);
  if (before == jobs_.end()) return;
  expect(job.incarnation >= before->second.incarnation, who + ": its incarnation went back");
  expect(!before->second.at_its_end || job.state == JobState::completed, who + " left the state completed");
}

void Invariants::check_epoch(const Core& core, const EpochRecord& epoch) {
  const std::string who = fmt::format("epoch {}", epoch.epoch.value);
  const auto before = epochs_.find(epoch.epoch);
  expect(epoch.epoch < core.catalog.next_epoch, who + " is not below the counter");
  if (before == epochs_.end()) {
    // Nothing was attempted here of one that is imported, or found again: it has had its number since before.
    const auto whose = core.catalog.jobs.find(epoch.job);
    const bool is_known = jobs_.contains(epoch.job) && whose != core.catalog.jobs.end() && !whose->second.anywhere;
    const bool came_whole = epoch.state == EpochState::committed && !is_known;
    expect(epoch.epoch >= next_epoch_ || came_whole, who + " was handed out twice");
    expect(epoch.state == EpochState::attempted || epoch.state == EpochState::aborted || came_whole,
           who + " begins as " + std::string(name(epoch.state)));
  } else {
    expect(may_follow(before->second, epoch.state),
           fmt::format("{} went from {} to {}", who, name(before->second), name(epoch.state)));
    if (before->second == epoch.state) return;
  }
  const auto job = core.catalog.jobs.find(epoch.job);
  expect(job != core.catalog.jobs.end(), who + " has no job");
  if (job == core.catalog.jobs.end()) return;
  const auto guests = job->second.spec.guests;
  if (epoch.state == EpochState::captured || has_images(epoch.state))
    expect(epoch.cut.size() == guests, who + " has no cut of each guest");
  if (has_images(epoch.state))
    expect(guests_of(epoch.images).size() == guests, who + " is committed without an image of each guest");
}

// Persist before send: what a message names is in the catalog before.
void Invariants::check_order(const Core& core, const Effects& effects) {
  std::set<std::uint64_t> epochs_later;
  for (auto effect = effects.rbegin(); effect != effects.rend(); ++effect) {
    if (const auto* persist = std::get_if<Persist>(&*effect))
      for (const auto& change : persist->changes) {
        if (const auto* put = std::get_if<PutEpoch>(&change))
          if (put->epoch.state == EpochState::attempted) epochs_later.insert(put->epoch.epoch.value);
      }
    if (const auto* send = std::get_if<Send>(&*effect)) {
      expect(!epochs_later.contains(send->message.epoch()),
             fmt::format("epoch {} is sent before it is persisted", send->message.epoch()));
      const auto job = core.catalog.jobs.find(JobId{send->message.gang().job()});
      if (job != core.catalog.jobs.end() && !send->message.has_destroy())
        expect(send->message.gang().incarnation() <= job->second.incarnation.value,
               "an incarnation is named that is not in the catalog");
    }
  }
}

// Every change of state is a line of history.
void Invariants::check_history(const Core& core, const Effects& effects) {
  std::set<std::pair<JobId, JobState>> jobs;
  std::set<std::pair<Epoch, EpochState>> epochs;
  for (const auto& effect : effects)
    if (const auto* persist = std::get_if<Persist>(&effect))
      for (const auto& change : persist->changes)
        if (const auto* add = std::get_if<AddEvent>(&change)) {
          if (add->event.job_state) jobs.emplace(add->event.job, *add->event.job_state);
          if (add->event.epoch_state) epochs.emplace(add->event.epoch, *add->event.epoch_state);
        }
  for (const auto& [id, job] : core.catalog.jobs) {
    const auto before = jobs_.find(id);
    const bool is_told = (before != jobs_.end() && before->second.state == job.state) || jobs.contains({id, job.state});
    if (!is_told) expect(false, fmt::format("no line of history says that job {} is {}", id.value, name(job.state)));
  }
  for (const auto& [number, epoch] : core.catalog.epochs) {
    const auto before = epochs_.find(number);
    const bool is_told =
        (before != epochs_.end() && before->second == epoch.state) || epochs.contains({number, epoch.state});
    if (!is_told)
      expect(false, fmt::format("no line of history says that epoch {} is {}", number.value, name(epoch.state)));
  }
}

void Invariants::check(const Core& core, const Effects& effects) {
  for (const auto& [id, job] : core.catalog.jobs) check_job(core, job);
  for (const auto& [number, epoch] : core.catalog.epochs) check_epoch(core, epoch);
  check_order(core, effects);
  check_history(core, effects);
  expect(core.catalog.next_epoch >= next_epoch_ && core.catalog.next_job >= next_job_, "a counter went back");
  for (const auto& [id, request] : core.requests)
    expect(request.owner == Owner::background || request.owner == Owner::transfer || request.owner == Owner::rebuild ||
               core.catalog.jobs.contains(request.job),
           "a request of a job that is not there");
  for (const auto& [id, request] : core.requests) {
    const auto waiting = core.unsent.find(request.host);
    expect(request.sent_on || (waiting != core.unsent.end() && waiting->second.contains(id)),
           "a request that nobody will send");
  }

  next_epoch_ = core.catalog.next_epoch;
  next_job_ = core.catalog.next_job;
  epochs_.clear();
  jobs_.clear();
  for (const auto& [number, epoch] : core.catalog.epochs) epochs_[number] = epoch.state;
  for (const auto& [id, job] : core.catalog.jobs) jobs_[id] = {job.incarnation, is_at_its_end(job), job.state};
  assert(broken_.empty());
}

}  // namespace stillpoint::coordinator
