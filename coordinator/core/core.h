// The core's memory and what all its machines share: records and the Persist effects that go with them, hosts and
// their sessions, requests and their answers. Private to coordinator/core; owned by one Coordinator, its strand only.
//
// Rules that the machines (start, checkpoint, restart, finish) keep:
//  - A record is changed only together with save(): the effect that makes it durable stands before every Send that
//    follows in the step.
//  - What is here and not in `catalog` may be lost at any moment; recovery.h says how it is made again.
//  - Requests are answered by host, incarnation and epoch; anything else is counted as stale and logged.
#pragma once

#include <deque>
#include <memory>
#include <set>

#include "common/failure.h"
#include "coordinator/core/coordinator.h"

namespace stillpoint::coordinator {

inline constexpr std::uint32_t kPieceBytes = 256u << 10;          // of a file, one message
inline constexpr std::size_t kEarlyOutputBytes = 1u << 20;        // output kept while the stored length is not known
inline constexpr std::uint64_t kUndurableOutputBytes = 8u << 20;  // given to the disk and not durable yet, per job
inline constexpr std::uint64_t kUndurableInAll = 32u << 20;  // of all jobs: the disk's queue never makes the core wait
inline constexpr std::chrono::milliseconds kOutputGap{10'000};   // until output that does not come is given up
inline constexpr std::uint64_t kMostFiller = 1u << 30;           // in all; more lost output is not gone behind
inline constexpr std::chrono::minutes kOutputTold{10};           // between two words that it is not
inline constexpr std::uint64_t kFillerBytes = 1u << 20;          // that take its place, at a time
inline constexpr std::size_t kMaxQueries = 64;                   // rank queries under way, per job
inline constexpr std::size_t kMaxStops = 64;                     // clients that wait for one stop
inline constexpr std::size_t kMaxTurns = 16;                     // checkpoints of a job that wait for their turn
inline constexpr std::chrono::milliseconds kAnswerSlack{2'000};  // hosts answer at their deadline; hear them out
inline constexpr std::chrono::milliseconds kEnoughRounds{500};   // of counting; then the freeze decides
inline constexpr std::chrono::milliseconds kSettle{200};         // for the kernel's TCP to settle under freeze
inline constexpr std::chrono::milliseconds kStopGrace{5'000};    // SIGTERM to SIGKILL
inline constexpr std::chrono::milliseconds kDestroyDeadline{60'000};
inline constexpr std::chrono::milliseconds kRemoveDeadline{60'000};
inline constexpr std::chrono::milliseconds kVerifyDeadline{600'000};  // of an epoch, and longer for a large one:
inline constexpr std::uint64_t kImageBytesPerMs = 10'000;             // what a busy disk, network or cap takes at least
inline constexpr std::chrono::milliseconds kFullNoteEvery{60'000};    // "no room" in a job's history, at most
inline constexpr std::chrono::milliseconds kPieceDeadline{90'000};    // of an image that leaves or comes, and for more
inline constexpr std::size_t kMaxImports = 8;                         // at a time
inline constexpr std::size_t kMaxExportPieces = 32;                   // under way at a time
inline constexpr std::chrono::milliseconds kLaterRetry{30'000};       // between tries of a copy that follows a commit
inline constexpr std::chrono::milliseconds kRetry{5'000};             // between tries of a clean-up that failed

// Which machine a request's answer belongs to.
enum class Owner {
  start,
  checkpoint,
  restart,
  finish,
  remove,
  verify,
  prune,
  query,
  transfer,
  later,
  record,
  rebuild,
  background
};

struct Request {
  std::uint64_t id = 0;
  Owner owner = Owner::background;
  HostName host;  // empty: any host will do (images lie where all reach them)
  JobId job;
  wire::ToHost message;
  CommonPart common = nullptr;       // of the message
  std::optional<SessionId> sent_on;  // the session it went out on; nothing: waits for the host
  Time not_before{};                 // a clean-up that failed is tried again then
};

// What is known of a host. Survives sessions, not the coordinator.
struct HostRun {
  bool connected = false;
  bool silent = false;          // no word for a few heartbeats; said once
  bool lost = false;            // no word for a whole lease; said once
  std::optional<Time> failed;   // when it, or a guest on it, was last lost
  std::optional<Time> refused;  // when it last could not start or restore a guest
  std::optional<Time> watched;  // connected, and not in the record yet, from here on
  SessionId session{};          // of the connection, while connected
  Time last_word{};             // from the host; the start of this coordinator when there was none yet
  Time last_sent{};             // to the host: its own lease counts from there at the earliest
  Time welcomed{};              // in this session
  Time next_ping{};
  std::uint64_t ping = 0;  // number of the last one
  bool ping_out = false;   // not answered yet: no further one is sent
  wire::HostHello hello;   // without its gangs
  std::uint64_t memory_free = 0;
  std::uint64_t image_free = 0;
  wire::StoreFigures store;
  std::set<Epoch> unrecorded;              // whose record it is to get (checkpoint_records.h)
  std::set<Epoch> postponed;               // of those, which it could not keep: tried again at record_again
  std::optional<std::uint64_t> recording;  // the request that takes it one
  Time record_again{};
  std::string record_obstacle;  // why; empty: it could keep the last one
};

// The program's output: received in order, durable up to, and what came before the stored length was known.
struct OutputRun {
  bool known = false;
  bool measuring = false;
  std::uint64_t received = 0;
  std::uint64_t durable = 0;
  // From a new incarnation's first moment until the stored output is cut back to where that one goes on: what it says
  // early is put by, and nothing is acknowledged. What is stored beyond the cut was another incarnation's, and an
  // acknowledgement of it would make the restored guest forget output that it is yet to send.
  bool paused = false;
  std::uint64_t truncations = 0;            // so many were asked for
  std::optional<std::uint64_t> truncating;  // answers with another number are of what was asked before
  Time next_measure{};                      // when it is not known
  std::string failure;                      // of the last try to store something; empty since something was stored
  // The guest sends from here on and nothing before, though that is not stored: since when.
  struct Gap {
    Time since{};
    std::uint64_t end = 0;
    bool filling = false;  // it is lost: something else takes its place
  };
  std::optional<Gap> gap;
  std::vector<std::pair<std::uint64_t, std::string>> early;
  std::size_t early_bytes = 0;
};

// A fresh launch. Exists while the job is pending behind a fence or starting.
struct StartRun {
  enum class Phase { fence, boot, files, launch } phase = Phase::fence;
  std::set<HostName> waiting;
  Time deadline{};
  std::size_t file = 0;      // index in spec.files
  std::uint64_t offset = 0;  // of the piece under way
  std::uint64_t piece = 0;   // its length
  bool last = false;
  bool ready = false;  // all files are there: it is launched when the output of what was before is cut off
};

struct CheckpointRun {
  enum class Phase {
    examine,
    prepare,
    close,
    reopen,
    defer,
    drain,
    freeze,
    thaw,
    capture,
    release,
    examine_again,
    upload,
    gap
  };
  Phase phase = Phase::examine;
  Epoch epoch;
  std::optional<RequestId> request;
  std::set<HostName> waiting;
  Time asked{}, shut{}, since{}, deadline{};
  double stall_ms = 0;                // gates shut to gates open
  Time quiet_by{};                    // close to frozen, however often the gates were closed
  std::chrono::milliseconds pause{};  // with the gates open, before they are closed once more
  std::string deferring;              // ranks inside calls that must finish first, for people
  std::uint64_t packets = 0;          // that the taps' alarm saw during the hold
  std::string first_packet;
  unsigned verified = 0;  // how often the cut was looked at
  std::uint32_t round = 0;
  std::uint64_t step = 0;  // of what hosts are asked, counted (ToHost's step)
  std::map<std::uint32_t, wire::RoundFigures> previous, current;
  std::map<std::uint32_t, wire::GuestCut> cuts;
  std::vector<std::string> problems;  // of the last look at the cut
  bool second_look = false;           // since the freeze
  std::map<std::uint32_t, wire::GuestImage> images;
  bool all_held = true;
  PhaseTimes phases;
  // The test-only control: hosts one after another.
  std::optional<std::chrono::milliseconds> gap;
  std::vector<HostName> turns;
  std::size_t turn = 0;
};

struct RestartRun {
  enum class Phase { fence, place, restore, resume, links, truncate, release } phase = Phase::fence;
  std::optional<RequestId> request;
  Epoch epoch;
  bool fall_back = false;       // no epoch was named: an older one will do when this one is damaged
  std::vector<HostName> hosts;  // allowed; empty = as the spec says
  bool skip_link_check = false;
  bool automatic = false;           // nobody asked for it: it waits for room, and is tried again
  std::optional<HostName> suspect;  // avoided while other hosts have room
  Time not_before{};                // nothing is placed until then
  std::set<HostName> waiting;
  Time asked{}, since{}, deadline{};
  std::map<std::uint32_t, wire::LinkReport> links;
  std::optional<Error> damage;  // of an image, while the other hosts' answers are awaited
  std::string story;            // for people: why it comes back; which epochs were passed over and why
  PhaseTimes phases;
};

// The end of a job: by itself or because the user asked for it.
struct FinishRun {
  enum class Phase { terminate, confirm, fetch, drain, destroy } phase = Phase::confirm;
  JobState outcome = JobState::completed;
  std::string reason;
  std::set<HostName> waiting;
  Time deadline{};
  std::size_t file = 0;  // index in spec.outputs
  std::uint64_t offset = 0;
  // Of the piece given to the disk. The next one is asked for when this one is stored: a slow disk holds up the job's
  // end and nothing else.
  struct Piece {
    std::uint64_t length = 0;
    bool last = false;
  };
  std::optional<Piece> storing;
  std::string source_gone;                  // why guest 0 cannot be read from any more
  std::string source_lost;                  // what was lost where guest 0 is, perhaps guest 0 itself
  std::optional<std::uint64_t> output_end;  // as the program's end said; nothing: not heard (again) yet
  bool own_end = false;  // the program ended itself and its processes have to be ended: terminate, then as usual
  std::vector<RequestId> stops;
};

struct RemoveRun {
  RequestId request;
  Time deadline{};
};

// Images being read back, one epoch after the other; the hosts that stored parts of one side by side.
struct VerifyRun {
  RequestId request;
  std::vector<Epoch> left;  // in order, the one under way in front
  EpochCheck current;       // so far
  // Of its guests: those of which some place has a whole image, and those of which some place has a damaged one that
  // nothing could put right.
  std::set<std::uint32_t> whole, damaged;
  Time deadline{};
  std::vector<EpochCheck> done;
};

// Whoever asked for a pruning hears of it when the images are deleted, or at the deadline.
struct PruneRun {
  RequestId request;
  Time deadline{};
  Pruned answer;
};

// A checkpoint that comes from another site. It is nowhere but here, and its pieces at hosts and in the output's file,
// until it is committed with its job in one transaction: a coordinator that ends before that has never heard of it, and
// what hosts hold of it is deleted as left over.
struct ImportRun {
  JobRecord job;      // its placement: where each guest's image goes
  EpochRecord epoch;  // its images: without files until these are whole
  std::set<std::pair<std::uint32_t, ImagePart>> whole;
  std::uint64_t output = 0;          // durable
  std::optional<RequestId> request;  // under way: one at a time
  bool finishing = false;
  std::set<HostName> waiting;  // while finishing
  Time deadline{};             // for the next word of whoever it is that waits: the client, a host, the disk
};

// Records of checkpoints being read from all hosts; in memory only, whoever asked asks again.
struct RebuildRun {
  RequestId request;
  std::map<JobId, std::map<Epoch, EpochRecord>> epochs;  // as found so far
  std::map<JobId, JobRecord> jobs;                       // as the newest of them describes it
  std::vector<std::string> problems;
  std::uint64_t untold = 0;  // problems more than that
  Time deadline{};           // for the next word of a host
};

// A client that waits for a host's piece.
struct TransferWait {
  RequestId client;
  Time deadline{};
};

struct RanksQuery {
  RequestId request;
  std::set<HostName> waiting;
  Time deadline{};
};

struct JobRun {
  std::optional<StartRun> start;
  std::optional<CheckpointRun> checkpoint;
  std::optional<RestartRun> restart;
  std::optional<FinishRun> finish;
  std::optional<RemoveRun> remove;
  std::optional<VerifyRun> verify;
  std::optional<PruneRun> prune;
  std::deque<CheckpointJob> turns;  // checkpoints that were asked for while one is under way
  OutputRun output;
  std::vector<RanksQuery> queries;
  std::uint32_t rank_count = 0;                     // spec.ranks(), a sum over all guests; 0: not counted yet
  std::map<std::uint32_t, wire::RankReport> ranks;  // as last heard
  std::map<std::uint64_t, std::optional<wire::LaunchOutcome>> launches;  // of this incarnation; nothing: under way
  std::map<Epoch, Time> exported_until;         // an export reads them: not pruned while it goes on
  std::map<Epoch, std::set<HostName>> cleanup;  // aborted epochs that hosts still have to let go
  Time next_checkpoint{};
  Time quiet_until{};          // no checkpoint by itself before
  Time later_not_before{};     // copies that follow a commit
  std::string later_obstacle;  // why the last one could not be made; empty: it could
  Time next_full_note{};       // when it may be said again that there is no room for a checkpoint
  unsigned failed_starts = 0;
  Time start_not_before{};            // of a pending job
  std::optional<Time> no_room_since;  // of a pending job that could not be placed
  // Said while that incarnation's start or restart is not known to be done: taken up when it is.
  std::optional<std::pair<HostName, wire::RankFailed>> failed_early;
  std::optional<std::pair<Time, std::string>> rank_lost;  // fails the job then, unless its own end is heard before
};

struct Core {
  Core(Settings s, CatalogState c) : settings(s), catalog(std::move(c)) {}

  Settings settings;
  CatalogState catalog;
  Time now{};
  WallSeconds wall = 0;
  Time begun{};  // first step of this coordinator
  Time last_step{};
  bool recovered = false;
  std::map<HostName, HostRun> hosts;
  std::map<JobId, JobRun> runs;
  std::map<std::uint64_t, Request> requests;
  // Requests that are perhaps not sent on their host's session, by host; the empty name: any host will do. Looked at
  // when a host has said something. Those that are over stay here until then.
  std::map<HostName, std::set<std::uint64_t>> unsent;
  std::map<JobId, ImportRun> imports;  // of jobs that are not in the catalog yet
  std::optional<RebuildRun> rebuild;
  std::map<JobId, std::set<Epoch>>
      left_over;  // images that hosts told of since the last tick, to be deleted everywhere
  std::map<JobId, std::set<Epoch>>
      unheard_of;  // that hosts have images of and the catalog does not name: they go with their job
  std::map<std::uint64_t, TransferWait> transfers;  // by request to a host: pieces of exports
  std::uint64_t next_request = 1;
  std::uint64_t rejected = 0;
  std::map<JobId, JobState> told_jobs;      // as the history says it
  std::map<Epoch, EpochState> told_epochs;  // likewise
  std::vector<EventRecord> untold;          // rows that wait for a transaction
  Effects effects;

  // ---- records: change, then save
  JobRecord* find(const JobId& job);
  JobRecord& job(const JobId& job);  // it exists
  JobRun& run(const JobId& job) { return runs[job]; }
  EpochRecord& epoch(Epoch epoch) { return catalog.epochs.at(epoch); }
  void persist(CatalogChange change);
  void save(const JobRecord& job);
  void save(const EpochRecord& epoch);
  void save_counters();
  void set_state(JobRecord& job, JobState state, std::string reason);
  // A line of history, in the catalog and in the log. history.h adds one where a change of state went without.
  void note(Log::Level level, const JobId& job, const HostName& host, Epoch epoch, std::string what,
            std::string detail);
  // The same of what the catalog keeps no record of: its row waits for the next transaction, until the next tick at the
  // latest, so that a thousand hosts that connect cost one.
  void note_soon(Log::Level level, const JobId& job, const HostName& host, Epoch epoch, std::string what,
                 std::string detail);

  // ---- answers to clients
  void reply(RequestId request, Answer answer) { effects.push_back(Reply{request, std::move(answer)}); }
  void refuse(RequestId request, Error error) { effects.push_back(Reply{request, std::move(error)}); }

  // ---- hosts
  bool connected(const HostName& host) const;
  bool usable(const HostName& host) const;  // connected and heard of lately
  bool silent(const HostName& host) const;  // not heard of lately
  std::chrono::milliseconds silent_for(const HostName& host) const;
  bool fenced_by_lease(const HostName& host) const;                // what ran there has ended itself
  std::chrono::milliseconds lease_of(const HostName& host) const;  // the longest that it may go by
  std::string underlay(const HostName& host) const;
  std::set<HostName> gang_hosts(const JobRecord& job) const;
  bool is_in_gang(const JobRecord& job, const HostName& host) const;
  std::map<HostName, std::vector<std::uint32_t>> gang(const JobRecord& job) const;  // the guests on each host
  std::vector<std::uint32_t> guests_on(const JobRecord& job, const HostName& host) const;
  const HostName& host_of(const JobRecord& job, std::uint32_t guest) const;
  // For the images of the gang's guests, on the host with most of them, beside what every host has to store them.
  std::chrono::milliseconds time_to_store(const JobRecord& job) const;

  // ---- requests
  // Fill sets the message's body, but for its common part. Sent now, or as soon as the host can be spoken to.
  template <class Fill>
  std::uint64_t ask(Owner owner, const HostName& host, const JobId& job, Incarnation incarnation, Epoch epoch,
                    Fill fill, CommonPart common = nullptr) {
    Request request{next_request++, owner, host, job, {}, std::move(common), {}, {}};
    address(request, incarnation, epoch);
    fill(request.message);
    return enqueue(std::move(request));
  }
  // To every host of the gang; waiting becomes the hosts asked.
  template <class Fill>
  void ask_gang(Owner owner, const JobRecord& job, Epoch epoch, std::set<HostName>& waiting, Fill fill,
                const CommonPart& common = nullptr) {
    waiting = gang_hosts(job);
    effects.reserve(effects.size() + waiting.size());
    for (const auto& host : waiting)
      ask(
          owner, host, job.job, job.incarnation, epoch, [&](wire::ToHost& message) { fill(message, host); }, common);
  }
  void cancel(const JobId& job, Owner owner);
  void begin_session(const HostName& host);               // what older sessions did not answer goes out again
  void flush(const HostName& host);                       // what waits for this host
  void send(const HostName& host, wire::ToHost message);  // no answer, not repeated; dropped when there is no session
  void retry_later(Request request);
  // DestroyGang in the background: until each host has answered, over reconnects.
  void destroy_gang(const JobId& job, Incarnation incarnation, const std::set<HostName>& at);
  bool is_asked(const JobId& job, Owner owner, const HostName& host) const;
  bool is_being_destroyed(const JobId& job, const HostName& host) const;  // that host has not answered yet
  // A host is lost: what images it had to delete is asked of another one, and what was asked of it in the background is
  // taken out and returned. Its lease has ended what ran there; its next hello tells what is still to be cleaned up.
  std::vector<Request> give_up(const HostName& lost);
  // Epochs' images go: every host that is up deletes what it stored and the copies that it keeps; of those that share a
  // directory one deletes what the others stored. Without any host the next one that comes deletes it all.
  void delete_images(Owner owner, const JobId& job, const std::vector<Epoch>& epochs);

  void stale(const HostName& host, const JobId& job, Epoch epoch, std::string what);

 private:
  void address(Request& request, Incarnation incarnation, Epoch epoch);
  std::uint64_t enqueue(Request request);
  void transmit(Request& request);
  bool try_transmit(Request& request);
};

// ---- small helpers
bool holds_gang(JobState state);  // starting, running, checkpointing, restarting, migrating
// A failure as a host says it. What a host does not find is no job, checkpoint or host that a client named: those are
// looked up in the core, and `not_found` stays theirs.
Error host_failure(const wire::Failure& failure);
// The failure that a host answered, with the host's name in it; or that the answer is of the wrong kind.
Error host_error(const Request& request, const wire::FromHost& answer);
Error refused(std::string step, std::string object, std::string cause);
std::string joined(const std::set<HostName>& hosts);
double ms_between(Time from, Time to);
void add_phase(PhaseTimes& phases, std::string_view name, double ms);
CommonPart common_part(const wire::ToHost& message);  // of its body
wire::GangNetwork network_of(const Core& core, const JobRecord& job);
wire::GuestHardware hardware_of(const JobSpec& spec);
std::string mac_of(const JobId& job, std::uint32_t guest);
// The job that the guests of the checkpoint were first made for, by whose id they know themselves.
JobId known_as(const EpochRecord& epoch);
std::string ip_of(std::uint32_t guest);

}  // namespace stillpoint::coordinator
