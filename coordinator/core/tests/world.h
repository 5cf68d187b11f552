// A cluster in memory around one Coordinator: hosts, the sessions between, the catalog that its Persist effects make,
// the stored output. Everything happens in an order that the seed decides; nothing waits.
#pragma once

#include <memory>
#include <random>

#include "coordinator/core/tests/fake_host.h"

namespace stillpoint::coordinator::testing {

JobSpec spec(std::uint32_t guests = 2);

class World {
 public:
  explicit World(int hosts, std::uint64_t seed = 0, Settings settings = {});

  // ---- what a test does
  JobId submit(JobSpec job);  // and drops the reply
  RequestId ask(std::function<Event(RequestId)> make);
  RequestId checkpoint(const JobId& job, std::optional<std::uint32_t> gap = std::nullopt);
  RequestId restart(const JobId& job, std::optional<Epoch> from = std::nullopt, std::vector<HostName> hosts = {},
                    bool skip = false);
  void run_for(milliseconds time);
  // Time goes on until it holds; false after a long time.
  bool until(const std::function<bool()>& holds, milliseconds limit = milliseconds(1'800'000));
  bool until_state(const JobId& job, JobState state);
  // Asks, waits for the answer, gives it.
  Result<Answer> answer(RequestId request);
  JobId running(JobSpec job);         // submitted, and waited for
  Epoch committed(const JobId& job);  // a checkpoint, waited for; REQUIREs it

  // ---- what befalls it
  void connect(const HostName& host);
  void drop_session(const HostName& host);
  void kill(const HostName& host);    // power loss: silence
  void revive(const HostName& host);  // empty
  void crash();                       // the coordinator; a new one starts from the catalog, hosts come back
  // The coordinator ends, and a new one starts with this catalog, changed.
  void begin_with(CatalogState state, const std::vector<CatalogChange>& changes);
  void crash_after_effects(std::uint64_t count) { crash_at_ = effects_ + count; }
  void lose_output(const JobId& job);  // its files, those of its epochs with them
  void say(const HostName& host, wire::FromHost message);
  void give(Event event) { step(std::move(event)); }

  // ---- what a test sees
  const JobRecord& job(const JobId& id) const { return durable.jobs.at(id); }
  const EpochRecord& epoch(Epoch number) const { return durable.epochs.at(number); }
  Coordinator& core() { return *core_; }
  FakeHost& host(const std::string& name) { return hosts.at(HostName{name}); }
  std::string expected_output(std::uint64_t steps) const;
  std::set<Epoch> outputs_kept() const;
  std::uint64_t effects_seen() const { return effects_; }
  std::string broken() const;  // invariants of the core and of the cluster

  Settings settings;
  Time now{milliseconds(1'000'000)};
  CatalogState durable;
  std::map<HostName, FakeHost> hosts;
  SharedStore store;
  Script script;
  std::map<JobId, std::string> output;
  std::map<std::string, std::string> outputs;  // fetched files
  std::map<std::string, std::string> spool;    // input files
  std::map<RequestId, Result<Answer>> replies;
  std::set<JobId> dropped;
  std::vector<EventRecord> history;
  std::vector<std::string> transcript;
  bool record = false;
  bool works = true;     // programs compute as time goes on
  double duplicate = 0;  // chance that an answer is delivered twice
  double disorder = 0;   // chance that a host's next answer overtakes the one before
  double loss = 0;       // chance that a message is lost with its session

  std::mt19937_64 random;

 private:
  void step(Event event);
  void apply(const CatalogChange& change);
  void carry_out(Effect& effect);
  void pump();
  bool deliver_one();
  std::shared_ptr<std::string>& stream(const JobId& job);
  void work();
  void check();
  bool chance(double p);

  std::unique_ptr<Coordinator> core_;
  std::map<HostName, std::deque<wire::ToHost>> to_host_;
  std::deque<Event> local_;
  // The output of each job's present history, and the one that each epoch belongs to: it may have grown since.
  std::map<JobId, std::shared_ptr<std::string>> streams_;
  std::map<Epoch, std::shared_ptr<std::string>> kept_;
  std::uint64_t next_session_ = 1;
  std::uint64_t next_request_ = 1;
  std::uint64_t effects_ = 0;
  std::optional<std::uint64_t> crash_at_;
  std::vector<std::string> broken_;
};

}  // namespace stillpoint::coordinator::testing
