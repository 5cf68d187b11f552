#include "coordinator/core/records.h"

#include <algorithm>
#include <charconv>

namespace stillpoint::coordinator {

std::optional<std::uint64_t> number_of(const JobId& job) {
  std::uint64_t number = 0;
  const std::string& text = job.value;
  const char* const end = text.data() + text.size();
  if (text.size() < 2 || text[0] != 'j' || text[1] == '0') return std::nullopt;
  const auto parsed = std::from_chars(text.data() + 1, end, number);
  if (parsed.ec != std::errc{} || parsed.ptr != end) return std::nullopt;
  return number;
}

bool was_lost(const CatalogState& state, std::uint64_t job_number) {
  return std::ranges::any_of(state.lost_jobs, [&](const CatalogState::Lost& lost) {
    return lost.first <= job_number && job_number <= lost.last;
  });
}

void found_again(std::vector<CatalogState::Lost>& lost, std::uint64_t job_number) {
  std::vector<CatalogState::Lost> rest;
  for (const auto& range : lost) {
    if (job_number < range.first || job_number > range.last) {
      rest.push_back(range);
      continue;
    }
    if (range.first < job_number) rest.push_back({range.first, job_number - 1});
    if (job_number < range.last) rest.push_back({job_number + 1, range.last});
  }
  lost = std::move(rest);
}

void set_pruned(EpochRecord& epoch) {
  epoch.state = EpochState::pruned;
  epoch.images = {};  // whose memory goes, too
  epoch.cut = {};
}

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
