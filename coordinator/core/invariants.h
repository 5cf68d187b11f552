// What must hold after every step, checked there: in debug builds a broken one ends the process; tests ask for the
// list. Owned by the Coordinator; its strand.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "coordinator/core/core.h"

namespace stillpoint::coordinator {

class Invariants {
 public:
  explicit Invariants(const CatalogState& begin);

  // States after the step, the transition from the step before, and the effects that the step wants.
  void check(const Core& core, const Effects& effects);
  const std::vector<std::string>& broken() const { return broken_; }

 private:
  struct JobFacts {
    Incarnation incarnation;
    bool at_its_end;  // completed, with nothing missing: for good
    JobState state;
  };

  void expect(bool holds, const std::string& what);
  void check_job(const Core& core, const JobRecord& job);
  void check_epoch(const Core& core, const EpochRecord& epoch);
  void check_order(const Core& core, const Effects& effects);
  void check_history(const Core& core, const Effects& effects);

  std::map<Epoch, EpochState> epochs_;
  std::map<JobId, JobFacts> jobs_;
  Epoch next_epoch_;
  std::uint64_t next_job_;
  std::vector<std::string> broken_;
};

}  // namespace stillpoint::coordinator
