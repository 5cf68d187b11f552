// Which jobs have to come back by themselves, counted from what the simulator sees and does itself: how often each
// began anew since somebody asked for it by hand, what of it was lost, how its program ended, and where whole images
// lie. Counts are never too low: in doubt a job need not come back. Owned by the invariants.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "coordinator/core/effects.h"
#include "coordinator/core/records.h"

namespace stillpoint::simulation {

class Cluster;

class Returns {
 public:
  explicit Returns(const Cluster& cluster) : cluster_(cluster) {}

  void before_step(const coordinator::Event& event);
  void persisting(const coordinator::JobRecord& job);
  void committed(const coordinator::EpochRecord& epoch);
  // Of the jobs that have failed with what was just made durable one that should have come back; empty: none.
  std::string persisted();
  // A guest or a rank of it is gone, and no host was away for long for that.
  void lost_a_part(const JobId& job, Incarnation incarnation);
  void program_failed(const JobId& job, Incarnation incarnation);
  // What becomes of jobs then is nobody's but the client's.
  void catalog_lost() { jobs_.clear(); }

 private:
  struct Job {
    coordinator::JobState state = coordinator::JobState::pending;
    Incarnation incarnation;
    std::uint32_t returns = 0;  // since it was last restarted by hand, or submitted
    bool by_hand = false;       // its restart, under way: whoever asked hears of its failure
    bool stop_asked = false;
    std::multiset<Incarnation> losses;  // of a part each, since its last checkpoint
    std::set<Incarnation> failed;       // the program itself
  };

  std::string broken(const coordinator::JobRecord& job, const Job& known) const;
  bool has_way_back(const coordinator::JobRecord& job) const;

  const Cluster& cluster_;
  std::map<JobId, Job> jobs_;
  JobId restarted_;  // by hand, in this step
  std::vector<std::pair<JobId, Job>> failed_;
};

}  // namespace stillpoint::simulation
