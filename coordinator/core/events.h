// What the coordinator's core is told. Values; made by the adapters (net/, api/, the clock), consumed by
// Coordinator::step on the core's strand. Nothing here does anything.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "common/ids.h"
#include "common/result.h"
#include "host.pb.h"

namespace stillpoint::coordinator {

// Monotonic time, as the driver measured it; the core never asks a clock.
using Time = std::chrono::time_point<std::chrono::steady_clock, std::chrono::milliseconds>;
// Seconds since the Unix epoch, for people (catalog rows), never for decisions.
using WallSeconds = std::int64_t;

// A client's question; the core answers each exactly once with a Reply effect.
using RequestId = Number<struct RequestIdTag>;
// One TLS connection of one host; a new number for each. What comes from an older session is stale.
using SessionId = Number<struct SessionIdTag>;

// What a user asked for: the manifest after validation, in the core's terms. Persisted with the job.
struct JobSpec {
  std::string name;
  std::string image = "openmpi";
  std::uint32_t guests = 1;
  std::uint32_t vcpus = 1;
  std::uint64_t memory_bytes = 0;
  std::uint64_t disk_bytes = 0;
  std::vector<std::uint32_t> ranks_per_guest;  // one entry per guest, each at least 1
  std::vector<std::string> command;
  std::map<std::string, std::string> env;
  std::string workdir = "/job";
  std::vector<std::string> files;    // names under the job's spool directory, each also its name in the workdir
  std::vector<std::string> outputs;  // names in guest 0's workdir, fetched when the program has ended
  std::optional<std::uint32_t> interval_seconds;  // periodic checkpoints; nothing: only on demand, or
  bool interval_auto = false;                     // from what is measured (interval.h)
  std::uint32_t keep = 3;
  // What becomes of a checkpoint that is asked for while another one is under way: "wait" for its turn, or "refuse".
  std::string while_uploading = "wait";
  std::string durability = "host-loss";  // or "local", "site"
  std::string later_durability;          // that committed checkpoints reach afterwards; empty: none
  bool restart_on_failure = true;
  std::uint32_t max_restarts = 5;
  std::vector<HostName> hosts;   // allowed hosts; empty = any
  bool spread = true;            // at most one guest per host while there are hosts enough
  std::string submit_directory;  // on the submitter's machine, where outputs go back to; only clients read it
  std::uint32_t ranks() const {
    std::uint32_t sum = 0;
    for (auto n : ranks_per_guest) sum += n;
    return sum;
  }
};

// ---- from hosts
struct HostConnected {
  HostName host;
  SessionId session;
  wire::HostHello hello;
};
struct HostDisconnected {
  HostName host;
  SessionId session;
};
struct HostSpoke {
  HostName host;
  SessionId session;
  wire::FromHost message;
};

// ---- from clients
struct SubmitJob {
  RequestId request;
  JobSpec spec;
  std::string manifest;
  std::string spool;
};
// control_gap_ms, test only: no quiescing; each host in turn freezes, captures and releases its guests, so long apart.
struct CheckpointJob {
  RequestId request;
  JobId job;
  std::optional<std::uint32_t> control_gap_ms;
};
// skip_link_check, test only: let the ranks go on although the links do not match.
struct RestartJob {
  RequestId request;
  JobId job;
  std::optional<Epoch> from;
  std::vector<HostName> hosts;
  bool skip_link_check = false;
};
struct StopJob {
  RequestId request;
  JobId job;
};
struct RemoveJob {
  RequestId request;
  JobId job;
};
// Images are read back and checked: of one epoch, or of all that have images.
struct VerifyJob {
  RequestId request;
  JobId job;
  std::optional<Epoch> epoch;
};
// Committed checkpoints beyond the newest `keep` go; nothing: the job's own keep.
struct PruneJob {
  RequestId request;
  JobId job;
  std::optional<std::uint32_t> keep;
};
struct CordonHost {
  RequestId request;
  HostName host;
  bool cordoned;
};
struct QueryRanks {
  RequestId request;
  JobId job;
};  // fresh rank states for `status`

// What hosts have records of and the catalog has lost is taken in.
struct RebuildCatalog {
  RequestId request;
};

// A checkpoint of another site, as its export describes it.
struct ForeignCheckpoint {
  JobSpec spec;
  std::string manifest;
  Epoch epoch;  // these two as that site counted them: the guests know them
  Incarnation incarnation;
  WallSeconds time = 0;
  std::uint64_t output_bytes = 0;
  std::vector<wire::GuestCut> cut;
  std::vector<wire::GuestImage> images;  // without their files
};
struct BeginImport {
  RequestId request;
  ForeignCheckpoint checkpoint;
};
enum class ImagePart { memory, disk, output };  // output: the program's, of no guest
struct ImportPiece {
  RequestId request;
  JobId job;
  ImagePart part;
  std::uint32_t guest;
  std::uint64_t offset;
  std::string data;
  bool last;
};
struct FinishImport {
  RequestId request;
  JobId job;
};
struct AbandonImport {
  RequestId request;
  JobId job;
};
// A piece of a committed checkpoint's image; of its output, the files have it.
struct ExportPiece {
  RequestId request;
  JobId job;
  Epoch epoch;
  ImagePart part;
  std::uint32_t guest;
  std::uint64_t offset;
};

// ---- from the coordinator's own adapters
// A piece of one of the job's input files, read from its spool directory because of a ReadSpool effect.
struct SpoolRead {
  JobId job;
  std::string file;
  std::uint64_t offset;
  std::string data;
  bool last;
  std::uint32_t mode;
  Error error;
  bool failed;
};
// Everything before offset is on disk. cut: the answer to the TruncateOutput of that number; 0: to something else.
struct OutputDurable {
  JobId job;
  std::uint64_t offset;
  std::uint64_t cut = 0;
};
struct OutputFailed {
  JobId job;
  Error error;
  std::uint64_t cut = 0;  // likewise
};
// What a StoreOutputPiece came to. With an error nothing of the file is left.
struct OutputPieceStored {
  JobId job;
  std::string file;
  std::uint64_t offset;  // of the piece
  std::optional<Error> error;
};
struct Tick {};  // time has passed; step() compares deadlines with now

using Event =
    std::variant<HostConnected, HostDisconnected, HostSpoke, SubmitJob, CheckpointJob, RestartJob, StopJob, RemoveJob,
                 VerifyJob, PruneJob, BeginImport, ImportPiece, FinishImport, AbandonImport, ExportPiece, CordonHost,
                 RebuildCatalog, QueryRanks, SpoolRead, OutputDurable, OutputFailed, OutputPieceStored, Tick>;

}  // namespace stillpoint::coordinator
