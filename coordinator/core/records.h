// What the catalog keeps: the coordinator's state that survives it. The core holds the same records in memory and
// changes them only together with a Persist effect that names the change. Values.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/core/events.h"

namespace stillpoint::coordinator {

enum class JobState { pending, starting, running, checkpointing, restarting, migrating, completed, failed, stopped };
std::string_view name(JobState state);
std::optional<JobState> job_state(std::string_view name);
bool is_over(JobState state);  // completed, failed, stopped

enum class EpochState {
  attempted,  // row written, nothing asked of the hosts yet or under way: not restorable
  captured,   // every guest captured and released while held: may commit, not restorable yet
  committed,  // every image durable: restorable
  damaged,    // was committed; its images were found not to be whole. Committed again when they are found whole
  aborted,    // never restorable; images to be deleted
  pruned,     // was committed or damaged; images deleted or being deleted
};
std::string_view name(EpochState state);
bool has_images(EpochState state);  // that nobody may throw away: committed, damaged
std::optional<EpochState> epoch_state(std::string_view name);

struct Placement {
  GuestIndex guest;
  HostName host;
};

// Milliseconds of each phase, in the order they ran. For people and benchmarks.
struct PhaseTimes {
  std::vector<std::pair<std::string, double>> phases;
};

struct EpochRecord {
  Epoch epoch;
  JobId job;
  Incarnation incarnation;
  Epoch restored_from;  // of that incarnation, with state committed: the checkpoint that this one's history came by
  EpochState state = EpochState::attempted;
  WallSeconds time = 0;
  std::string reason;                    // why it was aborted; what of it is damaged
  std::vector<wire::GuestCut> cut;       // with state captured or later
  std::vector<wire::GuestImage> images;  // with state committed
  std::uint64_t output_offset = 0;       // of the cut
  std::uint64_t bytes_raw = 0;
  std::uint64_t bytes_stored = 0;
  double stall_ms = 0;  // gates shut to gates open
  double capture_ms = 0;
  double commit_ms = 0;  // request to commit
  PhaseTimes phases;
  WallSeconds verified = 0;  // its images were last found whole; 0: never looked at since the commit
  bool control = false;      // made by the test-only control: no quiescing behind it
};

// What a restart under way was asked for, beside its epoch (which is restored_from).
struct RestartTerms {
  bool epoch_named = false;  // no other checkpoint will do
  std::vector<HostName> hosts;
  bool skip_link_check = false;
  bool automatic = false;           // nobody asked for it (automatic.h)
  std::optional<HostName> suspect;  // avoided while other hosts have room
  bool operator==(const RestartTerms&) const = default;
};

struct JobRecord {
  JobId job;
  JobSpec spec;
  std::string manifest;  // as submitted
  std::string spool;     // directory with the input files
  JobState state = JobState::pending;
  std::string reason;                   // for people: why pending, failed, …
  Incarnation incarnation;              // 0 before the first launch
  std::uint32_t vni = 0;                // of this incarnation
  std::vector<Placement> placement;     // of this incarnation
  Epoch restored_from;                  // of this incarnation; 0 = fresh launch
  std::optional<RestartTerms> restart;  // with state restarting
  std::uint32_t restarts = 0;
  std::uint32_t automatic_restarts = 0;  // tries by itself since it was last restarted by hand
  std::uint32_t setbacks = 0;            // of them, with no host lost, since its last checkpoint
  std::optional<int> exit_code;
  std::vector<std::string> missing_outputs;  // those not fetched at the end, each with why
  bool stopping = false;                     // the user asked for the end
  std::optional<Epoch> attempt;              // the epoch under way, if any
};

struct HostRecord {
  HostName host;
  std::string address;
  bool cordoned = false;
};

// One line of the job's or site's history.
struct EventRecord {
  WallSeconds time = 0;
  JobId job;         // may be empty
  HostName host;     // may be empty
  Epoch epoch;       // 0 = none
  std::string what;  // "epoch committed"
  std::string detail;
};

// Everything that a coordinator knows when it starts.
struct CatalogState {
  std::string coordinator;  // this catalog's own id, made once
  std::uint64_t next_job = 1;
  Epoch next_epoch{1};
  std::uint32_t next_vni = 1;
  std::map<JobId, JobRecord> jobs;
  std::map<Epoch, EpochRecord> epochs;
  std::map<HostName, HostRecord> hosts;
};

// The changes that one transaction makes. Whole records: writing one again changes nothing.
struct PutJob {
  JobRecord job;
};
struct DropJob {
  JobId job;
};  // with its epochs
struct PutEpoch {
  EpochRecord epoch;
};
struct PutHost {
  HostRecord host;
};
struct PutCounters {
  std::uint64_t next_job;
  Epoch next_epoch;
  std::uint32_t next_vni;
};
struct AddEvent {
  EventRecord event;
};
using CatalogChange = std::variant<PutJob, DropJob, PutEpoch, PutHost, PutCounters, AddEvent>;

}  // namespace stillpoint::coordinator
