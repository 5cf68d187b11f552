// Spools: what clients upload before they submit, one directory of input files each. A spool is made by a client,
// filled by it, claimed by one job, and goes with that job. Spools that no job owns are bounded in number and go at the
// next start of the coordinator. Thread-safe; everything blocks on files: call from workers.
//
//   ROOT/ID/files/NAME…   what was uploaded whole
//   ROOT/ID/partial/N     uploads under way
#pragma once

#include <atomic>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

#include "common/fd.h"
#include "coordinator/core/records.h"

namespace stillpoint::coordinator {

struct SpoolLimits {
  std::size_t unclaimed = 64;        // spools
  std::size_t files = 4096;          // in one spool
  std::uint64_t bytes = 8ull << 30;  // in one spool
  std::uint64_t file_bytes = 1ull << 30;
  std::chrono::minutes abandoned{60};  // an unclaimed spool so long untouched makes room for a new one
};

class Spools {
 public:
  // One file on its way in. Used by one thread at a time; gone without a trace unless commit() succeeds.
  class Upload {
   public:
    ~Upload();
    Upload(const Upload&) = delete;
    Upload& operator=(const Upload&) = delete;
    Status write(std::string_view data);
    // Makes it durable and gives it its name, in place of an older upload of that name.
    Status commit(mode_t mode);

   private:
    friend class Spools;
    Upload() = default;
    Spools* spools_ = nullptr;
    std::string id_, name_;
    std::filesystem::path partial_;
    Fd file_;
    std::uint64_t bytes_ = 0;
  };

  explicit Spools(std::filesystem::path root, SpoolLimits limits = {}) : root_(std::move(root)), limits_(limits) {}

  // At start: makes the root, removes every spool that owned does not name.
  Status open(const std::set<std::string>& owned);

  Result<std::string> create();
  Result<std::unique_ptr<Upload>> begin(const std::string& id, const std::string& name);
  // For a job about to be submitted: all its files are there, and nothing more is uploaded. An empty id is a job
  // without files.
  Status claim(const std::string& id, const std::vector<std::string>& files);
  void unclaim(const std::string& id);  // the job was not taken
  Status remove(const std::string& id);

  Result<Fd> open_file(const std::string& id, const std::string& name) const;

 private:
  struct Spool {
    bool claimed = false;
    std::uint64_t bytes = 0;  // uploaded or on the way; an upload that was replaced stays counted
    std::size_t files = 0;
    std::size_t uploads = 0;  // under way
    std::chrono::steady_clock::time_point touched;
  };

  std::filesystem::path directory(const std::string& id) const { return root_ / id; }
  Status charge(const std::string& id, std::uint64_t bytes);
  void ended(const std::string& id);
  std::vector<std::string> make_room(std::chrono::steady_clock::time_point now);

  const std::filesystem::path root_;
  const SpoolLimits limits_;
  std::mutex mutex_;  // guards what follows; never held while bytes are written
  std::map<std::string, Spool> spools_;
  std::atomic<std::uint64_t> next_partial_{0};
};

// 32 hex digits, as create() makes them; anything else never becomes part of a path.
bool is_spool_id(std::string_view id);

}  // namespace stillpoint::coordinator
