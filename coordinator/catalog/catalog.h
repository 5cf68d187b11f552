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

class Catalog {
 public:
  // Opens, or makes, the catalog at path (0600): migrates an older schema step by step, refuses a newer one, checks
  // integrity. A damaged database is an error that says so; it is never repaired or replaced silently.
  static Result<Catalog> open(const std::filesystem::path& path);

  Catalog(Catalog&&) noexcept;
  Catalog& operator=(Catalog&&) noexcept;
  ~Catalog();

  Result<CatalogState> load();
  // One transaction. After a failure nothing of it is there, and the catalog must not be used again.
  Status apply(const std::vector<CatalogChange>& changes);
  // The job's history, oldest first, the newest limit lines of it. An empty job: the site's whole history.
  Result<std::vector<EventRecord>> events(const JobId& job, std::size_t limit = 1000);

 private:
  struct Impl;
  explicit Catalog(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace stillpoint::coordinator
