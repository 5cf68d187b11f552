#include "coordinator/core/records.h"

namespace stillpoint::coordinator {

std::string_view name(JobState state) {
  switch (state) {
    case JobState::pending: return "pending";
    case JobState::starting: return "starting";
    case JobState::running: return "running";
    case JobState::checkpointing: return "checkpointing";
    case JobState::restarting: return "restarting";
    case JobState::migrating: return "migrating";
    case JobState::completed: return "completed";
    case JobState::failed: return "failed";
    case JobState::stopped: return "stopped";
  }
  return "unknown";
}

std::optional<JobState> job_state(std::string_view text) {
  using enum JobState;
  for (auto state : {pending, starting, running, checkpointing, restarting, migrating, completed, failed, stopped})
    if (name(state) == text) return state;
  return std::nullopt;
}

bool is_over(JobState state) {
  return state == JobState::completed || state == JobState::failed || state == JobState::stopped;
}

std::string_view name(EpochState state) {
  switch (state) {
    case EpochState::attempted: return "attempted";
    case EpochState::captured: return "captured";
    case EpochState::committed: return "committed";
    case EpochState::damaged: return "damaged";
    case EpochState::aborted: return "aborted";
    case EpochState::pruned: return "pruned";
  }
  return "unknown";
}

bool has_images(EpochState state) { return state == EpochState::committed || state == EpochState::damaged; }

std::optional<EpochState> epoch_state(std::string_view text) {
  using enum EpochState;
  for (auto state : {attempted, captured, committed, damaged, aborted, pruned})
    if (name(state) == text) return state;
  return std::nullopt;
}

}  // namespace stillpoint::coordinator
