#include "coordinator/core/later.h"

#include <fmt/format.h>

#include <algorithm>

#include "coordinator/core/checkpoint_records.h"
#include "coordinator/core/copies.h"
#include "coordinator/core/leftovers.h"

namespace stillpoint::coordinator::later {
namespace {

bool is_waiting(const Core& core, const JobId& job) {
  return std::ranges::any_of(
      core.requests, [&](const auto& entry) { return entry.second.job == job && entry.second.owner == Owner::later; });
}

// In the job's history, when it is another reason than the last.
void cannot_yet(Core& core, const JobId& job, const HostName& host, Epoch epoch, const std::string& why) {
  auto& run = core.run(job);
  run.later_not_before = core.now + kLaterRetry;
  if (run.later_obstacle != why) core.note(Log::Level::warn, job, host, epoch, "not copied further yet", why);
  run.later_obstacle = why;
}

// The newest whose images are not where they shall be, and those images, by the host that stored them.
struct Next {
  Epoch epoch;
  std::map<HostName, std::vector<const wire::GuestImage*>> images;
};
std::optional<Next> next(const Core& core, const JobRecord& job) {
  for (auto entry = core.catalog.epochs.rbegin(); entry != core.catalog.epochs.rend(); ++entry) {
    const auto& [number, epoch] = *entry;
    if (epoch.job != job.job || epoch.state != EpochState::committed || epoch.control) continue;
    Next found{number, {}};
    for (const auto& image : epoch.images)
      if (!copies::reaches(image, job.spec.later_durability)) found.images[copies::owner(image)].push_back(&image);
    if (!found.images.empty()) return found;
  }
  return std::nullopt;
}

void ask(Core& core, const JobRecord& job, const Next& what) {
  const copies::Partners partners(core, job);
  for (const auto& [host, images] : what.images) {
    if (!core.usable(host)) {
      cannot_yet(core, job.job, host, what.epoch, fmt::format("host {}, which stored it, is not up", host.value));
      continue;
    }
    if (const std::string why = partners.obstacle(host, job.spec.later_durability); !why.empty()) {
      cannot_yet(core, job.job, host, what.epoch, why);
      continue;
    }
    core.ask(Owner::later, host, job.job, Incarnation{}, what.epoch, [&](wire::ToHost& m) {
      auto& body = *m.mutable_copy_images();
      *body.mutable_durability() = partners.asked_of(host, job.spec.later_durability);
      for (const auto* image : images) {
        auto& one = *body.add_images();
        one = *image;
        one.clear_domain_xml();
      }
    });
  }
}

}  // namespace

void tick(Core& core) {
  for (const auto& [id, job] : core.catalog.jobs) {
    if (job.spec.later_durability.empty() || job.attempt) continue;
    const auto& run = core.run(id);
    if (run.remove || core.now < run.later_not_before || is_waiting(core, id)) continue;
    if (const auto what = next(core, job)) ask(core, job, *what);
  }
}

void on_answer(Core& core, const Request& request, const wire::FromHost& answer) {
  const Epoch number{request.message.epoch()};
  const auto known = core.catalog.epochs.find(number);
  if (known == core.catalog.epochs.end() || !has_images(known->second.state)) {
    // Deleted meanwhile. A copy may have come to a partner that had deleted its own before.
    if (leftovers::known_deleted(core, request.job, number))
      core.delete_images(Owner::background, request.job, {number});
    return;
  }
  auto& epoch = known->second;
  if (answer.has_failure() || !answer.has_images_copied()) {
    const Error error = host_error(request, answer);
    // Another checkpoint came first: that is nothing to tell.
    if (error.kind == ErrorKind::transient && core.job(request.job).attempt)
      core.run(request.job).later_not_before = core.now + kRetry;
    else cannot_yet(core, request.job, request.host, number, error.message());
    return;
  }
  for (const auto& told : answer.images_copied().images())
    for (auto& image : epoch.images)
      if (image.guest() == told.guest() && image.memory().path() == told.memory().path()) {
        copies::add_copies(*image.mutable_memory(), told.memory());
        copies::add_copies(*image.mutable_disk(), told.disk());
      }
  core.save(epoch);
  checkpoint_records::changed(core, epoch);
  core.run(request.job).later_obstacle.clear();
  if (const auto& wanted = core.job(request.job).spec.later_durability; copies::level(epoch) == wanted) {
    core.note(Log::Level::info, request.job, {}, number, "epoch copied", "its level is " + wanted + " now");
    core.effects.push_back(JobChanged{request.job});
  }
}

void on_host_lost(Core& core, const HostName& host) {
  std::erase_if(core.requests,
                [&](const auto& entry) { return entry.second.owner == Owner::later && entry.second.host == host; });
}

}  // namespace stillpoint::coordinator::later
