#include "coordinator/core/output.h"

#include <fmt/format.h>

#include <algorithm>

#include "coordinator/core/finish.h"
#include "coordinator/core/restart.h"
#include "coordinator/core/start.h"
#include "coordinator/core/transfer.h"

namespace stillpoint::coordinator::output {
namespace {

// Given to the disk and not durable yet, of all jobs.
std::uint64_t undurable(const Core& core) {
  std::uint64_t sum = 0;
  for (const auto& [id, run] : core.runs)
    sum += run.output.received - std::min(run.output.received, run.output.durable);
  return sum;
}

void take(Core& core, const JobRecord& job, OutputRun& run, std::uint64_t offset, const std::string& data) {
  if (offset > run.received) return;  // a gap: the guest sends again what is not acknowledged
  const std::uint64_t end = offset + data.size();
  if (end <= run.received) {
    if (end <= run.durable) acknowledge(core, job);  // its acknowledgement was lost
    return;
  }
  // The disk is behind: the guest sends it again.
  if (end - run.durable > kUndurableOutputBytes || undurable(core) + (end - run.received) > kUndurableInAll) return;
  const std::uint64_t from = run.received;
  run.received = end;
  core.effects.push_back(AppendOutput{job.job, from, data.substr(from - offset)});
}

void drain_early(Core& core, const JobRecord& job, OutputRun& run) {
  const auto early = std::move(run.early);
  run.early.clear();
  run.early_bytes = 0;
  for (const auto& [offset, data] : early) take(core, job, run, offset, data);
}

}  // namespace

void on_output(Core& core, JobRecord& job, const wire::GuestOutput& message) {
  auto& run = core.run(job.job).output;
  const auto& piece = message.output();
  if (message.guest() != 0) return core.stale({}, job.job, {}, "output of a guest other than guest 0");
  if (run.known && !run.paused) return take(core, job, run, piece.offset(), piece.data());
  if (run.early_bytes + piece.data().size() > kEarlyOutputBytes) return;  // the guest sends it again
  run.early_bytes += piece.data().size();
  run.early.emplace_back(piece.offset(), piece.data());
}

void acknowledge(Core& core, const JobRecord& job) {
  const auto& run = core.run(job.job).output;
  const auto& host = core.host_of(job, 0);
  if (!run.known || run.paused || host.empty()) return;
  wire::ToHost message;
  message.mutable_gang()->set_job(job.job.value);
  message.mutable_gang()->set_incarnation(job.incarnation.value);
  message.mutable_ack_output()->set_offset(run.durable);
  core.send(host, std::move(message));
}

void on_durable(Core& core, const OutputDurable& event) {
  if (core.imports.contains(event.job)) return transfer::on_output(core, event);
  JobRecord* job = core.find(event.job);
  if (job == nullptr) {
    core.rejected += 1;
    return;
  }
  auto& run = core.run(event.job).output;
  if (run.truncating) {
    if (!event.cut) return;  // of an append before it
    run.truncating.reset();
    run.paused = false;
    run.known = true;
    run.received = run.durable = event.offset;
  } else if (!run.known) {
    run.known = true;
    run.received = run.durable = event.offset;
  } else {
    run.durable = std::max(run.durable, event.offset);
    run.received = std::max(run.received, run.durable);
  }
  run.measuring = false;
  run.failure.clear();
  if (!run.paused) drain_early(core, *job, run);
  if (holds_gang(job->state)) acknowledge(core, *job);
  start::on_output(core, *job);
  restart::on_output(core, *job);
  finish::on_output(core, *job);
}

void on_failed(Core& core, const OutputFailed& event) {
  if (core.imports.contains(event.job)) return transfer::on_output_failed(core, event);
  JobRecord* job = core.find(event.job);
  if (job == nullptr) {
    core.rejected += 1;
    return;
  }
  auto& run = core.run(event.job).output;
  // Tried again and again: told when it is new.
  if (const std::string why = event.error.message(); run.failure != why) {
    core.note(Log::Level::error, event.job, {}, {}, "output not stored", why);
    run.failure = why;
  }
  run.measuring = false;
  run.received = run.durable;  // taken again when the guest sends it again
  const bool cutting = run.truncating.has_value();
  run.truncating.reset();
  if (cutting) run.known = false;
  if (cutting) start::on_output_failed(core, *job, event.error);
  if (cutting) restart::on_output_failed(core, *job, event.error);
}

void measure(Core& core, const JobId& job) {
  auto& run = core.run(job).output;
  if (run.known || run.measuring) return;
  run.measuring = true;
  core.effects.push_back(MeasureOutput{job});
}

void tick(Core& core, const JobRecord& job) {
  auto& run = core.run(job.job).output;
  if (!holds_gang(job.state) || run.known || run.measuring || run.truncating || core.now < run.next_measure) return;
  run.next_measure = core.now + kRetry;
  measure(core, job.job);
}

void pause(Core& core, const JobId& job) {
  auto& run = core.run(job).output;
  run.paused = true;
  run.early.clear();
  run.early_bytes = 0;
}

void begin_at(Core& core, const JobRecord& job, Epoch epoch, std::uint64_t offset) {
  auto& run = core.run(job.job).output;
  run.paused = true;
  run.truncating = offset;
  core.effects.push_back(TruncateOutput{job.job, offset, epoch});
}

bool cut_back(const Core& core, const JobId& job) {
  const auto run = core.runs.find(job);
  return run != core.runs.end() && run->second.output.known && !run->second.output.paused;
}

}  // namespace stillpoint::coordinator::output
