// The coordinator's process: the real core, and models of what its driver does: a catalog that keeps what was
// persisted, the files of the programs' output, sessions. It can die between any two effects, stand still, and find its
// disk full. The catalog is a record store, not SQLite: a Persist is one change of it, durable as a whole before the
// next effect. Owned by the cluster.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <set>

#include "coordinator/core/coordinator.h"
#include "tests/simulation/network.h"

namespace stillpoint::simulation {

class Cluster;

class CoordinatorNode {
 public:
  explicit CoordinatorNode(Cluster& cluster);

  void start();
  // ---- what befalls it
  void crash(Millis away);
  // Dies, and starts with an empty catalog, as after --new-catalog where nothing of the old one can be read. The files
  // of its jobs are there.
  void lose_catalog();
  void crash_after(std::uint64_t effects) { crash_at_ = effects_ + effects; }
  void pause(Millis time);
  void set_disk_full(bool full) { disk_full_ = full; }
  void set_disk_slow(bool slow) { disk_slow_ = slow; }
  void forget_faults() {
    crash_at_.reset();
    disk_full_ = disk_slow_ = false;
  }
  void jump_wall(std::int64_t seconds) { wall_ += seconds; }
  // ---- events
  void give(coordinator::Event event);
  // Its answer will come, unless the process dies before.
  coordinator::RequestId ask(const std::function<coordinator::Event(coordinator::RequestId)>& make);
  // ---- what others see
  bool is_up() const { return core_ != nullptr && !paused_; }
  const coordinator::CatalogState& durable() const { return durable_; }
  const coordinator::Coordinator* core() const { return core_.get(); }
  const std::map<coordinator::RequestId, Result<coordinator::Answer>>& replies() const { return replies_; }
  bool is_asked(coordinator::RequestId request) const { return asked_.contains(request); }
  std::size_t unanswered() const { return asked_.size(); }
  std::string output(const JobId& job) const;
  std::set<JobId> have_files() const;
  void session_named(const Network::SessionPtr& session, const wire::HostHello& hello);
  void session_ended(const Network::SessionPtr& session);
  void close(const Network::SessionPtr& session);

 private:
  struct Crashed {};

  void drop_files_of_removed_jobs();
  void step(coordinator::Event event);
  void tick(std::uint64_t life);
  void unpause(std::uint64_t pause);
  void carry_out(coordinator::Effect& effect);
  void persist(const coordinator::Persist& effect);
  void apply(const coordinator::CatalogChange& change);
  void send(coordinator::Send& effect);

  // Files, on one worker, in order.
  using FileWork = std::function<std::optional<coordinator::Event>()>;
  void file_work(FileWork work);
  void next_file_work(std::uint64_t life);
  void push_file_work(coordinator::Effect& effect);
  std::optional<coordinator::Event> append(const coordinator::AppendOutput& work);
  std::optional<coordinator::Event> truncate(const coordinator::TruncateOutput& work);
  std::shared_ptr<std::string>& stream(const JobId& job);

  Cluster& cluster_;
  Dice dice_;
  std::unique_ptr<coordinator::Coordinator> core_;
  coordinator::CatalogState durable_;
  std::uint64_t life_ = 0, pause_ = 0;
  bool paused_ = false, disk_full_ = false, disk_slow_ = false;
  bool tick_missed_ = false;
  std::deque<coordinator::Event> inbox_;
  coordinator::WallSeconds wall_ = 1'800'000'000;
  std::uint64_t effects_ = 0;
  std::optional<std::uint64_t> crash_at_;
  std::map<HostName, Network::SessionPtr> sessions_;  // named
  std::deque<FileWork> file_queue_;

  std::uint64_t next_request_ = 1;
  std::set<coordinator::RequestId> asked_;  // of this process, not answered yet
  std::map<coordinator::RequestId, Result<coordinator::Answer>> replies_;

  // On its disk. A stream is a file: epochs keep it as a hard link does.
  std::map<JobId, std::shared_ptr<std::string>> streams_;
  struct Kept {
    JobId job;
    std::shared_ptr<std::string> stream;
  };
  std::map<Epoch, Kept> kept_;
  std::map<JobId, std::map<std::string, std::string>> files_;
};

}  // namespace stillpoint::simulation
