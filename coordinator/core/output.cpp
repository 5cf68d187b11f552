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

// A line that says so, and blank ones: offsets stay those of the program.
std::string filler(std::uint64_t lost, std::uint64_t at, std::uint64_t end) {
  const std::uint64_t bytes = std::min(end - at, kFillerBytes);
  const std::string line = at + lost == end ? fmt::format("[stillpoint: {} bytes of output are lost]", lost) : "";
  std::string text = line.size() < bytes ? line : "";
  text.append(bytes - text.size(), '\n');
  return text;
}

void fill(Core& core, const JobRecord& job, OutputRun& run, std::uint64_t lost) {
  std::string text = filler(lost, run.received, run.gap->end);
  const std::uint64_t from = run.received;
  run.received += text.size();
  core.effects.push_back(AppendOutput{job.job, from, std::move(text)});
}

// What lies before is sent no more: an earlier coordinator acknowledged it, and its files are lost. For a moment it may
// also look like that.
void on_gap(Core& core, const JobRecord& job, OutputRun& run, std::uint64_t offset) {
  if (!run.gap) run.gap = OutputRun::Gap{core.now, offset};
  auto& gap = *run.gap;
  if (gap.filling) return;
  gap.end = std::min(gap.end, offset);
  if (core.now < gap.since + kOutputGap || run.durable < run.received) return;
  const std::uint64_t lost = gap.end - run.received;
  if (lost > kMostFiller) {
    gap.since = core.now + kOutputTold;
    return core.note(Log::Level::error, job.job, {}, {}, "output not stored",
                     fmt::format("{} bytes from byte {} on are lost, too many to go on behind them; stop the job, or "
                                 "restart it from an older checkpoint with --from",
                                 lost, run.received));
  }
  gap.filling = true;
  core.note(Log::Level::error, job.job, {}, {}, "output lost",
            fmt::format("{} bytes from byte {} on: they are not stored here, and the job has them no more", lost,
                        run.received));
  fill(core, job, run, lost);
}

void take(Core& core, const JobRecord& job, OutputRun& run, std::uint64_t offset, const std::string& data) {
  if (offset > run.received) return on_gap(core, job, run, offset);  // it sends again what is not acknowledged
  if (run.gap && !run.gap->filling) run.gap.reset();                 // it has what comes next, taken now or not
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
    if (event.cut != *run.truncating) return;  // of what was asked before it
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
  if (run.gap && run.gap->filling && run.durable == run.received) {
    if (run.received < run.gap->end) return fill(core, *job, run, 0);
    run.gap.reset();
  }
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
  run.gap.reset();
  if (!run.truncating || event.cut != *run.truncating) return;
  run.truncating.reset();
  run.known = false;
  start::on_output_failed(core, *job, event.error);
  restart::on_output_failed(core, *job, event.error);
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
  run.truncating.reset();  // an earlier incarnation's
  run.gap.reset();
  run.early.clear();
  run.early_bytes = 0;
}

void begin_at(Core& core, const JobRecord& job, Epoch epoch, std::uint64_t offset) {
  auto& run = core.run(job.job).output;
  if (!run.paused) pause(core, job.job);  // what was put by until now is of before
  run.truncating = ++run.truncations;
  core.effects.push_back(TruncateOutput{job.job, offset, epoch, run.truncations});
}

bool cut_back(const Core& core, const JobId& job) {
  const auto run = core.runs.find(job);
  return run != core.runs.end() && run->second.output.known && !run->second.output.paused;
}

}  // namespace stillpoint::coordinator::output
