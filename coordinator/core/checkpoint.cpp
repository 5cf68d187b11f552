#include "coordinator/core/checkpoint.h"

#include <fmt/format.h>

#include "coordinator/core/commit.h"
#include "coordinator/core/cut.h"
#include "coordinator/core/ranks.h"

namespace stillpoint::coordinator::checkpoint {
namespace {

using Phase = CheckpointRun::Phase;

void enter(Core& core, CheckpointRun& run, Phase phase) {
  if (core.now > run.since || run.phase != phase)
    add_phase(run.phases, name(run.phase), ms_between(run.since, core.now));
  run.phase = phase;
  run.since = core.now;
}

// Asks the hosts whose turn it is: all of them, or in the control the next one.
template <class Fill>
void ask_hosts(Core& core, const JobRecord& job, CheckpointRun& run, Fill fill) {
  const auto each = [&](wire::ToHost& m, const HostName&) { fill(m); };
  if (!run.gap) return core.ask_gang(Owner::checkpoint, job, run.epoch, run.waiting, each);
  const auto& host = run.turns.at(run.turn);
  run.waiting = {host};
  core.ask(Owner::checkpoint, host, job.job, job.incarnation, run.epoch, fill);
}

void close(Core& core, JobRecord& job, CheckpointRun& run) {
  run.phase = Phase::close;
  run.deadline = core.now + core.settings.drain_deadline + kAnswerSlack;
  ask_hosts(core, job, run, [&](wire::ToHost& m) {
    auto& body = *m.mutable_close();
    body.set_deadline_ms(static_cast<std::uint32_t>(core.settings.drain_deadline.count()));
    body.set_hold_ms(static_cast<std::uint32_t>(core.settings.hold.count()));
    for (auto ranks : job.spec.ranks_per_guest) body.add_ranks_per_guest(ranks);
  });
}

void count(Core& core, JobRecord& job, CheckpointRun& run) {
  run.previous = std::move(run.current);
  run.current.clear();
  run.round += 1;
  ask_hosts(core, job, run, [&](wire::ToHost& m) { m.mutable_count()->set_round(run.round); });
}

void freeze(Core& core, JobRecord& job, CheckpointRun& run) {
  enter(core, run, Phase::freeze);
  if (!run.gap) run.cuts.clear();
  run.problems.clear();
  if (run.gap) run.deadline = core.now + core.settings.drain_deadline + kAnswerSlack;
  ask_hosts(core, job, run,
            [](wire::ToHost& m) { m.mutable_freeze()->set_settle_ms(static_cast<std::uint32_t>(kSettle.count())); });
}

void capture(Core& core, JobRecord& job, CheckpointRun& run) {
  enter(core, run, Phase::capture);
  run.deadline = core.now + core.settings.capture_deadline;
  ask_hosts(core, job, run, [](wire::ToHost& m) { m.mutable_capture(); });
}

void release(Core& core, JobRecord& job, CheckpointRun& run) {
  enter(core, run, Phase::release);
  run.deadline = core.now + core.settings.capture_deadline;
  ask_hosts(core, job, run, [](wire::ToHost& m) { m.mutable_release()->set_discard(false); });
}

// What keeps the gang from coming to rest, for the user.
std::string unrest(const Core& core, const JobRecord& job, const CheckpointRun& run) {
  std::string text;
  const auto& rounds = run.current.empty() ? run.previous : run.current;
  for (const auto& [guest, figures] : rounds) {
    if (!figures.busy() && figures.in_flight() == 0) continue;
    text += fmt::format("; guest {} on {} {}, {} bytes in flight", guest, core.host_of(job, guest).value,
                        figures.busy() ? "is busy" : "is not at rest", figures.in_flight());
    for (const auto& rank : figures.ranks())
      if (rank.state() == wire::RankReport::DEFERRING || rank.state() == wire::RankReport::STARTING)
        text += fmt::format(", rank {} is in {}", rank.rank(), rank.call().empty() ? "its start" : rank.call());
  }
  return text;
}

// The cut is there from every host: is it one?
void verify(Core& core, JobRecord& job, CheckpointRun& run) {
  run.verified += 1;
  if (run.problems.empty()) {
    std::vector<wire::GuestCut> cuts;
    for (const auto& [guest, cut] : run.cuts) cuts.push_back(cut);
    run.problems = cut_problems(cuts, job.spec.guests);
  }
  if (run.problems.empty()) return capture(core, job, run);
  const std::string what =
      fmt::format("cut {} of {} is not quiet: {}", run.verified, core.settings.verify_attempts, summary(run.problems));
  if (run.verified >= core.settings.verify_attempts)
    return abort(core, job, Error{ErrorKind::not_quiet, "verify", fmt::format("epoch {}", run.epoch.value), what});
  core.note(Log::Level::warn, job.job, {}, run.epoch, "verify failed", what);
  enter(core, run, Phase::thaw);
  ask_hosts(core, job, run, [](wire::ToHost& m) { m.mutable_thaw(); });
}

void captured(Core& core, JobRecord& job, CheckpointRun& run) {
  if (!run.all_held && !run.gap)
    return abort(core, job,
                 Error{ErrorKind::deadline, "release", fmt::format("epoch {}", run.epoch.value),
                       "a guest had let go by itself before all were captured"});
  enter(core, run, Phase::upload);
  run.waiting.clear();
  run.deadline = core.now + core.settings.upload_deadline;
  auto& epoch = core.epoch(run.epoch);
  core.effects.push_back(KeepOutput{job.job, run.epoch});
  epoch.state = EpochState::captured;
  epoch.stall_ms = ms_between(run.shut, core.now);
  for (const auto& [guest, cut] : run.cuts) {
    epoch.cut.push_back(cut);
    epoch.output_offset = std::max<std::uint64_t>(epoch.output_offset, cut.output_offset());
  }
  for (const auto& [phase, ms] : run.phases.phases)
    if (phase == "capture") epoch.capture_ms = ms;
  core.save(epoch);
  core.set_state(job, JobState::running, "");
  core.note(Log::Level::info, job.job, {}, run.epoch, "epoch captured", fmt::format("stall {} ms", epoch.stall_ms));
  commit_if_complete(core, job);
}

void all_answered(Core& core, JobRecord& job, CheckpointRun& run) {
  switch (run.phase) {
    case Phase::close: enter(core, run, Phase::drain); return count(core, job, run);
    case Phase::drain:
      if (rounds_equal(run.previous, run.current)) return freeze(core, job, run);
      return count(core, job, run);
    case Phase::freeze:
      if (run.gap) return capture(core, job, run);
      return verify(core, job, run);
    case Phase::thaw:
      enter(core, run, Phase::drain);
      run.current.clear();
      return count(core, job, run);
    case Phase::capture: return release(core, job, run);
    case Phase::release:
      if (!run.gap || run.turn + 1 == run.turns.size()) return captured(core, job, run);
      run.turn += 1;
      enter(core, run, Phase::gap);
      run.deadline = core.now + *run.gap;
      return;
    case Phase::upload:
    case Phase::gap: return;  // nothing was asked
  }
}

// Puts the answer where its phase wants it; false when it is none for this phase.
bool take(Core& core, JobRecord& job, CheckpointRun& run, const Request& request, const wire::FromHost& answer) {
  const auto ours = [&](std::uint32_t guest) { return core.host_of(job, guest) == request.host; };
  switch (run.phase) {
    case Phase::close:
    case Phase::drain:
      if (!answer.has_round()) return false;
      for (const auto& guest : answer.round().guests()) {
        if (!ours(guest.guest())) return false;
        run.current[guest.guest()] = guest.figures();
        ranks::learn(core, job, guest.figures().ranks());
      }
      return true;
    case Phase::freeze:
      if (!answer.has_cut()) return false;
      for (const auto& guest : answer.cut().guests()) {
        if (!ours(guest.guest())) return false;
        run.cuts[guest.guest()] = guest;
        ranks::learn(core, job, guest.ranks());
      }
      return true;
    case Phase::thaw: return answer.has_done();
    case Phase::capture: return answer.has_capture();
    case Phase::release:
      if (!answer.has_release()) return false;
      run.all_held = run.all_held && answer.release().held();
      return true;
    case Phase::upload:
    case Phase::gap: return false;
  }
  return false;
}

void begin(Core& core, JobRecord& job, std::optional<RequestId> request, std::optional<std::uint32_t> gap) {
  auto& run = core.run(job.job).checkpoint.emplace();
  run.request = request;
  run.epoch = core.catalog.next_epoch;
  run.asked = run.shut = run.since = core.now;
  core.catalog.next_epoch = run.epoch.next();
  EpochRecord epoch;
  epoch.epoch = run.epoch;
  epoch.job = job.job;
  epoch.incarnation = job.incarnation;
  epoch.time = core.wall;
  epoch.control = gap.has_value();
  core.catalog.epochs.emplace(run.epoch, epoch);
  core.save_counters();
  core.save(epoch);
  job.attempt = run.epoch;
  core.set_state(job, JobState::checkpointing, "");
  core.note(Log::Level::info, job.job, {}, run.epoch, "epoch begun", gap ? "test only: without quiescing" : "");
  if (job.spec.interval_seconds)
    core.run(job.job).next_checkpoint = core.now + std::chrono::seconds(*job.spec.interval_seconds);
  if (!gap) return close(core, job, run);
  run.gap = std::chrono::milliseconds(*gap);
  for (const auto& host : core.gang_hosts(job)) run.turns.push_back(host);
  run.phase = Phase::freeze;
  freeze(core, job, run);
}

}  // namespace

void on_request(Core& core, const CheckpointJob& event) {
  JobRecord* job = core.find(event.job);
  if (job == nullptr)
    return core.refuse(event.request, Error{ErrorKind::not_found, "checkpoint", event.job.value, "no such job"});
  const auto& run = core.run(event.job);
  std::string why;
  if (job->attempt)
    why = fmt::format("checkpoint {} is still under way ({}); wait for its end", job->attempt->value,
                      run.checkpoint ? name(run.checkpoint->phase) : "settling");
  else if (run.finish) why = fmt::format("job {} is ending", job->job.value);
  else if (job->state != JobState::running)
    why = fmt::format("job {} is {}, only a running job can be checkpointed", job->job.value,
                      coordinator::name(job->state));
  if (!why.empty()) return core.refuse(event.request, refused("checkpoint", job->job.value, why));
  for (const auto& host : core.gang_hosts(*job))
    if (!core.connected(host))
      return core.refuse(event.request,
                         Error{ErrorKind::transient, "checkpoint", job->job.value,
                               fmt::format("host {} is not connected; try again when it is back", host.value)});
  begin(core, *job, event.request, event.control_gap_ms);
}

void on_answer(Core& core, const Request& request, const wire::FromHost& answer) {
  auto& job = core.job(request.job);
  auto& run = *core.run(request.job).checkpoint;  // cancel() took the requests when it ended
  if (answer.has_failure() || !take(core, job, run, request, answer)) {
    const Error error = host_error(request, answer);
    const bool once_more = run.phase == Phase::freeze && !run.gap && error.kind == ErrorKind::not_quiet;
    if (!once_more) return abort(core, job, error);
    run.problems.push_back(error.message());
  }
  run.waiting.erase(request.host);
  if (run.waiting.empty()) all_answered(core, job, run);
}

void abort(Core& core, JobRecord& job, const Error& cause) {
  auto& slot = core.run(job.job).checkpoint;
  if (!slot) return;
  core.cancel(job.job, Owner::checkpoint);
  const CheckpointRun run = std::move(*slot);
  slot.reset();
  auto& epoch = core.epoch(run.epoch);
  epoch.state = EpochState::aborted;
  epoch.reason = cause.message();
  core.save(epoch);
  job.attempt.reset();
  if (job.state == JobState::checkpointing) core.set_state(job, JobState::running, "");
  else core.save(job);
  core.note(Log::Level::warn, job.job, {}, run.epoch, "epoch aborted", epoch.reason);
  clean_up(core, job, run.epoch);
  if (run.request)
    core.refuse(*run.request,
                Error{cause.kind, "checkpoint", fmt::format("{}, epoch {}", job.job.value, run.epoch.value),
                      cause.message() + "; the job goes on"});
}

void clean_up(Core& core, const JobRecord& job, Epoch epoch) {
  auto& waiting = core.run(job.job).cleanup[epoch];
  core.ask_gang(Owner::background, job, epoch, waiting,
                [](wire::ToHost& m, const HostName&) { m.mutable_release()->set_discard(true); });
  if (waiting.empty()) on_cleaned(core, job.job, epoch, HostName{});
}

// DeleteImages comes last: a host that has not discarded yet might still publish an image.
void on_cleaned(Core& core, const JobId& job, Epoch epoch, const HostName& host) {
  if (core.find(job) == nullptr) return;  // removed since, with its images
  auto& all = core.run(job).cleanup;
  const auto found = all.find(epoch);
  if (found == all.end()) return;
  found->second.erase(host);
  if (!found->second.empty()) return;
  all.erase(found);
  core.delete_images(job, {epoch});
}

void tick(Core& core, JobRecord& job) {
  auto& runs = core.run(job.job);
  if (!runs.checkpoint) {
    const bool due = job.state == JobState::running && job.spec.interval_seconds && !runs.finish && !job.attempt &&
                     core.now >= runs.next_checkpoint;
    if (!due) return;
    for (const auto& host : core.gang_hosts(job))
      if (!core.usable(host)) return;
    return begin(core, job, std::nullopt, std::nullopt);
  }
  auto& run = *runs.checkpoint;
  if (core.now < run.deadline) return;
  if (run.phase == Phase::gap) return freeze(core, job, run);
  std::string cause =
      fmt::format("not done {} ms after its begin", static_cast<std::int64_t>(ms_between(run.since, core.now)));
  if (!run.waiting.empty()) cause += "; no answer from " + joined(run.waiting);
  if (run.phase == Phase::upload) cause += "; images missing of " + missing_images(core, job);
  if (run.phase == Phase::drain) cause += unrest(core, job, run);
  abort(core, job,
        Error{ErrorKind::deadline, std::string(name(run.phase)), fmt::format("epoch {}", run.epoch.value), cause});
}

std::string_view name(Phase phase) {
  switch (phase) {
    case Phase::close: return "close";
    case Phase::drain: return "drain";
    case Phase::freeze: return "freeze";
    case Phase::thaw: return "thaw";
    case Phase::capture: return "capture";
    case Phase::release: return "release";
    case Phase::upload: return "upload";
    case Phase::gap: return "gap";
  }
  return "";
}

}  // namespace stillpoint::coordinator::checkpoint
