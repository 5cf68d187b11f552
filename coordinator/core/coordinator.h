// The coordinator's core: every decision about jobs, checkpoints, restarts and hosts, as a deterministic function of
// what happened. No clock, thread, I/O, randomness or log. Owned by one strand; nothing else may touch it.
#pragma once

#include <memory>

#include "coordinator/core/effects.h"

namespace stillpoint::coordinator {

struct Settings {
  std::chrono::milliseconds heartbeat{500};
  std::chrono::milliseconds lease{10'000};  // host side; the coordinator waits it out before it restarts elsewhere
  std::chrono::milliseconds start_deadline{180'000};
  std::chrono::milliseconds drain_deadline{10'000};  // close to frozen
  // How long gates stay shut for a rank inside a call that must finish first, before all are opened again.
  std::chrono::milliseconds defer_wait{200};
  std::chrono::milliseconds hold{20'000};  // hosts release by themselves after it
  std::chrono::milliseconds prepare_deadline{600'000};
  std::chrono::milliseconds capture_deadline{15'000};
  std::chrono::milliseconds upload_deadline{600'000};
  std::chrono::milliseconds restore_deadline{180'000};
  std::chrono::milliseconds link_deadline{20'000};
  unsigned verify_attempts = 5;
#ifdef NDEBUG
  bool check_invariants = false;  // after every step
#else
  bool check_invariants = true;
#endif
};

// What the API shows of a host.
struct HostView {
  HostName host;
  enum class State { up, silent, lost, cordoned } state = State::lost;  // silent: no word, its lease not over
  std::uint32_t failures = 0;         // lost hosts and lost guests, since the catalog began
  std::uint64_t watched_seconds = 0;  // connected, in that time
  std::string accelerator, accelerator_reason, capture_mode, capture_reason;
  std::uint64_t memory_bytes = 0, memory_free_bytes = 0;
  std::uint64_t image_free_bytes = 0;  // where its images go
  wire::StoreFigures store;            // of its own store
  std::uint32_t cpus = 0;
  bool connected = false;        // a session is open now
  std::uint32_t daemon_pid = 0;  // 0: never heard of since the coordinator started
  std::vector<JobId> jobs;
};

// How often a job is checkpointed by itself (interval.h), and from what that follows.
struct IntervalView {
  bool automatic = false;  // else as its manifest says, and nothing but seconds is set
  double seconds = 0;
  int epochs = 0;  // measured; 0: none yet
  double stall_ms = 0, commit_ms = 0, cost_ms = 0;
  std::uint32_t failures = 0;  // of the hosts in use
  double watched_seconds = 0;  // of all of them
  double mtbf_seconds = 0;     // of all of them together
};

class Coordinator {
 public:
  // Takes up what the catalog holds: epochs that were under way are settled as the hosts report.
  Coordinator(Settings settings, CatalogState state);
  ~Coordinator();
  Coordinator(const Coordinator&) = delete;
  Coordinator& operator=(const Coordinator&) = delete;

  // now never goes back; wall is for records only.
  Effects step(Event event, Time now, WallSeconds wall);

  // For the API, on the same strand.
  const CatalogState& state() const;
  std::vector<HostView> hosts() const;
  std::vector<wire::RankReport> last_ranks(const JobId& job) const;
  // Nothing: the job is over, or checkpointed on demand only.
  std::optional<IntervalView> interval(const JobId& job) const;
  // The hosts of its gang that are silent now, for people; empty: none.
  std::string silent_hosts(const JobId& job) const;
  // The phase a job's checkpoint or restart is in, for status and progress bars; empty when none is under way.
  std::string phase(const JobId& job) const;
  // Messages and events that were rejected because they came late, twice or out of turn.
  std::uint64_t rejected() const;
  // What must always hold and did not, as Settings::check_invariants found; for tests. Debug builds end the process.
  std::vector<std::string> broken_invariants() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace stillpoint::coordinator
