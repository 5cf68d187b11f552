// The ways out of a catalog that is damaged or gone; for a coordinator that does not run, with its state directory
// locked. What was there is kept aside, never deleted. Blocking; one thread.
#pragma once

#include <filesystem>
#include <string>

#include "coordinator/core/records.h"

namespace stillpoint::coordinator {

struct PutBack {
  std::filesystem::path aside;  // where the catalog is that was there; empty: there was none
  std::string coordinator;      // whose catalog it is
  WallSeconds as_of = 0;        // of its newest line of history
  std::size_t jobs = 0;
};

// The backup, checked as a start checks the catalog, takes the catalog's place, changed as after_loss() says.
Result<PutBack> restore_catalog(const std::filesystem::path& state_directory, const std::filesystem::path& backup);
// An empty catalog of the same coordinator takes its place. Its numbers begin beyond those that a lost one can have
// given out; what lies in the stores and in the jobs' directories stays, and is not known.
Result<PutBack> begin_anew(const std::filesystem::path& state_directory);

}  // namespace stillpoint::coordinator
