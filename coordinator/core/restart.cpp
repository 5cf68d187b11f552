#include "coordinator/core/restart.h"

#include <fmt/format.h>

#include "coordinator/core/automatic.h"
#include "coordinator/core/checkpoint.h"
#include "coordinator/core/copies.h"
#include "coordinator/core/cut.h"
#include "coordinator/core/epochs.h"
#include "coordinator/core/fence.h"
#include "coordinator/core/finish.h"
#include "coordinator/core/interval.h"
#include "coordinator/core/output.h"
#include "coordinator/core/ranks.h"
#include "coordinator/core/rooms.h"
#include "coordinator/core/verify.h"

namespace stillpoint::coordinator::restart {
namespace {

using Phase = RestartRun::Phase;

// The stored output's beginning is copied where the file system cannot share it: what a slow disk does at least.
constexpr std::uint64_t kCutBytesPerMs = 4'000;

constexpr std::string_view kItWaits = "; it waits: ";  // in the job's reason, behind the story

// Hosts say some heartbeats later that the fenced gang's memory is free.
std::chrono::milliseconds place_wait(const Settings& settings) { return 10 * settings.heartbeat; }

void enter(Core& core, RestartRun& run, Phase phase, std::chrono::milliseconds deadline) {
  add_phase(run.phases, name(run.phase), ms_between(run.since, core.now));
  run.phase = phase;
  run.since = core.now;
  run.deadline = core.now + deadline;
}

// Until everybody in the gang, silent hosts too, has let go or been fenced.
std::chrono::milliseconds time_to_fence(const Core& core, const JobRecord& job) {
  auto lease = core.settings.lease;
  for (const auto& host : core.gang_hosts(job)) lease = std::max(lease, core.lease_of(host));
  return lease + core.settings.restore_deadline;
}

// Such as only a person names.
bool is_on_terms(const RestartRun& run) { return !run.fall_back || !run.hosts.empty() || run.skip_link_check; }

template <class Fill>
void ask_hosts(Core& core, const JobRecord& job, RestartRun& run, Fill fill) {
  core.ask_gang(Owner::restart, job, run.epoch, run.waiting, fill);
}

void restore(Core& core, JobRecord& job, RestartRun& run) {
  const auto& epoch = core.epoch(run.epoch);
  run.damage.reset();
  std::map<HostName, std::vector<const wire::GuestImage*>> images;
  std::map<HostName, std::uint64_t> bytes;
  std::uint64_t most = 0;  // on one host
  for (const auto& image : epoch.images) {
    const auto& host = core.host_of(job, image.guest());
    images[host].push_back(&image);
    most = std::max(most, bytes[host] += image.memory().raw_bytes() + image.disk().raw_bytes());
  }
  enter(core, run, Phase::restore, core.settings.restore_deadline + std::chrono::milliseconds(most / kImageBytesPerMs));
  wire::ToHost common;
  auto& same = *common.mutable_restore();
  *same.mutable_network() = network_of(core, job);
  *same.mutable_hardware() = hardware_of(job.spec);
  copies::add_peers(core, same);
  core.ask_gang(
      Owner::restart, job, run.epoch, run.waiting,
      [&](wire::ToHost& m, const HostName& host) {
        for (const auto* image : images[host]) *m.mutable_restore()->add_images() = *image;
      },
      common_part(common));
}

Result<std::vector<Placement>> plan(const Core& core, const JobRecord& job, const RestartRun& run) {
  if (run.suspect) {
    auto elsewhere = plan_gang(core, job, run.hosts, *run.suspect);
    if (elsewhere.has_value()) return elsewhere;
  }
  return plan_gang(core, job, run.hosts);
}

// What keeps the checkpoint from being had, with what to do; nothing: it can be.
std::optional<Error> unavailable(const Core& core, const JobRecord& job, Epoch number, bool older_will_do) {
  const std::string lost = copies::lost_images(core, core.catalog.epochs.at(number));
  if (lost.empty()) return std::nullopt;
  const bool older = copies::newest_at_hand(core, job, number).has_value();
  if (older && older_will_do) return std::nullopt;
  return Error{ErrorKind::transient, "restart", job.job.value,
               fmt::format("checkpoint {} cannot be had: {}; {}", number.value, lost,
                           older ? "bring one of these hosts back with its disk, or take an older checkpoint"
                                 : "nor can an older one: bring one of these hosts back with its disk")};
}

// Was no epoch named and hosts are lost with what they kept, an older checkpoint is taken.
void settle_epoch(Core& core, JobRecord& job, RestartRun& run) {
  const std::string lost = copies::lost_images(core, core.epoch(run.epoch));
  const auto older = run.fall_back ? copies::newest_at_hand(core, job, run.epoch) : std::nullopt;
  if (lost.empty() || !older) return;
  const std::string what = fmt::format("checkpoint {} cannot be had: {}; checkpoint {} is taken instead",
                                       run.epoch.value, lost, older->value);
  run.story += (run.story.empty() ? "" : "; ") + what;
  core.note(Log::Level::error, job.job, {}, run.epoch, "fell back", what);
  run.epoch = *older;
  job.restored_from = *older;
  core.set_state(job, JobState::restarting, run.story);
}

void fall_back(Core& core, JobRecord& job, RestartRun& run, Error damage);
std::optional<Error> damaged_meanwhile(const Core& core, const RestartRun& run);

// Chooses checkpoint and hosts; stays in this phase while there is no room, or no host with the images.
void place(Core& core, JobRecord& job, RestartRun& run) {
  if (core.now < run.not_before) return;
  if (const auto damage = damaged_meanwhile(core, run)) return fall_back(core, job, run, *damage);
  // Hosts may be on their way back; what is on them is not given up at once.
  if (core.now >= run.deadline) settle_epoch(core, job, run);
  const auto lost = unavailable(core, job, run.epoch, false);
  auto placed = lost ? Result<std::vector<Placement>>(*lost) : plan(core, job, run);
  if (!placed.has_value()) {
    if (core.now < run.deadline) return;
    if (!run.automatic) return fail(core, job, placed.error());
    const std::string waits = fmt::format("{}{}{}", run.story, kItWaits, placed.error().message());
    if (job.reason != waits) core.set_state(job, JobState::restarting, waits);
    return;
  }
  job.placement = std::move(placed.value());
  core.set_state(job, JobState::restarting, run.story);
  core.note(Log::Level::info, job.job, {}, run.epoch, "restoring",
            fmt::format("incarnation {} on {}", job.incarnation.value, joined(core.gang_hosts(job))));
  restore(core, job, run);
}

void after_fence(Core& core, JobRecord& job, RestartRun& run) {
  job.placement.clear();
  job.anywhere = false;
  core.save(job);
  enter(core, run, Phase::place, place_wait(core.settings));
  place(core, job, run);
}

// A new incarnation whose first act is to fence what is placed now.
void fence_and_go(Core& core, JobRecord& job, RestartRun& run) {
  const Incarnation old = job.incarnation;
  job.incarnation = old.next();
  job.vni = core.catalog.next_vni;
  core.catalog.next_vni = core.catalog.next_vni % 0xffffff + 1;
  job.restored_from = run.epoch;
  job.restart = RestartTerms{!run.fall_back, run.hosts, run.skip_link_check, run.automatic, run.suspect};
  job.exit_code.reset();
  job.missing_outputs.clear();
  core.save_counters();
  core.set_state(job, JobState::restarting, run.story);
  core.note(Log::Level::info, job.job, {}, run.epoch, "restart begun", fmt::format("of incarnation {}", old.value));
  auto& runs = core.run(job.job);
  runs.launches.clear();
  runs.rank_lost.reset();
  runs.failed_early.reset();
  output::measure(core, job.job);
  output::pause(core, job.job);
  enter(core, run, Phase::fence, time_to_fence(core, job));
  fence::begin(core, job, old, Owner::restart, run.waiting);
  if (run.waiting.empty()) after_fence(core, job, run);
}

void begin(Core& core, JobRecord& job, RestartRun fresh) {
  checkpoint::refuse_turns(core, job.job, "the job is being restarted");
  auto& run = core.run(job.job).restart.emplace(std::move(fresh));
  run.asked = run.since = core.now;
  fence_and_go(core, job, run);
}

// An image is damaged or gone. Was no epoch named, the next older checkpoint is taken, with a new incarnation. While a
// host is away that keeps a copy, the checkpoint may be whole there, and stays what it is.
void fall_back(Core& core, JobRecord& job, RestartRun& run, Error damage) {
  const auto absent = copies::absent_keepers(core, core.epoch(run.epoch));
  if (core.epoch(run.epoch).state == EpochState::damaged) {
    // Known already.
  } else if (absent.empty()) {
    verify::found_damaged(core, run.epoch, damage.message());
  } else {
    damage.kind = ErrorKind::transient;
    damage.cause += fmt::format("; a copy on {} may be whole, and {} not up", joined(absent),
                                absent.size() == 1 ? "that host is" : "those hosts are");
  }
  const auto older = run.fall_back ? copies::newest_at_hand(core, job, run.epoch) : std::nullopt;
  if (!older) return fail(core, job, damage);
  core.cancel(job.job, Owner::restart);
  const std::string what = fmt::format("checkpoint {} cannot be restored ({}); checkpoint {} is taken instead",
                                       run.epoch.value, damage.message(), older->value);
  run.story += (run.story.empty() ? "" : "; ") + what;
  core.note(Log::Level::error, job.job, {}, run.epoch, "fell back", what);
  run.epoch = *older;
  fence_and_go(core, job, run);
}

// Read back and found damaged while the restart waited: what a host would say when it is told to restore it.
std::optional<Error> damaged_meanwhile(const Core& core, const RestartRun& run) {
  const auto& epoch = core.catalog.epochs.at(run.epoch);
  if (epoch.state != EpochState::damaged) return std::nullopt;
  return Error{ErrorKind::damaged, "restore", fmt::format("checkpoint {}", run.epoch.value), epoch.reason};
}

std::vector<std::string> link_problems(const JobRecord& job, const EpochRecord& epoch, const RestartRun& run) {
  std::vector<std::string> problems;
  std::vector<wire::GuestCut> found;
  for (const auto& [guest, links] : run.links) {
    const std::set<std::uint32_t> reached(links.reached().begin(), links.reached().end());
    for (std::uint32_t other = 0; other < job.spec.guests; ++other)
      if (other != guest && !reached.contains(other))
        problems.push_back(fmt::format("guest {} does not reach guest {}", guest, other));
    auto& cut = found.emplace_back(links.cut());
    cut.set_guest(guest);
  }
  for (auto& problem : cut_differences(epoch.cut, found)) problems.push_back(std::move(problem));
  for (auto& problem : cut_problems(found, job.spec.guests)) problems.push_back(std::move(problem));
  return problems;
}

// "fence 12, place 0, restore 2110": milliseconds.
std::string told(const PhaseTimes& times) {
  std::string text;
  for (const auto& [phase, ms] : times.phases) text += fmt::format("{}{} {:.0f}", text.empty() ? "" : ", ", phase, ms);
  return text;
}

void truncate(Core& core, JobRecord& job, RestartRun& run) {
  const std::uint64_t offset = core.epoch(run.epoch).output_offset;
  enter(core, run, Phase::truncate, core.settings.link_deadline + std::chrono::milliseconds(offset / kCutBytesPerMs));
  run.waiting.clear();
  output::begin_at(core, job, run.epoch, offset);
  on_output(core, job);
}

void check_links(Core& core, JobRecord& job, RestartRun& run) {
  const auto problems = link_problems(job, core.epoch(run.epoch), run);
  if (problems.empty()) return truncate(core, job, run);
  const std::string what = "the restored links are not those of the checkpoint: " + summary(problems, 5);
  if (!run.skip_link_check)
    return fail(core, job, Error{ErrorKind::not_quiet, "link check", fmt::format("epoch {}", run.epoch.value), what});
  core.note(Log::Level::warn, job.job, {}, run.epoch, "link check skipped", what);
  truncate(core, job, run);
}

void running(Core& core, JobRecord& job) {
  auto& runs = core.run(job.job);
  RestartRun run = std::move(*runs.restart);
  runs.restart.reset();
  add_phase(run.phases, name(run.phase), ms_between(run.since, core.now));
  const double took = ms_between(run.asked, core.now);
  interval::plan_after_restart(core, job);
  job.restarts += 1;
  job.restart.reset();
  core.set_state(job, JobState::running, run.story);
  core.note(Log::Level::info, job.job, {}, run.epoch, "restarted",
            fmt::format("incarnation {} after {:.0f} ms: {}", job.incarnation.value, took, told(run.phases)));
  output::acknowledge(core, job);
  if (run.request)
    core.reply(*run.request, Restarted{job.job, job.incarnation, run.epoch, took, run.phases, run.story});
  if (const auto early = std::exchange(runs.failed_early, {}))
    finish::on_rank_lost(core, job, early->first, early->second);
}

void all_answered(Core& core, JobRecord& job, RestartRun& run) {
  switch (run.phase) {
    case Phase::fence: return after_fence(core, job, run);
    case Phase::restore:
      if (run.damage) return fall_back(core, job, run, Error(*run.damage));
      enter(core, run, Phase::resume, core.settings.restore_deadline);
      return ask_hosts(core, job, run, [](wire::ToHost& m, const HostName&) { m.mutable_resume(); });
    case Phase::resume:
      enter(core, run, Phase::links, core.settings.link_deadline + kAnswerSlack);
      run.links.clear();
      return ask_hosts(core, job, run, [&](wire::ToHost& m, const HostName&) {
        m.mutable_check_links()->set_deadline_ms(static_cast<std::uint32_t>(core.settings.link_deadline.count()));
      });
    case Phase::links: return check_links(core, job, run);
    case Phase::release: return running(core, job);
    case Phase::place:
    case Phase::truncate: return;  // nothing was asked
  }
}

bool take(Core& core, const JobRecord& job, RestartRun& run, const Request& request, const wire::FromHost& answer) {
  switch (run.phase) {
    case Phase::restore:
    case Phase::resume: return answer.has_done();
    case Phase::links:
      if (!answer.has_links()) return false;
      for (const auto& guest : answer.links().guests()) {
        if (core.host_of(job, guest.guest()) != request.host) return false;
        run.links[guest.guest()] = guest.links();
      }
      return true;
    case Phase::release:
      if (answer.has_release() && !answer.release().held())
        core.note(Log::Level::warn, job.job, request.host, run.epoch, "let go early",
                  "a guest had let go by itself before the release");
      return answer.has_release();
    case Phase::fence:
    case Phase::place:
    case Phase::truncate: return false;
  }
  return false;
}

// Nothing is changed when the request makes no sense.
std::optional<Error> refusal(Core& core, const RestartJob& event, JobRecord*& job, Epoch& epoch) {
  job = core.find(event.job);
  if (job == nullptr) return Error{ErrorKind::not_found, "restart", event.job.value, "no such job"};
  const auto& run = core.run(event.job);
  const bool by_itself = run.restart && run.restart->automatic && !run.restart->request;
  const std::string object = event.job.value;
  if (run.finish) return refused("restart", object, "the job is ending; wait for its end");
  if (run.remove) return refused("restart", object, "the job is being removed");
  // What was lost of a completed one can be had again.
  const bool incomplete = job->state == JobState::completed && !job->missing_outputs.empty();
  if (job->state != JobState::running && job->state != JobState::checkpointing && job->state != JobState::failed &&
      job->state != JobState::stopped && !incomplete && !by_itself)
    return refused("restart", object,
                   fmt::format("the job is {}; only a running, failed or stopped one can be restarted, or one that was "
                               "completed with something missing",
                               coordinator::name(job->state)));
  auto chosen = epochs::choose(core, *job, event.from);
  if (!chosen.has_value()) return chosen.error();
  epoch = chosen.value();
  if (auto unknown = unknown_hosts(core, event.hosts, "restart")) return unknown;
  if (auto lost = unavailable(core, *job, epoch, !event.from)) return lost;
  // Looked at before the old gang is destroyed: with no room the job had better run on.
  if (auto room = plan_gang(core, *job, event.hosts); !room.has_value()) return room.error();
  return std::nullopt;
}

}  // namespace

void begin_automatic(Core& core, JobRecord& job, Epoch epoch, const std::optional<HostName>& suspect, std::string story,
                     std::chrono::milliseconds wait) {
  RestartRun run;
  run.epoch = epoch;
  run.fall_back = true;
  run.automatic = true;
  run.suspect = suspect;
  run.story = std::move(story);
  run.not_before = core.now + wait;
  begin(core, job, std::move(run));
}

void on_request(Core& core, const RestartJob& event) {
  JobRecord* job = nullptr;
  if (auto& own = core.run(event.job).restart;
      own && own->automatic && !own->request && !event.from && event.hosts.empty() && !event.skip_link_check) {
    own->request = event.request;  // what is asked for is under way
    own->not_before = core.now;
    return;
  }
  RestartRun run;
  if (auto error = refusal(core, event, job, run.epoch)) return core.refuse(event.request, *error);
  cancel(core, *job, refused("restart", job->job.value, "another restart was asked for"));
  automatic::forget(*job);
  checkpoint::abort(core, *job, refused("checkpoint", job->job.value, "the job is being restarted"));
  ranks::end(core, job->job);
  run.request = event.request;
  run.fall_back = !event.from;
  if (run.fall_back) run.story = epochs::passed_over(core, *job, run.epoch);
  run.hosts = event.hosts;
  run.skip_link_check = event.skip_link_check;
  begin(core, *job, std::move(run));
}

void begin_again(Core& core, JobRecord& job) {
  RestartRun run;
  run.epoch = job.restored_from;
  run.story = job.reason.substr(0, job.reason.find(kItWaits));
  if (job.restart) {
    run.fall_back = !job.restart->epoch_named;
    run.hosts = job.restart->hosts;
    run.skip_link_check = job.restart->skip_link_check;
    // Whoever asked waits no more. Where no terms were named it is now as if nobody had.
    run.automatic = job.restart->automatic || (job.spec.restart_on_failure && !is_on_terms(run));
    run.suspect = job.restart->suspect;
  }
  begin(core, job, std::move(run));
}

void on_answer(Core& core, const Request& request, const wire::FromHost& answer) {
  auto& job = core.job(request.job);
  auto& run = *core.run(request.job).restart;  // cancel() took the requests when it ended
  if (run.phase == Phase::fence) {
    if (!fence::answered(core, request, answer)) return;
  } else if (answer.has_failure() || !take(core, job, run, request, answer)) {
    const Error error = host_error(request, answer);
    // Only of an image that was looked at: what a host lacks is no reason to go back to an older checkpoint.
    if (run.phase != Phase::restore || error.kind != ErrorKind::damaged) return fail(core, job, error, request.host);
    run.damage = error;  // the other hosts' answers are awaited: the fence wants nothing half-way
  }
  run.waiting.erase(request.host);
  if (run.waiting.empty()) all_answered(core, job, run);
}

void on_output(Core& core, JobRecord& job) {
  auto& slot = core.run(job.job).restart;
  if (!slot || slot->phase != Phase::truncate || !output::cut_back(core, job.job)) return;
  enter(core, *slot, Phase::release, core.settings.link_deadline);
  ask_hosts(core, job, *slot, [](wire::ToHost& m, const HostName&) { m.mutable_release()->set_discard(false); });
}

void on_output_failed(Core& core, JobRecord& job, const Error& error) {
  const auto& slot = core.run(job.job).restart;
  if (slot && slot->phase == Phase::truncate) fail(core, job, error);
}

namespace {

// The record keeps the terms until the caller saves what follows: whoever takes it up in between goes on with them.
void end_run(Core& core, JobRecord& job, const Error& error) {
  auto& slot = core.run(job.job).restart;
  core.cancel(job.job, Owner::restart);
  const RestartRun run = std::move(*slot);
  slot.reset();
  job.restart.reset();
  core.note(Log::Level::error, job.job, {}, run.epoch, "restart failed", error.message());
  core.destroy_gang(job.job, job.incarnation, core.gang_hosts(job));
  if (run.request) {
    Error told{error.kind, "restart", fmt::format("{} from checkpoint {}", job.job.value, run.epoch.value),
               error.message()};
    if (!run.story.empty()) told.cause += "; before that: " + run.story;
    core.refuse(*run.request, std::move(told));
  }
}

void end_try(Core& core, JobRecord& job, const Error& error, bool by_itself, const std::optional<HostName>& suspect) {
  auto& slot = core.run(job.job).restart;
  const automatic::Loss loss{"the restart failed: " + error.message(), true, suspect};
  if (suspect) core.hosts[*suspect].refused = core.now;
  const bool again = by_itself && error.kind != ErrorKind::damaged;
  const auto refused = automatic::refusal(core, job, loss);
  // Whoever waits for this one waits for the next.
  const auto request = again && !refused ? std::exchange(slot->request, std::nullopt) : std::nullopt;
  end_run(core, job, error);
  if (again && !refused) {
    automatic::bring_back(core, job, loss);
    auto& next = core.run(job.job).restart;
    if (request && next) next->request = request;
    else if (request) core.refuse(*request, error);
    return;
  }
  core.set_state(job, JobState::failed,
                 fmt::format("{}{}; try again with `stillpoint restart {}`", loss.why,
                             again && !refused->empty() ? "; " + *refused : "", job.job.value));
}

}  // namespace

void cancel(Core& core, JobRecord& job, const Error& error) {
  if (!core.run(job.job).restart) return;
  end_run(core, job, error);
  core.save(job);
}

void fail(Core& core, JobRecord& job, const Error& error, const std::optional<HostName>& suspect) {
  const auto& slot = core.run(job.job).restart;
  if (slot) end_try(core, job, error, slot->automatic, suspect);
}

void fail_lost(Core& core, JobRecord& job, const Error& error) {
  const auto& slot = core.run(job.job).restart;
  if (!slot) return;
  end_try(core, job, error, slot->automatic || !is_on_terms(*slot), std::nullopt);
}

namespace {

bool has_no_place_yet(const std::optional<RestartRun>& run) {
  return run && (run->phase == Phase::fence || run->phase == Phase::place);
}

}  // namespace

std::vector<JobId> place_waiting(Core& core) {
  std::vector<JobId> coming;
  for (const auto& [id, run] : core.runs)
    if (has_no_place_yet(run.restart)) coming.push_back(id);
  std::ranges::sort(coming, {}, [](const JobId& id) { return number_of(id); });
  for (const auto& id : coming)
    if (auto& run = core.run(id).restart; run && run->phase == Phase::place) place(core, core.job(id), *run);
  // For one whose images nobody has who is up no room is kept.
  std::erase_if(coming, [&](const JobId& id) {
    const auto& run = core.run(id).restart;
    return !has_no_place_yet(run) || !fits_idle_hosts(core, core.job(id)) ||
           unavailable(core, core.job(id), run->epoch, false);
  });
  return coming;
}

void tick(Core& core, JobRecord& job) {
  auto& slot = core.run(job.job).restart;
  if (!slot) return;
  if (slot->phase == Phase::place) return place(core, job, *slot);
  if (slot->phase == Phase::fence) {
    fence::expire(core, job, Owner::restart, slot->waiting);
    if (slot->waiting.empty()) return after_fence(core, job, *slot);
  }
  if (core.now < slot->deadline) return;
  fail(core, job,
       Error{ErrorKind::deadline, std::string(name(slot->phase)), fmt::format("epoch {}", slot->epoch.value),
             fmt::format("not done after {} ms; waiting for {}",
                         static_cast<std::int64_t>(ms_between(slot->since, core.now)),
                         slot->waiting.empty() ? "the stored output" : joined(slot->waiting))},
       slot->waiting.empty() || slot->phase == Phase::fence ? std::nullopt : std::optional(*slot->waiting.begin()));
}

std::string_view name(Phase phase) {
  switch (phase) {
    case Phase::fence: return "fence";
    case Phase::place: return "place";
    case Phase::restore: return "restore";
    case Phase::resume: return "resume";
    case Phase::links: return "links";
    case Phase::truncate: return "truncate";
    case Phase::release: return "release";
  }
  return "";
}

}  // namespace stillpoint::coordinator::restart
