#include "coordinator/core/finish.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <limits>

#include "coordinator/core/checkpoint.h"
#include "coordinator/core/epochs.h"
#include "coordinator/core/fence.h"
#include "coordinator/core/hosts.h"
#include "coordinator/core/loss.h"
#include "coordinator/core/output.h"
#include "coordinator/core/ranks.h"
#include "coordinator/core/restart.h"
#include "coordinator/core/start.h"

namespace stillpoint::coordinator::finish {
namespace {

using Phase = FinishRun::Phase;

constexpr std::chrono::milliseconds kConfirm{10'000};  // an answer of some kind from each host of the gang
constexpr std::chrono::milliseconds kFetch{120'000};   // each output
constexpr std::chrono::milliseconds kDrain{30'000};    // the end of the output
constexpr std::chrono::milliseconds kEcho{5'000};      // for a host to say once more how the program ended
constexpr int kKilledBySignal = 128;                   // and above: as a shell counts, and mpirun too

void enter(Core& core, FinishRun& run, Phase phase, std::chrono::milliseconds deadline) {
  run.phase = phase;
  run.deadline = core.now + deadline;
  run.waiting.clear();
}

// For who thinks it worth that.
std::string remedy(const Core& core, const JobRecord& job, const FinishRun& run) {
  const auto newest = epochs::newest_committed(core, job);
  if (run.outcome != JobState::completed || !newest) return "";
  return fmt::format("; `stillpoint restart {}` runs its end again, from checkpoint {}", job.job.value, newest->value);
}

void over(Core& core, JobRecord& job) {
  auto& runs = core.run(job.job);
  FinishRun run = std::move(*runs.finish);
  if (!job.missing_outputs.empty())
    run.reason += fmt::format("{}not every output is there: {}{}", run.reason.empty() ? "" : "; ",
                              fmt::join(job.missing_outputs, "; "), remedy(core, job, run));
  // What a host has not answered yet is asked on in the background.
  core.cancel(job.job, Owner::finish);
  core.destroy_gang(job.job, job.incarnation, run.waiting);
  runs.finish.reset();
  runs.rank_lost.reset();
  job.stopping = false;
  job.restart.reset();  // of a stop that was taken up
  core.set_state(job, run.outcome, run.reason);
  core.note(run.outcome == JobState::failed ? Log::Level::error : Log::Level::info, job.job, {}, {},
            std::string(coordinator::name(run.outcome)), run.reason);
  for (auto request : run.stops) core.reply(request, Acknowledged{});
  ranks::end(core, job.job);
  start::try_pending(core);
}

// From here on guests are missing on purpose. A coordinator that starts anew knows it by `stopping` with an exit code.
void destroy(Core& core, JobRecord& job, FinishRun& run) {
  core.cancel(job.job, Owner::finish);
  if (run.outcome != JobState::stopped && !job.stopping) {
    job.stopping = true;
    core.set_state(job, job.state, run.reason);
  }
  enter(core, run, Phase::destroy, kDestroyDeadline);
  fence::begin(core, job, job.incarnation, Owner::finish, run.waiting);
  if (run.waiting.empty()) over(core, job);
}

// What the program printed last and nobody has any more. Its end stays what it is, but it is no secret.
void miss_end_of_output(Core& core, JobRecord& job, const FinishRun& run) {
  if (run.outcome == JobState::stopped) return;
  const std::string& not_stored = core.run(job.job).output.failure;
  const std::string why = !run.source_lost.empty() ? run.source_lost
                          : !not_stored.empty()    ? not_stored
                                                   : "it did not arrive in time";
  job.missing_outputs.push_back(fmt::format("{}: {}", kEndOfOutput, why));
  core.save(job);
  core.note(Log::Level::warn, job.job, {}, {}, "output incomplete", why);
}

// Of a guest that is gone no more comes; what has come may yet have to be stored.
bool is_all_that_comes(Core& core, const JobRecord& job, const FinishRun& run) {
  const auto& output = core.run(job.job).output;
  return !run.source_gone.empty() && output.known && output.durable >= output.received;
}

void drain(Core& core, JobRecord& job, FinishRun& run) {
  enter(core, run, Phase::drain, run.output_end ? kDrain : kEcho);
  on_output(core, job);
}

void miss_output(Core& core, JobRecord& job, FinishRun& run, const std::string& why) {
  const std::string& file = job.spec.outputs[run.file];
  job.missing_outputs.push_back(file + ": " + why);
  core.save(job);
  core.note(Log::Level::warn, job.job, {}, {}, "output missing", job.missing_outputs.back());
  if (run.offset != 0 || run.storing) core.effects.push_back(DropOutputPieces{job.job, file});
  run.storing.reset();
  run.file += 1;
  run.offset = 0;
}

void next_output(Core& core, JobRecord& job, FinishRun& run) {
  while (!run.source_gone.empty() && run.file < job.spec.outputs.size()) miss_output(core, job, run, run.source_gone);
  if (run.file == job.spec.outputs.size()) return drain(core, job, run);
  if (run.offset == 0) enter(core, run, Phase::fetch, kFetch);
  const auto& host = core.host_of(job, 0);
  run.waiting = {host};
  core.ask(Owner::finish, host, job.job, job.incarnation, {}, [&](wire::ToHost& m) {
    auto& read = *m.mutable_fetch_file()->mutable_read();
    read.set_path(job.spec.outputs[run.file]);
    read.set_offset(run.offset);
    read.set_length(kPieceBytes);
  });
}

// The output cannot be had: a warning, and the next one.
void skip_output(Core& core, JobRecord& job, FinishRun& run, const std::string& why) {
  miss_output(core, job, run, why);
  next_output(core, job, run);
}

void take_piece(Core& core, JobRecord& job, FinishRun& run, const Request& request, const wire::FromHost& answer) {
  if (answer.has_failure() || !answer.has_file())
    return skip_output(core, job, run, host_error(request, answer).message());
  const auto& data = answer.file().data();
  if (data.data().empty() && !data.end()) return skip_output(core, job, run, "an empty piece that is not the last");
  run.storing = {data.data().size(), data.end()};
  core.effects.push_back(StoreOutputPiece{job.job, job.spec.outputs[run.file], run.offset, data.data(), data.end()});
}

void confirm(Core& core, JobRecord& job) {
  auto& run = *core.run(job.job).finish;
  enter(core, run, Phase::confirm, kConfirm);
  core.ask_gang(Owner::finish, job, {}, run.waiting, [](wire::ToHost& m, const HostName&) { m.mutable_query(); });
}

void terminate(Core& core, JobRecord& job, FinishRun& run) {
  enter(core, run, Phase::terminate, kStopGrace + kAnswerSlack);
  core.ask_gang(Owner::finish, job, {}, run.waiting, [](wire::ToHost& m, const HostName&) {
    m.mutable_stop()->set_grace_ms(static_cast<std::uint32_t>(kStopGrace.count()));
  });
}

void terminated(Core& core, JobRecord& job, FinishRun& run) {
  core.cancel(job.job, Owner::finish);  // a late answer is none to what is asked next
  if (run.own_end) return confirm(core, job);
  drain(core, job, run);
}

FinishRun& begin_end(Core& core, JobRecord& job, const std::string& detail) {
  auto& run = core.run(job.job).finish.emplace();
  run.outcome = *job.exit_code == 0 ? JobState::completed : JobState::failed;
  if (*job.exit_code != 0)
    run.reason =
        fmt::format("the program ended with exit code {}{}", *job.exit_code, detail.empty() ? "" : ": " + detail);
  return run;
}

// Something of the gang was lost while it ended: the exit code is no proof of a result. True: the job is brought back,
// and there is no end any more.
bool doubt(Core& core, JobRecord& job, FinishRun& run, const automatic::Loss& loss) {
  const auto refused = run.stops.empty() ? automatic::refusal(core, job, loss) : "";
  if (refused) {
    run.outcome = JobState::failed;
    run.reason = loss::verdict(core, job, loss, *refused);
    return false;
  }
  core.cancel(job.job, Owner::finish);
  core.run(job.job).finish.reset();
  job.exit_code.reset();
  loss::job_lost(core, job, loss);
  return true;
}

// mpirun says 0 also when it lost a part of the job. True: the job is brought back, and there is no end any more.
bool doubt_of_ranks(Core& core, JobRecord& job, FinishRun& run, const HostName& host,
                    const google::protobuf::RepeatedPtrField<wire::RankReport>& ranks) {
  for (const wire::RankReport& rank : ranks)
    if (rank.state() == wire::RankReport::FAILED)
      return doubt(
          core, job, run,
          {fmt::format("rank {} was gone without MPI_Finalize as the program ended", rank.rank()), false, host});
  return false;
}

// host_gone: nobody answers there any more. loss: of that host's guests.
void gang_partly_gone(Core& core, JobRecord& job, FinishRun& run, const HostName& host, bool host_gone,
                      const automatic::Loss& loss) {
  const std::string& why = loss.why;
  const bool awaited = run.waiting.contains(host);
  if (host == core.host_of(job, 0)) run.source_lost = why;
  if (host_gone && host == core.host_of(job, 0)) run.source_gone = why;
  // Before all have confirmed; also while a coordinator that started anew has the program's processes ended.
  const bool unconfirmed = run.phase == Phase::confirm || run.phase == Phase::terminate;
  if (unconfirmed && (awaited || !host_gone) && run.outcome == JobState::completed &&
      doubt(core, job, run, {why + " as the program ended", loss.host_lost, loss.suspect}))
    return;
  if (run.phase == Phase::destroy) return;  // fence::expire, or the host's answer, sees to it
  if (!awaited) return;
  std::erase_if(core.requests, [&](const auto& entry) {
    return entry.second.job == job.job && entry.second.owner == Owner::finish && entry.second.host == host;
  });
  run.waiting.erase(host);
  switch (run.phase) {
    case Phase::confirm:
      if (run.waiting.empty()) next_output(core, job, run);
      return;
    case Phase::fetch: return skip_output(core, job, run, why);  // a piece on its way to the disk: on_stored goes on
    case Phase::terminate:
      if (run.waiting.empty()) terminated(core, job, run);
      return;
    case Phase::drain:
    case Phase::destroy: return;
  }
}

std::string rank_name(const wire::RankFailed& rank) {
  return rank.rank() == std::numeric_limits<std::uint32_t>::max() ? "a rank" : fmt::format("rank {}", rank.rank());
}

// MPI_Abort, or exit before MPI_Finalize: mpirun, which tolerates failed processes, does not end the others.
void on_own_end(Core& core, JobRecord& job, const wire::RankFailed& rank) {
  auto& runs = core.run(job.job);
  const bool runs_now = job.state == JobState::running || job.state == JobState::checkpointing;
  if (runs.finish || runs.start || !runs_now) return;
  if (runs.rank_lost) return;  // a rank gives up because another one is gone
  checkpoint::abort(core, job, refused("checkpoint", job.job.value, "the program ended"));
  job.exit_code = rank.exit_code() == 0 ? 1 : rank.exit_code();
  const std::string what = fmt::format("{}: {}", rank_name(rank), rank.detail());
  core.set_state(job, JobState::running, "the program ended; its results are being taken");
  core.note(Log::Level::info, job.job, {}, {}, "program ended", fmt::format("exit code {}: {}", *job.exit_code, what));
  auto& run = begin_end(core, job, what);
  run.own_end = true;
  terminate(core, job, run);
}

}  // namespace

void on_job_ended(Core& core, JobRecord& job, const wire::JobExited& exited) {
  auto& runs = core.run(job.job);
  if (runs.restart || (runs.start && runs.start->phase != StartRun::Phase::launch))
    return core.stale({}, job.job, {}, "the end of a program that does not run");
  if (runs.finish) {
    runs.finish->output_end = exited.output_offset();
    return on_output(core, job);
  }
  core.cancel(job.job, Owner::start);
  runs.start.reset();
  if (const auto early = std::exchange(runs.failed_early, {}); early && !early->second.has_exit_code())
    on_rank_lost(core, job, early->first, early->second);
  checkpoint::abort(core, job, refused("checkpoint", job.job.value, "the program ended"));
  job.exit_code = exited.exit_code();
  core.set_state(job, JobState::running, "the program ended; its results are being taken");
  core.note(Log::Level::info, job.job, {}, {}, "program ended", fmt::format("exit code {}", *job.exit_code));
  auto& run = begin_end(core, job, exited.detail());
  // An exit code of its own is the program's word, whatever its ranks saw of each other's end.
  const bool by_signal = *job.exit_code == 0 || *job.exit_code >= kKilledBySignal;
  if (runs.rank_lost && by_signal && doubt(core, job, run, {runs.rank_lost->second, false, std::nullopt})) return;
  run.output_end = exited.output_offset();
  confirm(core, job);
}

void take_up_end(Core& core, JobRecord& job) {
  auto& run = begin_end(core, job, "");
  if (!job.stopping) {
    job.missing_outputs.clear();  // they are fetched once more
    core.save(job);
    run.own_end = true;  // perhaps: then its processes are not ended yet
    return terminate(core, job, run);
  }
  if (!job.reason.empty()) {
    run.outcome = JobState::failed;
    run.reason = job.reason;
  }
  destroy(core, job, run);
}

void take_up_stop(Core& core, JobRecord& job) {
  auto& run = core.run(job.job).finish.emplace();
  run.outcome = JobState::stopped;
  destroy(core, job, run);
}

void on_host_lost(Core& core, JobRecord& job, const HostName& host) {
  auto& runs = core.run(job.job);
  for (auto& query : runs.queries) query.waiting.erase(host);
  if (!core.is_in_gang(job, host)) return;
  const Error error{ErrorKind::transient, "", "host " + host.value, "it was lost: no word for a whole lease"};
  if (runs.finish)
    return gang_partly_gone(core, job, *runs.finish, host, true,
                            {fmt::format("host {} was lost", host.value), true, host});
  if (runs.start) {
    if (runs.start->phase != StartRun::Phase::fence) start::fail(core, job, error);
    return;
  }
  if (runs.restart) {
    if (runs.restart->phase != RestartRun::Phase::fence && runs.restart->phase != RestartRun::Phase::place)
      restart::fail_lost(core, job, error);
    return;
  }
  if (job.state == JobState::running || job.state == JobState::checkpointing)
    loss::job_lost(core, job, {fmt::format("host {} was lost", host.value), true, host});
}

void on_guests_gone(Core& core, JobRecord& job, const HostName& host, const std::string& why, bool reported) {
  auto& runs = core.run(job.job);
  const Error error{ErrorKind::transient, "", "host " + host.value, why};
  if (runs.finish) return gang_partly_gone(core, job, *runs.finish, host, false, {why, !reported, host});
  if (runs.start) {
    const auto& start = *runs.start;
    const bool coming =
        start.phase == StartRun::Phase::fence || (start.phase == StartRun::Phase::boot && start.waiting.contains(host));
    if (coming) return;
    hosts::failed(core, host);
    return start::fail(core, job, error);
  }
  if (runs.restart) {
    const auto& restart = *runs.restart;
    const bool coming = restart.phase == RestartRun::Phase::fence || restart.phase == RestartRun::Phase::place ||
                        (restart.phase == RestartRun::Phase::restore && restart.waiting.contains(host));
    if (coming) return;
    hosts::failed(core, host);
    return restart::fail_lost(core, job, error);
  }
  if (job.state != JobState::running && job.state != JobState::checkpointing) return;
  hosts::failed(core, host);
  loss::job_lost(core, job, {why, !reported, host});
}

bool is_given_up(Core& core, const JobRecord& job, const HostName& host) {
  const auto& run = core.run(job.job).finish;
  return run && run->phase == Phase::destroy && !run->waiting.contains(host);
}

void on_rank_lost(Core& core, JobRecord& job, const HostName& host, const wire::RankFailed& rank) {
  auto& runs = core.run(job.job);
  if (runs.restart || runs.start) {
    if (!runs.failed_early) runs.failed_early = {host, rank};
    return;
  }
  if (rank.has_exit_code()) return on_own_end(core, job, rank);
  if (runs.finish || runs.rank_lost) return;
  const std::string why = fmt::format("{} failed: {}", rank_name(rank), rank.detail());
  core.note(Log::Level::error, job.job, host, {}, "rank lost", why);
  // Its program's own end, with the exit code and the last output, may be on its way.
  runs.rank_lost = {core.now + kAnswerSlack, why};
}

void on_answer(Core& core, const Request& request, const wire::FromHost& answer) {
  auto& job = core.job(request.job);
  auto& run = *core.run(request.job).finish;  // cancel() took the requests when it ended
  if (run.phase == Phase::fetch) {
    run.waiting.clear();
    return take_piece(core, job, run, request, answer);
  }
  if (run.phase == Phase::destroy && !fence::answered(core, request, answer)) return;
  // A guest that cannot say what its ranks do is there all the same; a StopJob that failed is followed by destruction.
  if (run.phase == Phase::confirm && answer.has_ranks()) {
    ranks::learn(core, job, answer.ranks().ranks());
    if (run.outcome == JobState::completed && doubt_of_ranks(core, job, run, request.host, answer.ranks().ranks()))
      return;
  }
  run.waiting.erase(request.host);
  if (!run.waiting.empty()) return;
  switch (run.phase) {
    case Phase::terminate: return terminated(core, job, run);
    case Phase::confirm: return next_output(core, job, run);
    case Phase::destroy: return over(core, job);
    case Phase::fetch:
    case Phase::drain: return;
  }
}

void on_stored(Core& core, const OutputPieceStored& event) {
  JobRecord* job = core.find(event.job);
  FinishRun* run = job == nullptr || !core.run(event.job).finish ? nullptr : &*core.run(event.job).finish;
  if (run == nullptr || run->phase != Phase::fetch || !run->storing || job->spec.outputs[run->file] != event.file ||
      run->offset != event.offset)
    return core.stale({}, event.job, {}, "a stored piece of " + event.file + " that nobody waits for");
  if (event.error) return skip_output(core, *job, *run, event.error->message());
  run->offset += run->storing->length;
  if (run->storing->last) {
    run->file += 1;
    run->offset = 0;
  }
  run->storing.reset();
  next_output(core, *job, *run);
}

void on_output(Core& core, JobRecord& job) {
  auto& runs = core.run(job.job);
  if (!runs.finish || runs.finish->phase != Phase::drain) return;
  if (runs.finish->output_end && runs.output.known && runs.output.durable >= *runs.finish->output_end)
    destroy(core, job, *runs.finish);
}

void on_stop(Core& core, const StopJob& event) {
  JobRecord* job = core.find(event.job);
  if (job == nullptr)
    return core.refuse(event.request, Error{ErrorKind::not_found, "stop", event.job.value, "no such job"});
  if (job->state == JobState::stopped) return core.reply(event.request, Acknowledged{});
  if (is_over(job->state))
    return core.refuse(event.request, refused("stop", event.job.value,
                                              fmt::format("the job is {} already", coordinator::name(job->state))));
  auto& runs = core.run(event.job);
  if (runs.finish) {  // it is ending anyway
    if (runs.finish->stops.size() >= kMaxStops)
      return core.refuse(event.request,
                         Error{ErrorKind::transient, "stop", event.job.value, "too many wait for its end already"});
    runs.finish->stops.push_back(event.request);
    return;
  }
  const bool launched = job->state == JobState::running || job->state == JobState::checkpointing;
  job->stopping = true;
  core.save(*job);
  core.note(Log::Level::info, event.job, {}, {}, "stop asked", "");
  const Error why = refused("stop", event.job.value, "the job is being stopped");
  checkpoint::abort(core, *job, why);
  restart::cancel(core, *job, why);
  core.cancel(event.job, Owner::start);
  runs.start.reset();
  auto& run = runs.finish.emplace();
  run.outcome = JobState::stopped;
  run.stops.push_back(event.request);
  if (!launched) return destroy(core, *job, run);
  terminate(core, *job, run);
}

void tick(Core& core, JobRecord& job) {
  auto& runs = core.run(job.job);
  if (runs.rank_lost && !runs.finish && core.now >= runs.rank_lost->first) {
    const std::string why = runs.rank_lost->second;
    runs.rank_lost.reset();
    return loss::job_lost(core, job, {why, false, std::nullopt});
  }
  if (!runs.finish) return;
  auto& run = *runs.finish;
  if (run.phase == Phase::destroy) {
    fence::expire(core, job, Owner::finish, run.waiting);
    if (run.waiting.empty()) return over(core, job);
  }
  const bool all_is_there = run.phase == Phase::drain && is_all_that_comes(core, job, run);
  if (core.now < run.deadline && !all_is_there) return;
  switch (run.phase) {
    case Phase::terminate:
      core.note(Log::Level::warn, job.job, {}, {}, "stop took too long", "no answer from " + joined(run.waiting));
      return terminated(core, job, run);
    case Phase::confirm: {
      const auto silent = run.waiting;
      core.cancel(job.job, Owner::finish);
      run.waiting.clear();
      if (run.outcome == JobState::completed &&
          doubt(core, job, run,
                {fmt::format("host {} did not answer as the program ended", joined(silent)), true, std::nullopt}))
        return;
      return next_output(core, job, run);
    }
    case Phase::fetch: {
      core.cancel(job.job, Owner::finish);
      return skip_output(core, job, run, "it took too long");
    }
    case Phase::drain: miss_end_of_output(core, job, run); return destroy(core, job, run);
    case Phase::destroy:
      core.note(Log::Level::warn, job.job, {}, {}, "not destroyed everywhere", "still asking " + joined(run.waiting));
      return over(core, job);
  }
}

std::string_view name(Phase phase) {
  switch (phase) {
    case Phase::terminate: return "terminate";
    case Phase::confirm: return "confirm";
    case Phase::fetch: return "fetch";
    case Phase::drain: return "output";
    case Phase::destroy: return "destroy";
  }
  return "";
}

}  // namespace stillpoint::coordinator::finish
