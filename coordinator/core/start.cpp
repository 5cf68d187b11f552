#include "coordinator/core/start.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/names.h"
#include "coordinator/core/automatic.h"
#include "coordinator/core/fence.h"
#include "coordinator/core/finish.h"
#include "coordinator/core/interval.h"
#include "coordinator/core/output.h"
#include "coordinator/core/restart.h"
#include "coordinator/core/rooms.h"

namespace stillpoint::coordinator::start {
namespace {

constexpr unsigned kStartTries = 3;
constexpr std::chrono::minutes kLetPass{60};  // that jobs which find room go before one that does not

// Everything that is wrong with a spec, whoever submitted it: the manifest parser has said most of it already.
std::vector<std::string> spec_problems(const JobSpec& spec) {
  std::vector<std::string> problems;
  if (spec.name.empty()) problems.push_back("the job has no name");
  if (spec.guests == 0 || spec.guests > kMostGuests) problems.push_back(fmt::format("{} guests", spec.guests));
  if (spec.vcpus == 0) problems.push_back("a guest needs at least one vcpu");
  if (spec.memory_bytes == 0) problems.push_back("a guest needs memory");
  if (spec.ranks_per_guest.size() != spec.guests)
    problems.push_back(
        fmt::format("ranksPerGuest has {} entries for {} guests", spec.ranks_per_guest.size(), spec.guests));
  if (std::count(spec.ranks_per_guest.begin(), spec.ranks_per_guest.end(), 0u) != 0)
    problems.push_back("a guest without a rank");
  if (spec.command.empty()) problems.push_back("no command");
  return problems;
}

std::optional<Error> refusal(const Core& core, const JobSpec& spec) {
  const std::string object = "job " + spec.name;
  if (const auto problems = spec_problems(spec); !problems.empty()) {
    std::string text;
    for (const auto& problem : problems) text += (text.empty() ? "" : "; ") + problem;
    return refused("submit", object, text);
  }
  if (auto unknown = unknown_hosts(core, spec.hosts, "submit")) return unknown;
  std::uint64_t largest = 0;
  for (const auto& [name, host] : core.hosts)
    if (spec.hosts.empty() || std::find(spec.hosts.begin(), spec.hosts.end(), name) != spec.hosts.end())
      largest = std::max(largest, host.hello.memory_bytes());
  if (largest != 0 && spec.memory_bytes > largest)
    return refused("submit", object,
                   fmt::format("a guest asks for {} MiB of memory, but no host has more than {} MiB",
                               spec.memory_bytes >> 20, largest >> 20));
  return std::nullopt;
}

void wait_for_room(Core& core, JobRecord& job, const std::string& why) {
  if (auto& since = core.run(job.job).no_room_since; !since) since = core.now;
  if (job.reason != why) core.set_state(job, JobState::pending, why);
}

// Others have gone before it for long, though there would be room if they had not.
bool is_next_in_line(const Core& core, const JobRecord& job) {
  const auto run = core.runs.find(job.job);
  return job.state == JobState::pending && run != core.runs.end() && run->second.no_room_since &&
         core.now >= *run->second.no_room_since + kLetPass && fits_idle_hosts(core, job);
}

// Some host may be taken by either.
bool share_hosts(const JobSpec& a, const JobSpec& b) {
  return a.hosts.empty() || b.hosts.empty() || std::ranges::find_first_of(a.hosts, b.hosts) != a.hosts.end();
}

// In the order in which they were submitted.
std::vector<JobId> pending_jobs(const Core& core) {
  std::vector<JobId> queue;
  for (const auto& [id, job] : core.catalog.jobs)
    if (job.state == JobState::pending) queue.push_back(id);
  std::sort(queue.begin(), queue.end(), [](const JobId& a, const JobId& b) { return number_of(a) < number_of(b); });
  return queue;
}

// Room is looked for when nothing of an earlier try is left.
void boot(Core& core, JobRecord& job) {
  if (!job.placement.empty()) {
    job.placement.clear();
    core.save(job);
  }
  auto placed = plan_gang(core, job, {});
  if (!placed.has_value()) {
    core.run(job.job).start.reset();
    wait_for_room(core, job, placed.error().message());
    return;
  }
  auto& run = core.run(job.job);
  run.no_room_since.reset();
  job.incarnation = job.incarnation.next();
  job.vni = core.catalog.next_vni;
  core.catalog.next_vni = core.catalog.next_vni % 0xffffff + 1;  // VXLAN ids have 24 bits
  job.placement = std::move(placed.value());
  job.restored_from = Epoch{};
  core.save_counters();
  core.set_state(job, JobState::starting, "");
  core.note(Log::Level::info, job.job, {}, {}, "starting",
            fmt::format("incarnation {} on {}", job.incarnation.value, joined(core.gang_hosts(job))));
  run.launches.clear();
  run.ranks.clear();
  run.failed_early.reset();
  output::begin_at(core, job, Epoch{}, 0);
  run.start.emplace();
  run.start->phase = StartRun::Phase::boot;
  run.start->deadline = core.now + core.settings.start_deadline;
  wire::ToHost common;
  auto& same = *common.mutable_start_guests();
  *same.mutable_network() = network_of(core, job);
  *same.mutable_hardware() = hardware_of(job.spec);
  same.set_workdir(job.spec.workdir);
  const auto gang = core.gang(job);
  core.ask_gang(
      Owner::start, job, {}, run.start->waiting,
      [&](wire::ToHost& m, const HostName& host) {
        for (auto guest : gang.at(host)) m.mutable_start_guests()->add_guests(guest);
      },
      common_part(common));
}

void launch(Core& core, JobRecord& job, StartRun& start) {
  start.ready = true;
  if (!output::cut_back(core, job.job)) return;  // on_output goes on
  start.phase = StartRun::Phase::launch;
  const auto& host = core.host_of(job, 0);
  start.waiting = {host};
  core.ask(Owner::start, host, job.job, job.incarnation, {}, [&](wire::ToHost& m) {
    auto& body = *m.mutable_launch_job()->mutable_start();
    for (const auto& word : job.spec.command) body.add_command(word);
    for (const auto& [key, value] : job.spec.env) (*body.mutable_env())[key] = value;
    for (auto ranks : job.spec.ranks_per_guest) body.add_ranks_per_guest(ranks);
  });
}

void next_piece(Core& core, JobRecord& job, StartRun& start) {
  if (start.file == job.spec.files.size()) return launch(core, job, start);
  core.effects.push_back(ReadSpool{job.job, job.spool, job.spec.files[start.file], start.offset, kPieceBytes});
}

void running(Core& core, JobRecord& job) {
  auto& run = core.run(job.job);
  run.start.reset();
  run.failed_starts = 0;
  interval::plan_next(core, job);
  core.set_state(job, JobState::running, "");
  core.note(Log::Level::info, job.job, {}, {}, "running", fmt::format("incarnation {}", job.incarnation.value));
  if (const auto early = std::exchange(run.failed_early, {}))
    finish::on_rank_lost(core, job, early->first, early->second);
}

void all_answered(Core& core, JobRecord& job, StartRun& start) {
  switch (start.phase) {
    case StartRun::Phase::fence: return boot(core, job);
    case StartRun::Phase::boot: start.phase = StartRun::Phase::files; return next_piece(core, job, start);
    case StartRun::Phase::files:
      if (start.last) {
        start.file += 1;
        start.offset = 0;
      } else {
        start.offset += start.piece;
      }
      return next_piece(core, job, start);
    case StartRun::Phase::launch: return running(core, job);
  }
}

bool expected(StartRun::Phase phase, const wire::FromHost& answer) {
  if (phase == StartRun::Phase::boot) return answer.has_guests_started();
  return answer.has_done();
}

}  // namespace

void on_submit(Core& core, SubmitJob event) {
  if (auto error = refusal(core, event.spec)) return core.refuse(event.request, *error);
  JobRecord job;
  job.job = JobId{fmt::format("j{}", core.catalog.next_job)};
  core.catalog.next_job += 1;
  job.spec = std::move(event.spec);
  job.manifest = std::move(event.manifest);
  job.spool = std::move(event.spool);
  const JobId id = job.job;
  auto& stored = core.catalog.jobs.emplace(id, std::move(job)).first->second;
  core.save_counters();
  core.set_state(stored, JobState::pending, "submitted");
  core.note(Log::Level::info, id, {}, {}, "submitted", stored.spec.name);
  core.run(id).output.known = true;  // there is none yet
  core.reply(event.request, Submitted{id, Incarnation{1}});
  try_pending(core);
}

void try_pending(Core& core) {
  auto next_in_line = restart::place_waiting(core);
  for (const auto& id : pending_jobs(core)) {
    auto& job = core.job(id);
    if (core.run(id).start || core.run(id).finish) continue;
    if (core.now < core.run(id).start_not_before) {
      if (fits_idle_hosts(core, job)) next_in_line.push_back(id);
      continue;
    }
    if (job.placement.empty()) {
      const auto next = std::ranges::find_if(
          next_in_line, [&](const JobId& other) { return share_hosts(core.job(other).spec, job.spec); });
      if (next != next_in_line.end()) {
        const bool waited = core.job(*next).state == JobState::pending && core.now >= core.run(*next).start_not_before;
        wait_for_room(
            core, job,
            fmt::format("job {} is next: it {}", next->value, waited ? "has waited for room" : "is coming back"));
        continue;
      }
      boot(core, job);
      if (is_next_in_line(core, job)) next_in_line.push_back(id);
      continue;
    }
    auto& start = core.run(id).start.emplace();
    start.phase = StartRun::Phase::fence;
    start.deadline = core.now + core.settings.start_deadline;
    fence::begin(core, job, job.incarnation, Owner::start, start.waiting);
    if (start.waiting.empty()) boot(core, job);
  }
}

void on_answer(Core& core, const Request& request, const wire::FromHost& answer) {
  auto& job = core.job(request.job);
  auto& start = *core.run(request.job).start;  // cancel() took the requests when it ended
  if (start.phase == StartRun::Phase::fence) {
    if (!fence::answered(core, request, answer)) return;
  } else if (answer.has_failure() || !expected(start.phase, answer)) {
    return fail(core, job, host_error(request, answer), request.host);
  }
  start.waiting.erase(request.host);
  if (start.waiting.empty()) all_answered(core, job, start);
}

void on_spool(Core& core, SpoolRead event) {
  JobRecord* job = core.find(event.job);
  StartRun* start = job == nullptr || !core.run(event.job).start ? nullptr : &*core.run(event.job).start;
  if (start == nullptr || start->phase != StartRun::Phase::files || !start->waiting.empty() ||
      start->file >= job->spec.files.size() || job->spec.files[start->file] != event.file ||
      start->offset != event.offset)
    return core.stale({}, event.job, {}, "a piece of " + event.file + " that nobody waits for");
  if (event.failed) return fail(core, *job, event.error);
  start->piece = event.data.size();
  start->last = event.last;
  core.ask_gang(Owner::start, *job, {}, start->waiting, [&](wire::ToHost& m, const HostName&) {
    auto& piece = *m.mutable_put_file()->mutable_piece();
    piece.set_path(event.file);
    piece.set_mode(event.mode);
    piece.set_offset(event.offset);
    piece.set_data(event.data);
    piece.set_last(event.last);
  });
}

void on_output(Core& core, JobRecord& job) {
  auto& start = core.run(job.job).start;
  if (start && start->phase == StartRun::Phase::files && start->ready) launch(core, job, *start);
}

void on_output_failed(Core& core, JobRecord& job, const Error& error) {
  const auto& start = core.run(job.job).start;
  if (start && start->phase != StartRun::Phase::fence) fail(core, job, error);
}

void fail(Core& core, JobRecord& job, const Error& error, const std::optional<HostName>& suspect) {
  auto& run = core.run(job.job);
  core.cancel(job.job, Owner::start);
  run.start.reset();
  if (suspect) core.hosts[*suspect].refused = core.now;
  core.destroy_gang(job.job, job.incarnation, core.gang_hosts(job));
  const automatic::Loss loss{"could not be started: " + error.message(), true, suspect};
  const bool again = error.kind == ErrorKind::transient && ++run.failed_starts < kStartTries;
  core.note(Log::Level::error, job.job, suspect.value_or(HostName{}), {},
            again ? "start failed; trying again" : "start failed", error.message());
  if (again) return core.set_state(job, JobState::pending, loss.why);
  run.failed_starts = 0;
  // It has run before, and lost what it ran on: that its new beginning failed is one more try of its policy.
  if (job.automatic_restarts > 0 && !automatic::refusal(core, job, loss)) return automatic::bring_back(core, job, loss);
  core.set_state(job, JobState::failed, loss.why);
}

void tick(Core& core, JobRecord& job) {
  auto& run = core.run(job.job);
  if (!run.start) return;
  if (run.start->phase == StartRun::Phase::fence) {
    fence::expire(core, job, Owner::start, run.start->waiting);
    if (run.start->waiting.empty()) return boot(core, job);
  }
  if (core.now < run.start->deadline) return;
  const bool fencing = run.start->phase == StartRun::Phase::fence;
  fail(core, job,
       Error{fencing ? ErrorKind::transient : ErrorKind::deadline, std::string(name(run.start->phase)), job.job.value,
             fmt::format("not done within {} ms; waiting for {}", core.settings.start_deadline.count(),
                         !run.start->waiting.empty() ? joined(run.start->waiting)
                         : run.start->ready          ? "the stored output"
                                                     : "the spool")},
       fencing || run.start->waiting.empty() ? std::nullopt : std::optional(*run.start->waiting.begin()));
}

std::string_view name(StartRun::Phase phase) {
  switch (phase) {
    case StartRun::Phase::fence: return "fence";
    case StartRun::Phase::boot: return "boot";
    case StartRun::Phase::files: return "files";
    case StartRun::Phase::launch: return "launch";
  }
  return "";
}

}  // namespace stillpoint::coordinator::start
