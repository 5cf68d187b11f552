#include "coordinator/core/automatic.h"

#include <fmt/format.h>

#include <algorithm>

#include "coordinator/core/epochs.h"
#include "coordinator/core/restart.h"
#include "coordinator/core/start.h"

namespace stillpoint::coordinator::automatic {
namespace {

// Before the n-th try, from 1.
std::chrono::milliseconds wait_before(std::uint32_t n) {
  if (n <= 1) return std::chrono::milliseconds(0);
  const auto doublings = std::min<std::uint32_t>(n - 2, 10);
  return std::min(kLongestWait, kFirstWait * (1u << doublings));
}

// This one included: each has an incarnation. A checkpoint that was committed since is progress.
std::uint32_t tries_since(const Core& core, const JobRecord& job, std::optional<Epoch> epoch) {
  if (!epoch) return job.automatic_restarts;
  return static_cast<std::uint32_t>(job.incarnation.value - core.catalog.epochs.at(*epoch).incarnation.value) + 1;
}

std::string wait_words(std::chrono::milliseconds wait) {
  return wait.count() == 0 ? "" : fmt::format(" in {} s", wait.count() / 1000);
}

std::string point(const Core& core, const JobRecord& job) {
  const auto newest = epochs::newest_committed(core, job);
  return newest ? fmt::format("after checkpoint {}", newest->value) : std::string("before its first checkpoint");
}

// Its earlier gang is fenced by the start itself.
void start_anew(Core& core, JobRecord& job, const std::string& what, std::chrono::milliseconds wait) {
  job.exit_code.reset();
  job.missing_outputs.clear();
  core.run(job.job).start_not_before = core.now + wait;
  core.set_state(job, JobState::pending, what);
  start::try_pending(core);
}

}  // namespace

std::optional<std::string> refusal(const Core& core, const JobRecord& job, const Loss& loss) {
  if (!job.spec.restart_on_failure) return "";  // as its manifest says
  if (job.automatic_restarts >= job.spec.max_restarts)
    return fmt::format("it was restarted {} times by itself, as often as its manifest allows (restart.maxRestarts)",
                       job.automatic_restarts);
  if (!loss.host_lost && job.setbacks + 1 >= kSamePoint)
    return fmt::format("it failed {} times {} with no host lost, so the program itself may be at fault", kSamePoint,
                       point(core, job));
  // From the beginning would leave behind what may yet be put right.
  if (!epochs::newest_committed(core, job))
    if (const auto damaged = epochs::passed_over(core, job, std::nullopt); !damaged.empty())
      return fmt::format("it has no checkpoint that is whole: {}", damaged);
  return std::nullopt;
}

void bring_back(Core& core, JobRecord& job, const Loss& loss) {
  job.automatic_restarts += 1;
  if (!loss.host_lost) job.setbacks += 1;
  const auto epoch = epochs::newest_committed(core, job);
  const auto wait = wait_before(std::min(job.automatic_restarts, tries_since(core, job, epoch)));
  std::string what =
      fmt::format("{}; restart {} of {}{} {}", loss.why, job.automatic_restarts, job.spec.max_restarts,
                  wait_words(wait), epoch ? fmt::format("from checkpoint {}", epoch->value) : "from the beginning");
  if (const auto passed = epochs::passed_over(core, job, epoch); !passed.empty()) what += "; " + passed;
  core.note(Log::Level::warn, job.job, loss.suspect.value_or(HostName{}), epoch.value_or(Epoch{}), "coming back", what);
  if (!epoch) return start_anew(core, job, what, wait);
  restart::begin_automatic(core, job, *epoch, loss.suspect, what, wait);
}

void got_further(JobRecord& job) { job.setbacks = 0; }

void forget(JobRecord& job) {
  job.automatic_restarts = 0;
  job.setbacks = 0;
}

}  // namespace stillpoint::coordinator::automatic
