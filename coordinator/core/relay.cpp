#include "coordinator/core/relay.h"

#include <fmt/format.h>

#include "coordinator/core/checkpoint.h"

namespace stillpoint::coordinator::relay {
namespace {

// "guest-3" -> 3, when the gang has such a guest.
std::optional<std::uint32_t> guest_named(const JobRecord& job, const std::string& name) {
  for (const auto& place : job.placement)
    if (name == fmt::format("guest-{}", place.guest.value)) return static_cast<std::uint32_t>(place.guest.value);
  return std::nullopt;
}

void answer(Core& core, JobRecord& job, const wire::LaunchOutcome& outcome) {
  core.run(job.job).launches[outcome.launch()] = outcome;
  core.ask(Owner::background, core.host_of(job, 0), job.job, job.incarnation, {},
           [&](wire::ToHost& m) { *m.mutable_answer_launch()->mutable_outcome() = outcome; });
}

void on_daemon(Core& core, const Request& request, const wire::FromHost& message) {
  JobRecord* job = core.find(request.job);
  if (job == nullptr || job->incarnation.value != request.message.gang().incarnation()) return;
  wire::LaunchOutcome outcome;
  outcome.set_launch(request.message.launch_daemon().daemon().launch());
  if (message.has_failure()) *outcome.mutable_failure() = message.failure();
  answer(core, *job, outcome);
}

// Clean-ups that must happen are tried again for as long as the host is there.
bool must_happen(const wire::ToHost& message) {
  return message.has_destroy() || message.has_release() || message.has_delete_images();
}

}  // namespace

void on_launch(Core& core, JobRecord& job, const wire::LaunchRequest& launch) {
  auto& launches = core.run(job.job).launches;
  if (const auto known = launches.find(launch.launch()); known != launches.end()) {
    if (known->second) answer(core, job, wire::LaunchOutcome(*known->second));
    return;
  }
  // mpirun starts one daemon per guest; a guest that asks for many more is broken.
  if (launches.size() > 4u * job.spec.guests + 64)
    return core.stale({}, job.job, {}, "more launches than the gang has use for");
  const auto guest = guest_named(job, launch.target());
  if (!guest) {
    wire::LaunchOutcome outcome;
    outcome.set_launch(launch.launch());
    *outcome.mutable_failure() =
        to_wire(Error{ErrorKind::not_found, "launch", launch.target(), "no guest of this name in the gang"});
    return answer(core, job, outcome);
  }
  launches.emplace(launch.launch(), std::nullopt);
  core.ask(Owner::background, core.host_of(job, *guest), job.job, job.incarnation, {}, [&](wire::ToHost& m) {
    auto& body = *m.mutable_launch_daemon();
    body.set_guest(*guest);
    body.mutable_daemon()->set_launch(launch.launch());
    for (const auto& word : launch.argv()) body.mutable_daemon()->add_argv(word);
  });
}

void on_background(Core& core, const Request& request, const wire::FromHost& message) {
  if (request.message.has_launch_daemon()) return on_daemon(core, request, message);
  const Epoch epoch{request.message.epoch()};
  if (message.has_failure() && must_happen(request.message)) {
    const Error error = host_error(request, message);
    // The gang or the epoch is not there: it need not go any more.
    const auto kind = from_wire(message.failure()).kind;
    const bool gone = kind == ErrorKind::not_found || kind == ErrorKind::refused;
    if (!gone) {
      core.note(Log::Level::warn, request.job, request.host, epoch, "clean-up failed; trying again", error.message());
      return core.retry_later(request);
    }
  } else if (message.has_failure()) {
    core.effects.push_back(
        Log{Log::Level::warn, EventRecord{core.wall, request.job, request.host, epoch, "request failed",
                                          host_error(request, message).message()}});
  }
  if (request.message.has_release() && request.message.release().discard())
    checkpoint::on_cleaned(core, request.job, epoch, request.host);
}

}  // namespace stillpoint::coordinator::relay
