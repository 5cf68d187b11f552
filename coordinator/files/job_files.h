// What the coordinator keeps of each job outside the catalog: the program's output, one growing file, and the output
// files that were fetched at the end. One worker does what the core asks, in the order it asks; appends that queue up
// share one fdatasync. Answers are events.
//
//   ROOT/JOB/output            bytes since the first launch; cut back at a restart
//   ROOT/JOB/output.eN         the stream that epoch N belongs to, for a restart from it
//   ROOT/JOB/outputs/NAME      whole output files
//   ROOT/JOB/partial/NAME      output files on their way in
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <variant>

#include "common/fd.h"
#include "coordinator/core/effects.h"
#include "coordinator/files/spools.h"

namespace stillpoint::coordinator {

class JobFiles {
 public:
  using Work = std::variant<AppendOutput, KeepOutput, DropOutput, TruncateOutput, MeasureOutput, ReadSpool,
                            StoreOutputPiece, DropOutputPieces, DropJobFiles, std::function<void()>>;
  using Tell = std::function<void(Event)>;  // called on the worker

  JobFiles(std::filesystem::path root, Spools& spools, std::size_t queue_bytes = 64u << 20)
      : root_(std::move(root)), spools_(spools), queue_bytes_(queue_bytes) {}
  ~JobFiles() { stop(); }
  JobFiles(const JobFiles&) = delete;
  JobFiles& operator=(const JobFiles&) = delete;

  // Makes the root, removes directories of jobs that are no more; not of those that is_lost says of: what became of
  // them is not known.
  Status open(const std::set<JobId>& jobs, const std::function<bool(const JobId&)>& is_lost = {});
  void start(Tell tell);
  // Does what is queued and ends. Once; nothing is queued after it.
  void stop();

  // Any thread. Waits while more than queue_bytes are queued: what cannot be written must not pile up in memory.
  void push(Work work);

  // ---- for readers; any thread, blocking
  struct Part {
    std::uint64_t length = 0;  // of all the output that is on disk
    std::string data;          // from the offset asked for; empty when that is not below length
  };
  // Of all the output that is on disk; never waits for the disk.
  std::uint64_t output_length(const JobId& job) const { return length_of(job); }
  Result<Part> read_output(const JobId& job, std::uint64_t offset, std::size_t most);

  // Of the stream that the epoch belongs to, which may not be the present one.
  Result<std::string> read_output_of(const JobId& job, Epoch epoch, std::uint64_t offset, std::size_t most);

  struct OutputFile {
    std::string name;
    std::uint64_t size = 0;
  };
  // Sorted by name. What the core has ordered so far is there only when this runs on the worker (push a function).
  Result<std::vector<OutputFile>> outputs(const JobId& job) const;
  Result<Fd> open_output(const JobId& job, const std::string& name) const;

 private:
  struct Appended {
    Fd file;
    std::uint64_t length = 0;
  };

  void run();
  void carry_out(Work& work);
  void sync_appended();
  Result<Appended*> output_of(const JobId& job);
  Status append(const AppendOutput& work);
  Status keep(const KeepOutput& work);
  Result<std::uint64_t> truncate(const TruncateOutput& work);
  SpoolRead read_spool(const ReadSpool& work) const;
  Status store(const StoreOutputPiece& work);
  void drop_pieces(const JobId& job, const std::string& file);
  void drop(const DropJobFiles& work);

  void set_length(const JobId& job, std::uint64_t length);
  std::uint64_t length_of(const JobId& job) const;
  std::filesystem::path directory(const JobId& job) const { return root_ / job.value; }

  const std::filesystem::path root_;
  Spools& spools_;
  const std::size_t queue_bytes_;
  Tell tell_;

  std::mutex mutex_;  // guards the queue
  std::condition_variable changed_;
  std::deque<Work> queue_;
  std::size_t queued_ = 0;  // bytes
  bool stopping_ = false;

  // Holds readers off while a job's files are put in place or away: a rename or an open, never more of the disk.
  std::mutex readable_;
  mutable std::mutex lengths_mutex_;        // guards lengths_ and nothing that takes time; taken after readable_
  std::map<JobId, std::uint64_t> lengths_;  // of what is on disk

  // The worker's own.
  std::set<JobId> synced_;              // whose output was made sure of by this process
  std::map<JobId, Appended> appended_;  // written, not yet synced
  std::thread worker_;
};

}  // namespace stillpoint::coordinator
