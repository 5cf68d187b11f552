#include "coordinator/core/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>

#include "coordinator/core/commit.h"
#include "coordinator/core/copies.h"
#include "coordinator/core/cut.h"
#include "coordinator/core/interval.h"
#include "coordinator/core/rank_words.h"
#include "coordinator/core/ranks.h"
#include "coordinator/core/store_room.h"

namespace stillpoint::coordinator::checkpoint {
namespace {

using Phase = CheckpointRun::Phase;
using std::chrono::milliseconds;

constexpr milliseconds kShortestDefer{50};  // gates open between two tries to close them
constexpr milliseconds kLongestDefer{800};

void enter(Core& core, CheckpointRun& run, Phase phase) {
  if (core.now > run.since || run.phase != phase)
    add_phase(run.phases, name(run.phase), ms_between(run.since, core.now));
  run.phase = phase;
  run.since = core.now;
}

// Asks the hosts whose turn it is: all of them, or in the control the next one. Numbered, so that a host refuses what
// was overtaken: an old order to open must not open what is about to be captured.
template <class Fill>
void ask_hosts(Core& core, const JobRecord& job, CheckpointRun& run, Fill fill) {
  run.step += 1;
  const auto each = [&](wire::ToHost& m, const HostName& host) {
    m.set_step(run.step);
    if constexpr (std::is_invocable_v<Fill, wire::ToHost&, const HostName&>) fill(m, host);
    else fill(m);
  };
  if (!run.gap) return core.ask_gang(Owner::checkpoint, job, run.epoch, run.waiting, each);
  const auto& host = run.turns.at(run.turn);
  run.waiting = {host};
  core.ask(Owner::checkpoint, host, job.job, job.incarnation, run.epoch, [&](wire::ToHost& m) { each(m, host); });
}

void examine(Core& core, JobRecord& job, CheckpointRun& run) {
  run.deadline = core.now + core.settings.drain_deadline + kAnswerSlack;
  core.ask_gang(Owner::checkpoint, job, run.epoch, run.waiting, [&](wire::ToHost& m, const HostName&) {
    m.mutable_examine()->set_again(run.phase == Phase::examine_again);
  });
}

void prepare(Core& core, JobRecord& job, CheckpointRun& run) {
  enter(core, run, Phase::prepare);
  run.deadline = core.now + core.settings.prepare_deadline + core.time_to_store(job);
  const copies::Partners partners(core, job);
  core.ask_gang(Owner::checkpoint, job, run.epoch, run.waiting, [&](wire::ToHost& m, const HostName& host) {
    *m.mutable_prepare_capture()->mutable_durability() = partners.asked_of(host, job.spec.durability);
  });
}

void close(Core& core, JobRecord& job, CheckpointRun& run) {
  const auto left = std::max(milliseconds(1), run.quiet_by - core.now);
  run.shut = core.now;
  run.deadline = run.quiet_by + kAnswerSlack;
  run.current.clear();
  const auto gang = core.gang(job);
  ask_hosts(core, job, run, [&](wire::ToHost& m, const HostName& host) {
    auto& body = *m.mutable_close();
    body.set_deadline_ms(static_cast<std::uint32_t>(left.count()));
    body.set_defer_ms(static_cast<std::uint32_t>(core.settings.defer_wait.count()));
    body.set_hold_ms(static_cast<std::uint32_t>(core.settings.hold.count()));
    for (const auto guest : gang.at(host)) {
      auto& expected = *body.add_expected();
      expected.set_guest(guest);
      expected.set_ranks(job.spec.ranks_per_guest.at(guest));
    }
  });
}

// The gates could not be closed: some rank is inside a call that must finish first. Such a call needs other ranks,
// which the shut gates may keep from it, so everybody goes on for a while.
std::string deferring(const Core& core, const JobRecord& job, const CheckpointRun& run) {
  std::string text;
  for (const auto& [guest, figures] : run.current)
    if (figures.deferring())
      text += fmt::format("{}{} (guest {} on {})", text.empty() ? "" : "; ", figures.cause(), guest,
                          core.host_of(job, guest).value);
  return text;
}

void reopen(Core& core, JobRecord& job, CheckpointRun& run) {
  enter(core, run, Phase::reopen);
  run.deadline = core.now + kAnswerSlack;
  ask_hosts(core, job, run, [](wire::ToHost& m) { m.mutable_reopen(); });
}

void defer(Core& core, CheckpointRun& run) {
  enter(core, run, Phase::defer);
  run.pause = std::clamp(run.pause * 2, kShortestDefer, kLongestDefer);
  run.deadline = std::min(core.now + run.pause, run.quiet_by);
}

void close_again(Core& core, JobRecord& job, CheckpointRun& run) {
  if (core.now >= run.quiet_by)
    return abort(core, job,
                 Error{ErrorKind::deadline, "close", fmt::format("epoch {}", run.epoch.value),
                       fmt::format("ranks were inside calls that no checkpoint may fall into, for the {} ms that it "
                                   "waits: {}; try again when they are through",
                                   core.settings.drain_deadline.count(), run.deferring)});
  enter(core, run, Phase::close);
  close(core, job, run);
}

void count(Core& core, JobRecord& job, CheckpointRun& run) {
  run.previous = std::move(run.current);
  run.current.clear();
  run.round += 1;
  ask_hosts(core, job, run, [&](wire::ToHost& m) { m.mutable_count()->set_round(run.round); });
}

void look(Core& core, JobRecord& job, CheckpointRun& run) {
  if (!run.gap) run.cuts.clear();
  run.problems.clear();
  if (run.gap) run.deadline = core.now + core.settings.drain_deadline + kAnswerSlack;
  ask_hosts(core, job, run,
            [](wire::ToHost& m) { m.mutable_freeze()->set_settle_ms(static_cast<std::uint32_t>(kSettle.count())); });
}

void freeze(Core& core, JobRecord& job, CheckpointRun& run) {
  enter(core, run, Phase::freeze);
  run.second_look = false;
  look(core, job, run);
}

// Nothing in flight anywhere, at the moments when the guests looked: mostly that holds, and what it costs to be wrong
// is a thaw. Then two equal rounds are wanted.
bool calm(const CheckpointRun& run) {
  return run.verified == 0 ? at_rest(run.current) : rounds_equal(run.previous, run.current);
}

// Rounds that are not equal after a while hardly ever will be: then the freeze decides. Not while a rank is in a call
// that has to be over first.
bool enough_rounds(const Core& core, const CheckpointRun& run) {
  return core.now - run.since >= kEnoughRounds && !must_finish_first(run.current);
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
      if (is_restless(rank)) text += ", " + rank_words(rank);
  }
  return text;
}

// The cut is there from every host: is it one?
void verify(Core& core, JobRecord& job, CheckpointRun& run) {
  if (run.problems.empty()) {
    std::vector<wire::GuestCut> cuts;
    for (const auto& [guest, cut] : run.cuts) cuts.push_back(cut);
    run.problems = cut_problems(cuts, job.spec.guests);
  }
  if (!run.problems.empty() && !run.second_look) {
    // A guest that froze first has not seen what the last one sent; now all stand still.
    run.second_look = true;
    return look(core, job, run);
  }
  run.verified += 1;
  if (run.problems.empty()) return capture(core, job, run);
  const std::string what =
      fmt::format("cut {} of {} is not quiet: {}", run.verified, core.settings.verify_attempts, summary(run.problems));
  if (run.verified >= core.settings.verify_attempts)
    return abort(core, job, Error{ErrorKind::not_quiet, "verify", fmt::format("epoch {}", run.epoch.value), what});
  core.note(Log::Level::warn, job.job, {}, run.epoch, "verify failed", what);
  enter(core, run, Phase::thaw);
  ask_hosts(core, job, run, [](wire::ToHost& m) { m.mutable_thaw(); });
}

void captured(Core& core, JobRecord& job, CheckpointRun& run);

// The job goes on by now. What came to it since it was examined is in the images, too.
void released(Core& core, JobRecord& job, CheckpointRun& run) {
  run.stall_ms = ms_between(run.shut, core.now);
  if (!run.all_held && !run.gap)
    return abort(core, job,
                 Error{ErrorKind::deadline, "release", fmt::format("epoch {}", run.epoch.value),
                       "a guest had let go by itself before all were captured"});
  if (run.packets != 0 && !run.gap)
    return abort(core, job,
                 Error{ErrorKind::not_quiet, "hold", fmt::format("epoch {}", run.epoch.value),
                       fmt::format("{} packets passed between guests while all stood still, the first: {}", run.packets,
                                   run.first_packet)});
  if (run.gap) return captured(core, job, run);
  enter(core, run, Phase::examine_again);
  examine(core, job, run);
}

void captured(Core& core, JobRecord& job, CheckpointRun& run) {
  enter(core, run, Phase::upload);
  run.waiting.clear();
  run.deadline = core.now + core.settings.upload_deadline + core.time_to_store(job);
  auto& epoch = core.epoch(run.epoch);
  core.effects.push_back(KeepOutput{job.job, run.epoch});
  epoch.state = EpochState::captured;
  epoch.stall_ms = run.stall_ms;
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
    case Phase::examine: return prepare(core, job, run);
    case Phase::prepare:
      if (run.gap) return freeze(core, job, run);
      enter(core, run, Phase::close);
      run.quiet_by = core.now + core.settings.drain_deadline;
      return close(core, job, run);
    case Phase::close:
      run.deferring = deferring(core, job, run);
      if (!run.deferring.empty()) return reopen(core, job, run);
      if (calm(run)) return freeze(core, job, run);
      enter(core, run, Phase::drain);
      return count(core, job, run);
    case Phase::reopen: return defer(core, run);
    case Phase::drain:
      if (calm(run) || enough_rounds(core, run)) return freeze(core, job, run);
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
      if (!run.gap || run.turn + 1 == run.turns.size()) return released(core, job, run);
      run.turn += 1;
      enter(core, run, Phase::gap);
      run.deadline = core.now + *run.gap;
      return;
    case Phase::examine_again: return captured(core, job, run);
    case Phase::defer:
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
    case Phase::examine:
    case Phase::examine_again:
    case Phase::prepare:
    case Phase::reopen:
    case Phase::thaw: return answer.has_done();
    case Phase::capture: return answer.has_capture();
    case Phase::release:
      if (!answer.has_release()) return false;
      run.all_held = run.all_held && answer.release().held();
      run.packets += answer.release().packets();
      if (run.first_packet.empty() && answer.release().packets() != 0)
        run.first_packet = answer.release().first_packet() + " on " + request.host.value;
      return true;
    case Phase::defer:
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
  interval::plan_next(core, job);
  if (gap) run.gap = std::chrono::milliseconds(*gap);
  for (const auto& host : core.gang_hosts(job)) run.turns.push_back(host);
  if (run.gap) {
    run.phase = Phase::prepare;
    return prepare(core, job, run);
  }
  examine(core, job, run);
}

// To copy memory beforehand may take long; a host that says nothing at all is not waited for as long.
bool one_is_silent(const Core& core, const CheckpointRun& run) {
  return run.phase == Phase::prepare && std::ranges::any_of(run.waiting, [&](const HostName& host) {
           return core.silent_for(host) > core.settings.drain_deadline;
         });
}

// For a checkpoint that nobody asked for: who reads the history learns why there is none.
bool has_room(Core& core, const JobRecord& job) {
  const auto full = store_full(core, job);
  if (!full) return true;
  auto& run = core.run(job.job);
  if (core.now < run.next_full_note) return false;
  run.next_full_note = core.now + kFullNoteEvery;
  core.note(Log::Level::warn, job.job, {}, {}, "checkpoint not begun", full->message());
  return false;
}

}  // namespace

