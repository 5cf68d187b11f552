// The coordinator's durable memory: one SQLite database (write-ahead log, synchronous=FULL) in its state directory.
// What apply() has returned success for survives the loss of the machine; what it has not is there whole or not at
// all. SQL is in this folder only. Owned by the driver's thread; open() may run on another before. Blocking.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "coordinator/core/records.h"

namespace stillpoint::coordinator {

// For who meets damage.
inline constexpr const char* kWayOut =
    "put a backup in its place: stillpointd --state DIR --restore-catalog BACKUP; without one, begin with an empty "
    "one: stillpointd --state DIR --new-catalog; then, when the hosts are up, take in what they have records of: "
    "stillpoint catalog rebuild";

class Catalog {
 public:
  // What to make of a catalog that is not there: a first start, or (when there was one, identity.h) an error; or that
  // it is to be made anew and is not in its place yet (restore.h).
  enum class Missing { is_first_start, is_made_anew };
  // Opens, or makes, the catalog at path (0600): migrates an older schema step by step, refuses a newer one, checks
  // integrity (guard.h, plausible.h). A damaged database is an error that says so and what to do; it is never repaired
  // or replaced silently.
  static Result<Catalog> open(const std::filesystem::path& path, Missing missing = Missing::is_first_start);

  Catalog(Catalog&&) noexcept;
  Catalog& operator=(Catalog&&) noexcept;
  ~Catalog();

  Result<CatalogState> load();
  // One transaction. After a failure nothing of it is there, and the catalog must not be used again.
  Status apply(const std::vector<CatalogChange>& changes);
  // Lines of history, oldest first: of the job, or of the host where these are named, behind the id after; the first
  // limit of them, or the newest where newest is set.
  struct EventsWanted {
    JobId job;
    HostName host;
    std::uint64_t after = 0;
    std::size_t limit = 1000;
    bool newest = false;
  };
  Result<std::vector<EventRecord>> events(const EventsWanted& wanted);
  // Of the newest line ever written; 0: none.
  Result<std::uint64_t> newest_event();

 private:
  struct Impl;
  explicit Catalog(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace stillpoint::coordinator
