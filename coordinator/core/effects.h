// What the coordinator's core wants done, in this order. The driver carries a step's effects out one after the other:
// everything before an effect has happened (a Persist: is durable) when the effect begins. A Persist that fails stops
// the process: its restart recovers from what is durable. Values.
#pragma once

#include <memory>

#include "coordinator/core/records.h"

namespace stillpoint::coordinator {

struct Persist {
  std::vector<CatalogChange> changes;
};  // one transaction

// What is the same in the messages to many hosts, as bytes of a wire::ToHost: behind a message's own bytes they are
// merged into it. Shared by all of them, for it grows with the gang, and so does their number. Null: there is none.
using CommonPart = std::shared_ptr<const std::string>;

// Dropped when the session is not the host's current one; the core asks again after the next HostConnected.
struct Send {
  HostName host;
  SessionId session;
  wire::ToHost message;
  CommonPart common = nullptr;
};
// As the host reads it.
wire::ToHost whole_message(const Send& send);
struct CloseSession {
  HostName host;
  SessionId session;
  std::string why;
};

// ---- answers to clients
struct Submitted {
  JobId job;
  Incarnation incarnation;
};
struct CheckpointTaken {
  EpochRecord epoch;
};
struct Restarted {
  JobId job;
  Incarnation incarnation;
  Epoch epoch;
  double restart_ms = 0;
  PhaseTimes phases;
  std::string story;  // which newer checkpoints were passed over, and why; empty where none was
};
struct Ranks {
  std::vector<wire::RankReport> ranks;
};
struct EpochCheck {
  Epoch epoch;
  enum class State { ok, damaged, unchecked } state = State::unchecked;
  std::uint64_t bytes = 0;               // read
  std::vector<std::string> problems;     // what is damaged, or why it could not be checked
  std::vector<std::string> mended = {};  // what was, and is whole again, from a copy
  // What each place has of it: hosts by their names, the S3 store as "s3".
  struct Copy {
    State state = State::ok;
    std::uint64_t bytes = 0;
    unsigned unanswered = 0;  // images that were asked for and not answered: it is unchecked while there are any
  };
  std::map<std::string, Copy> copies = {};
};
struct Verified {
  JobId job;
  std::vector<EpochCheck> epochs;
};
struct Pruned {
  JobId job;
  std::vector<Epoch> pruned, kept;
  std::uint64_t freed_bytes = 0;  // as far as the hosts have said: what their packs take less than before
};
struct Rebuilt {
  struct Job {
    JobId job;
    std::string name;
    std::vector<Epoch> epochs;  // that were taken in
  };
  std::vector<Job> jobs;
  std::vector<std::string> problems;  // for people: what could not be read, or is not whole
};
struct ImportBegun {
  JobId job;
};
struct Imported {
  JobId job;
  EpochRecord epoch;
};
struct PieceRead {
  std::string data;
  bool last = false;
};
struct Acknowledged {};
using Answer = std::variant<Submitted, CheckpointTaken, Restarted, Ranks, Verified, Pruned, ImportBegun, Imported,
                            PieceRead, Rebuilt, Acknowledged>;
struct Reply {
  RequestId request;
  Result<Answer> answer;
};

// ---- the program's output and files; blocking work, done on a worker, answered by an event
struct AppendOutput {
  JobId job;
  std::uint64_t offset;
  std::string data;
};  // → OutputDurable
// A restart may go back to an epoch and later forward to one of the history that it left. So each captured epoch keeps
// the stream that it belongs to, and a restart from it goes on with that stream's bytes before offset.
struct KeepOutput {
  JobId job;
  Epoch epoch;
};  // no answer; what fails is logged
struct DropOutput {
  JobId job;
  Epoch epoch;
};  // what it kept; no answer
struct TruncateOutput {
  JobId job;
  std::uint64_t offset;
  Epoch epoch;
  std::uint64_t number;  // not 0
};                       // → OutputDurable{what is stored then, number}; never makes it longer
struct MeasureOutput {
  JobId job;
};  // → OutputDurable{what is stored now; 0 when there is nothing}; after a start of the coordinator
struct ReadSpool {
  JobId job;
  std::string spool;
  std::string file;
  std::uint64_t offset;
  std::uint32_t length;
};  // → SpoolRead
struct StoreOutputPiece {
  JobId job;
  std::string file;
  std::uint64_t offset;
  std::string data;
  bool last;
};  // → OutputPieceStored; refused when it does not follow the piece before it
struct DropOutputPieces {
  JobId job;
  std::string file;
};  // of a file that will not become whole; no answer
struct DropJobFiles {
  JobId job;
  std::string spool;
};  // spool, output, fetched files

// A structured log line.
struct Log {
  enum class Level { info, warn, error } level;
  EventRecord event;
};

// The job's state or reason changed: wakes whoever waits for it.
struct JobChanged {
  JobId job;
};

using Effect =
    std::variant<Persist, Send, CloseSession, Reply, AppendOutput, KeepOutput, DropOutput, TruncateOutput,
                 MeasureOutput, ReadSpool, StoreOutputPiece, DropOutputPieces, DropJobFiles, Log, JobChanged>;
using Effects = std::vector<Effect>;

}  // namespace stillpoint::coordinator
