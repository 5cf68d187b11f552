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

// "j7" → 7; nothing if it is no id that a catalog made.
std::optional<std::uint64_t> number_of(const JobId& job);

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
  std::vector<wire::GuestCut> cut;       // with state captured or later, until it is pruned
  std::vector<wire::GuestImage> images;  // with state committed or damaged
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

// What nothing can go back to needs no images and no cut in its record: they are most of a catalog's bytes, and a site
// prunes nearly every checkpoint that it takes.
void set_pruned(EpochRecord& epoch);

// What a restart under way was asked for, beside its epoch (which is restored_from).
struct RestartTerms {
  bool epoch_named = false;  // no other checkpoint will do
  std::vector<HostName> hosts;
  bool skip_link_check = false;
  bool automatic = false;           // nobody asked for it (automatic.h)
  std::optional<HostName> suspect;  // avoided while other hosts have room
  bool operator==(const RestartTerms&) const = default;
};

// In missing_outputs: of what the program printed.
inline constexpr const char* kEndOfOutput = "the end of what the program printed";

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
  std::vector<std::string> missing_outputs;  // those not fetched at the end, each with why; and kEndOfOutput
  bool stopping = false;                     // the user asked for the end
  std::optional<Epoch> attempt;              // the epoch under way, if any
  // It may run on hosts that the record does not name, which was put back from an older copy. Before anything is
  // started all hosts are fenced, and those that are not known as well.
  bool anywhere = false;
};

struct HostRecord {
  HostName host;
  std::string address;
  bool cordoned = false;
  std::uint32_t failures = 0;         // times that it was lost, or a guest on it
  std::uint64_t watched_seconds = 0;  // connected; a step behind (hosts.h)
  // The longest that it may go by: as it was told, until it surely goes by a shorter one. 0: of before this was kept.
  std::chrono::milliseconds lease{0};
};

// One line of the job's or site's history. The states are those that what it names has from then on (history.h).
struct EventRecord {
  WallSeconds time = 0;
  JobId job;         // may be empty
  HostName host;     // may be empty
  Epoch epoch;       // 0 = none
  std::string what;  // "epoch committed"
  std::string detail;
  Incarnation incarnation = {};                          // of the job; 0 = none
  std::optional<JobState> job_state = std::nullopt;      // nothing: no job is named, or it is gone
  std::optional<EpochState> epoch_state = std::nullopt;  // likewise
  std::uint64_t id = 0;                                  // the catalog's, increasing, never reused; 0 until it is there
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
  // Numbers that a catalog which was lost may have given out to jobs: nothing of theirs is known to be deleted.
  struct Lost {
    std::uint64_t first, last;
  };
  std::vector<Lost> lost_jobs;
};

// Whether a catalog that was lost may have given the number out: whoever had it is not known to be removed.
bool was_lost(const CatalogState& state, std::uint64_t job_number);
// Of that job it is known again what is deleted: its number is none of the lost ones any more.
void found_again(std::vector<CatalogState::Lost>& lost, std::uint64_t job_number);

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
struct DropEpoch {
  Epoch epoch;
};
struct AddLostJobs {
  CatalogState::Lost numbers;
};
struct FoundJob {
  std::uint64_t number;
};
using CatalogChange =
    std::variant<PutJob, DropJob, PutEpoch, PutHost, PutCounters, AddEvent, DropEpoch, AddLostJobs, FoundJob>;

}  // namespace stillpoint::coordinator
