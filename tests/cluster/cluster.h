// A cluster without virtual machines: guests in namespaces (namespace_guest.h) joined by a bridge, their agents driven
// over the guest protocol as by a node daemon, and checkpoint cycles as the coordinator goes through them. One thread.
#pragma once

#include <chrono>
#include <map>
#include <string>
#include <vector>

#include "mpi-hooks/agent/gang.h"
#include "tests/cluster/namespace_guest.h"

namespace stillpoint::cluster {

using std::chrono::microseconds;
using std::chrono::milliseconds;

struct JobText {
  std::vector<std::string> command;
  std::vector<unsigned> ranks_per_guest;
  std::map<std::string, std::string> env = {};
};

// Deadlines and counts of one checkpoint.
struct CycleSettings {
  // For the gates, and as much again for the rounds. Long: other tests beside this one starve ranks for seconds.
  milliseconds close{20'000};
  milliseconds enough{250};  // of rounds, where a call that waits makes traffic for as long as it waits
  milliseconds settle{200};
  milliseconds hold{1};  // how long all stand still, verified
  unsigned attempts = 5;
};

struct CycleResult {
  bool quiet = false;
  std::string why;  // where it was not: the first failure, in the guests' words
  microseconds to_closed{}, to_verified{};
  unsigned reopened = 0, rounds = 0, cuts = 0;
  std::size_t sockets = 0;
  std::vector<wire::GuestCut> cut;  // where it was quiet: what was verified, and would stand with a checkpoint
};

// Whether the guests' root file system has this; a relative path.
bool image_has(const std::filesystem::path& path);

class Cluster : public agent::Gang {
 public:
  static constexpr char kWorkdir[] = "/job";
  // Of this process on the guests' bridge: a machine that is none of the gang.
  static constexpr char kOutsideAddress[] = "10.99.255.1";

  // The guests are configured when it returns; FAILs the test where that cannot be.
  explicit Cluster(unsigned guests);
  ~Cluster() override;

  // Into every guest, from the build's tests/cluster.
  void put_program(const std::string& name);
  void start(const JobText& job);
  // Until it prints text, or has ended.
  void wait_for_output(const std::string& text, milliseconds deadline);
  void wait_for_end(milliseconds deadline);

  // One checkpoint, begun to end: the job goes on when it returns, whatever came of it.
  CycleResult cycle(const CycleSettings& settings);

  // The job has ended, or a rank has died (and the others wait for the rollback that will not come here).
  bool over() const { return exited().has_value() || !failed_ranks().empty(); }

  // From here on nothing passes between this guest and the others, in either direction, and no interface says so; and
  // as it was before.
  void cut_off(unsigned guest);
  void join(unsigned guest);

  // What a coordinator asks after a restore, before anything goes on: the figures of each guest's links.
  std::vector<wire::GuestCut> check_links();
  // Bytes that are not acknowledged, of all ranks.
  std::uint64_t in_flight();

  // With what the ranks are doing.
  std::string problem() override;

  NamespaceGuest& node(unsigned guest) { return static_cast<NamespaceGuest&>(*guests_[guest]); }

 private:
  std::vector<unsigned> ranks_per_guest_;
  std::vector<std::string> ports_;  // of the bridge, by guest
};

}  // namespace stillpoint::cluster
