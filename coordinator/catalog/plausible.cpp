#include "coordinator/catalog/plausible.h"

#include <set>

namespace stillpoint::coordinator {
namespace {

constexpr std::uint32_t kMostVni = 0xffffff;

template <class Messages>
bool numbers_each_guest(const Messages& messages, std::uint32_t guests) {
  std::set<std::uint32_t> found;
  for (const auto& one : messages) found.insert(one.guest());
  return messages.size() == guests && found.size() == guests && *found.rbegin() == guests - 1;
}

std::optional<std::string> nonsense_in(const CatalogState& state, const JobRecord& job) {
  const std::string who = "job " + job.job.value;
  const auto number = number_of(job.job);
  if (!number || *number >= state.next_job) return who + " has a number that was not given out yet";
  if (job.vni > kMostVni) return who + " has no VXLAN id that can be";
  if (job.attempt && !state.epochs.contains(*job.attempt)) return who + " names an attempt that is not there";
  std::set<std::uint64_t> guests;
  for (const auto& place : job.placement) guests.insert(place.guest.value);
  const bool all = guests.size() == job.spec.guests && job.placement.size() == guests.size();
  if (!job.placement.empty() && !all) return who + " has a place for some of its guests only";
  const bool runs = job.state == JobState::running || job.state == JobState::checkpointing;
  if (runs && !all) return who + " runs nowhere";
  return std::nullopt;
}

std::optional<std::string> nonsense_in(const CatalogState& state, const EpochRecord& epoch) {
  const std::string who = "epoch " + std::to_string(epoch.epoch.value);
  if (epoch.epoch >= state.next_epoch) return who + " has a number that was not given out yet";
  const auto job = state.jobs.find(epoch.job);
  if (job == state.jobs.end()) return who + " has no job";
  if (epoch.incarnation > job->second.incarnation) return who + " is of an incarnation that was not begun yet";
  if (!has_images(epoch.state)) return std::nullopt;
  if (!numbers_each_guest(epoch.images, job->second.spec.guests)) return who + " has not one image of each guest";
  if (!numbers_each_guest(epoch.cut, job->second.spec.guests)) return who + " has not one cut of each guest";
  return std::nullopt;
}

}  // namespace

std::optional<std::string> nonsense_in(const CatalogState& state) {
  for (const auto& [id, job] : state.jobs)
    if (auto problem = nonsense_in(state, job)) return problem;
  for (const auto& [number, epoch] : state.epochs)
    if (auto problem = nonsense_in(state, epoch)) return problem;
  return std::nullopt;
}

}  // namespace stillpoint::coordinator
