#include "tests/simulation/returns.h"

#include <fmt/format.h>

#include <algorithm>

#include "coordinator/core/automatic.h"
#include "coordinator/core/epochs.h"
#include "tests/simulation/cluster.h"

namespace stillpoint::simulation {

using namespace coordinator;

void Returns::before_step(const Event& event) {
  const auto* restart = std::get_if<RestartJob>(&event);
  restarted_ = restart == nullptr ? JobId{} : restart->job;
  if (const auto* stop = std::get_if<StopJob>(&event)) jobs_[stop->job].stop_asked = true;
}

void Returns::persisting(const JobRecord& job) {
  auto& known = jobs_[job.job];
  const bool anew = job.incarnation > known.incarnation;
  if (anew && job.job == restarted_) {
    known.returns = 0;
    known.by_hand = true;
    known.stop_asked = false;
    known.losses.clear();
  } else if (anew && known.incarnation != Incarnation{} && known.state != JobState::pending) {
    known.returns += 1;
  } else if (job.state == JobState::pending && known.state != JobState::pending) {
    known.returns += 1;  // from the beginning; its incarnation follows when there is room
  }
  if (job.state == JobState::running) known.by_hand = false;
  if (job.state == JobState::failed && known.state != JobState::failed) failed_.emplace_back(job.job, known);
  known.state = job.state;
  known.incarnation = job.incarnation;
}

void Returns::committed(const EpochRecord& epoch) {
  if (const auto known = jobs_.find(epoch.job); known != jobs_.end())
    std::erase_if(known->second.losses, [&](Incarnation lost) { return lost < epoch.incarnation; });
}

void Returns::lost_a_part(const JobId& job, Incarnation incarnation) { jobs_[job].losses.insert(incarnation); }

void Returns::program_failed(const JobId& job, Incarnation incarnation) { jobs_[job].failed.insert(incarnation); }

// A whole checkpoint that can be had, or none that could be put right and the beginning.
bool Returns::has_way_back(const JobRecord& job) const {
  const auto& durable = cluster_.coordinator->durable();
  const auto history = epochs::present_history(durable, job);
  return std::ranges::any_of(history,
                             [&](Epoch number) {
                               const auto& epoch = durable.epochs.at(number);
                               return epoch.state == EpochState::committed && !epoch.control &&
                                      cluster_.is_whole(epoch);
                             }) ||
         std::ranges::none_of(durable.epochs, [&](const auto& entry) {
           return entry.second.job == job.job && has_images(entry.second.state);
         });
}

std::string Returns::broken(const JobRecord& job, const Job& known) const {
  const auto most = cluster_.plan.shape.max_restarts;
  if (most == 0 || known.returns >= most || known.by_hand || known.stop_asked) return {};
  // A start that fails is the client's to see.
  if (known.state == JobState::pending || known.state == JobState::starting) return {};
  if (known.failed.contains(job.incarnation) || known.losses.size() >= automatic::kSamePoint || !has_way_back(job))
    return {};
  return fmt::format("{} has failed after {} returns of {} and {} losses of a part: {}", job.job.value, known.returns,
                     most, known.losses.size(), job.reason);
}

std::string Returns::persisted() {
  std::string first;
  for (const auto& [id, known] : std::exchange(failed_, {})) {
    const auto& jobs = cluster_.coordinator->durable().jobs;
    if (const auto job = jobs.find(id); first.empty() && job != jobs.end()) first = broken(job->second, known);
  }
  return first;
}

}  // namespace stillpoint::simulation