void on_request(Core& core, const CheckpointJob& event) {
  JobRecord* job = core.find(event.job);
  if (job == nullptr)
    return core.refuse(event.request, Error{ErrorKind::not_found, "checkpoint", event.job.value, "no such job"});
  auto& run = core.run(event.job);
  if (job->attempt && job->spec.while_uploading == "wait" && !run.finish && run.turns.size() < kMaxTurns) {
    run.turns.push_back(event);
    return;
  }
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
  if (const std::string obstacle = copies::obstacle(core, *job); !obstacle.empty())
    return core.refuse(event.request, refused("checkpoint", job->job.value, obstacle));
  if (const auto full = store_full(core, *job)) return core.refuse(event.request, *full);
  begin(core, *job, event.request, event.control_gap_ms);
}

void refuse_turns(Core& core, const JobId& job, const std::string& why) {
  for (const auto& turn : std::exchange(core.run(job).turns, {}))
    core.refuse(turn.request, refused("checkpoint", job.value, why));
}

void on_wish(Core& core, JobRecord& job, const wire::RankWish& wish) {
  auto& runs = core.run(job.job);
  if (job.state != JobState::running || job.attempt || runs.finish) return;
  for (const auto& host : core.gang_hosts(job))
    if (!core.usable(host)) return;
  if (interval::quiet(core, job)) return;
  const auto periodic = interval::view(core, job);
  if (wish.kind() == wire::RankWish::GOOD_MOMENT &&
      (!periodic ||
       core.now + std::chrono::milliseconds(static_cast<std::int64_t>(periodic->seconds * 250)) < runs.next_checkpoint))
    return;
  if (!has_room(core, job)) return;
  core.note(Log::Level::info, job.job, {}, {}, "checkpoint wished", fmt::format("by rank {}", wish.rank()));
  begin(core, job, std::nullopt, std::nullopt);
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

// What the ranks of an attempt were doing when it was last heard: kept with it, to explain how it ended.
std::vector<wire::GuestCut> last_seen(const CheckpointRun& run) {
  std::vector<wire::GuestCut> seen;
  for (const auto& [guest, cut] : run.cuts) seen.push_back(cut);
  if (!seen.empty()) return seen;
  for (const auto& [guest, figures] : run.current.empty() ? run.previous : run.current) {
    auto& one = seen.emplace_back();
    one.set_guest(guest);
    *one.mutable_ranks() = figures.ranks();
  }
  return seen;
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
  epoch.cut = last_seen(run);
  core.save(epoch);
  job.attempt.reset();
  if (job.state == JobState::checkpointing) core.set_state(job, JobState::running, "");
  else core.save(job);
  core.note(Log::Level::warn, job.job, {}, run.epoch, "epoch aborted", epoch.reason);
  interval::plan_after_abort(core, job);
  clean_up(core, job, run.epoch);
  const std::string room = cause.kind == ErrorKind::storage_full ? "; " + room_remedy(core) : "";
  if (run.request)
    core.refuse(*run.request,
                Error{cause.kind, "checkpoint", fmt::format("{}, epoch {}", job.job.value, run.epoch.value),
                      cause.message() + room + "; the job goes on"});
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
  core.delete_images(Owner::background, job, {epoch});
}

void tick(Core& core, JobRecord& job) {
  auto& runs = core.run(job.job);
  if (!runs.checkpoint) {
    if (!runs.turns.empty() && !job.attempt) {
      const CheckpointJob turn = runs.turns.front();
      runs.turns.pop_front();
      return on_request(core, turn);
    }
    if (job.state != JobState::running || runs.finish || job.attempt || !interval::due(core, job)) return;
    for (const auto& host : core.gang_hosts(job))
      if (!core.usable(host)) return;
    if (!has_room(core, job)) {
      interval::plan_next(core, job);
      return interval::plan_after_abort(core, job);
    }
    return begin(core, job, std::nullopt, std::nullopt);
  }
  auto& run = *runs.checkpoint;
  if (core.now < run.deadline && !one_is_silent(core, run)) return;
  if (run.phase == Phase::gap) return freeze(core, job, run);
  if (run.phase == Phase::defer) return close_again(core, job, run);
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
    case Phase::examine:
    case Phase::examine_again: return "examine";
    case Phase::prepare: return "prepare";
    case Phase::close: return "close";
    case Phase::reopen: return "reopen";
    case Phase::defer: return "defer";
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
