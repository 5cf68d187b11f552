// What must hold in every history, whatever befalls the cluster; checked as things happen, in the cluster's real state,
// which no core sees as a whole. Each has a name, with which what it says begins. Beside these, the coordinator's own
// (coordinator/core/invariants.h) are checked after each of its steps. Owned by the cluster.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "coordinator/core/effects.h"
#include "node-daemon/core/effects.h"
#include "tests/simulation/agenda.h"
#include "tests/simulation/returns.h"

namespace stillpoint::simulation {

class Cluster;
struct Machine;
class HostNode;

// How often a history got as far as what the invariants speak of.
struct Met {
  std::uint64_t committed = 0, aborted = 0, damaged = 0, restored = 0, completed = 0, failed = 0;
};

class Invariants {
 public:
  explicit Invariants(const Cluster& cluster) : cluster_(cluster), returns_(cluster) {}

  // The first that did not hold, with the virtual time; empty while all do.
  const std::string& broken() const { return broken_; }
  void fail(const std::string& name, const std::string& what);
  const Met& met() const { return met_; }

  // ---- told by the cluster
  void before_step(const coordinator::Event& event);
  void after_step(const coordinator::Event& event, const coordinator::Effects& effects);
  void persisting(const coordinator::CatalogChange& change);
  void persisted();
  void sending(const HostName& host, const wire::ToHost& message);
  void replied(coordinator::RequestId request, bool asked, bool again);
  void machine_made(const HostNode& host, const Machine& made);
  void images_changed();
  void captured(const Machine& machine, Epoch epoch);
  // A held guest goes on. by_release: as it was told to, for an epoch that was not given up.
  void let_go(const Machine& machine, Epoch epoch);
  // A guest ends because of its host's lease.
  void ends_by_itself(const Machine& machine, bool lease_is_over);
  // A guest or a rank of it is gone.
  void lost_a_part(const Machine& machine);
  void program_ended(const Machine& machine, int exit_code);
  void catalog_lost() { returns_.catalog_lost(); }
  void check_machines();

 private:
  void expect(bool holds, const char* name, const std::string& what) {
    if (!holds) fail(name, what);
  }
  void check_committed(const coordinator::EpochRecord& epoch);
  void check_restorable(const coordinator::EpochRecord& epoch);
  void check_level(const coordinator::EpochRecord& epoch);
  void check_abort(const coordinator::Event& event, const coordinator::Effects& effects);

  struct Attempt {
    Epoch epoch;
    Incarnation incarnation;
  };
  // Of one guest in one hold: when it was captured and when it went on, counted in events.
  struct Hold {
    std::uint64_t captured = 0, let_go = 0;
  };

  const Cluster& cluster_;
  Returns returns_;
  std::string broken_;
  Met met_;
  std::uint64_t count_ = 0;
  std::map<Epoch, coordinator::EpochState> epochs_;
  Epoch highest_epoch_;
  std::map<JobId, Incarnation> incarnations_;
  std::map<JobId, coordinator::JobState> jobs_;
  std::map<JobId, Attempt> attempts_;  // before the step
  std::map<Epoch, Time> begun_;
  std::set<std::tuple<JobId, std::uint64_t, HostName>> restores_;  // asked for: job, incarnation, of whom
  std::map<std::pair<Epoch, std::uint32_t>, Hold> holds_;
};

}  // namespace stillpoint::simulation
