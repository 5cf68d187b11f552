// A site in one process and virtual time: the real coordinator core, a real host core per host, and everything around
// them as models. Runs one history: what the plan says befalls it; then all faults end, and the jobs must come to a
// good end and leave nothing behind. Deterministic: the same plan gives the same history. One thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tests/simulation/coordinator_node.h"
#include "tests/simulation/host_node.h"
#include "tests/simulation/invariants.h"

namespace stillpoint::simulation {

struct Outcome {
  std::string broken;                   // empty: all invariants held
  std::vector<std::string> transcript;  // if it was asked for
  std::uint64_t steps = 0;              // of both kinds of cores
  Met met;
  std::uint64_t jobs = 0;
  Millis time{};  // virtual
};

class Cluster {
 public:
  Cluster(Plan plan, bool record);
  Outcome run();

  // ---- for the nodes
  Agenda agenda;
  const Plan plan;
  Invariants invariants;
  Network network;
  Store store;
  std::unique_ptr<CoordinatorNode> coordinator;
  std::vector<std::unique_ptr<HostNode>> hosts;
  std::uint64_t steps = 0;
  std::map<JobId, std::int64_t> deferring;  // so many closings of its gates meet a call that must finish first
  std::map<JobId, int> ending;              // programs that are to end, with their exit codes
  // Lines, of those incarnations that have come to their end: a host that slept may let an old one do so for a moment.
  std::map<std::pair<JobId, std::uint64_t>, std::uint64_t> printed;
  bool record;
  Millis lease{8'000};  // of the coordinator that runs

  HostNode* host(const HostName& name) const;
  coordinator::Settings settings() const;
  // Two hosts reach each other's machines and stores.
  bool joined(const HostNode& a, const HostNode& b) const;
  Machine* machine(const node::DomainId& id, HostNode** where = nullptr);
  bool is_heard(const HostNode& host) const;
  // Of each guest there is an image on a host that is up; and one that is not damaged.
  bool is_within_reach(const coordinator::EpochRecord& epoch) const;
  bool is_whole(const coordinator::EpochRecord& epoch) const;
  std::int64_t wall_seconds() const { return agenda.now().time_since_epoch().count() / 1000; }
  // A line of the transcript; made only if it is kept.
  template <class Make>
  void tell(const std::string& who, Make make) {
    if (record) write(who, make());
  }

 private:
  void write(const std::string& who, const std::string& what);
  void befall(const Happening& happening);
  bool befall_client(const Happening& happening);
  void befall_host(const Happening& happening, HostNode& host);
  void damage_image(const JobId& job, const HostName& host);
  void submit(const Happening& happening);
  std::optional<JobId> job(std::uint32_t number) const;
  void run_until(Time end);
  void run_on(Millis time) { run_until(agenda.now() + time); }

  // ---- the end of a history (ending.cpp)
  void calm();
  bool until(const std::function<bool()>& holds, Millis limit);
  bool takes_gangs(const HostNode& host) const;
  bool has_room(const coordinator::JobRecord& job) const;
  bool can_be_had(const coordinator::EpochRecord& epoch, bool undamaged) const;
  bool waits_for_another(const coordinator::JobRecord& job) const;
  bool waits_for_room(const coordinator::JobRecord& job) const;
  bool is_settled(const coordinator::JobRecord& job) const;
  std::string unsettled() const;
  void come_home();
  void check_captures();
  void take_checkpoints();
  void check_aborted();
  void check_records();
  bool is_together() const;
  bool come_together(Millis limit);
  void take_up_failed();
  // (lost_catalog.cpp)
  void lose_catalog();
  bool has_all_images(const coordinator::EpochRecord& epoch) const;
  void check_rebuilt(const coordinator::CatalogState& before);
  bool is_whole_output(const coordinator::JobRecord& job) const;
  void end_programs();
  void remove_jobs();
  void check_nothing_left();
  std::optional<Result<coordinator::Answer>> ask(const std::function<coordinator::Event(coordinator::RequestId)>& make);
  void count(Outcome& outcome) const;

  bool calm_ = false;  // all faults are over
  std::vector<std::string> transcript_;
  std::map<std::uint32_t, coordinator::RequestId> submissions_;
};

}  // namespace stillpoint::simulation
