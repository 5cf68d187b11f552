// A DomainDriver without machines, for tests and simulations: does what the script says. Domains are records, memory
// images are strings, disk layers are small files, and the guest's end of the link is handed to the test, which plays
// the agent. Any thread.
#pragma once

#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>

#include "node-daemon/domain/domain_driver.h"

namespace stillpoint::node {

class FakeDriver final : public DomainDriver {
 public:
  enum class Call { running, start, capture, describe, restore, resume, carry_on, flatten, chain, destroy, open_link };

  FakeDriver();

  // ---- the script ------------------------------------------------------------------------------------------------
  void set_probe(DriverProbe probe);
  // The next `times` calls of this kind fail with error, before they do anything.
  void fail(Call call, Error error, int times = 1);
  // The next capture fails with error after captured() was called and half of the memory was written.
  void fail_capture_half_way(Error error);
  // Calls of this kind take so long.
  void delay(Call call, std::chrono::milliseconds duration);
  // Calls of this kind wait, before they do anything, until release(). wait_held() waits until one does; false after
  // the deadline.
  void hold(Call call);
  bool wait_held(Call call, std::chrono::milliseconds deadline);
  void release(Call call);
  // What the domain's memory holds from now on: what a capture writes. Restores set it to what they were fed.
  void set_memory(const DomainId& id, std::string memory);
  void set_pause(double pause_ms);
  // The domain ends by itself; the event is sent from the caller's thread.
  void end(const DomainId& id, DomainEvent::Kind kind, std::string reason);
  // The domain stops, and says why; from the caller's thread.
  void pause(const DomainId& id, std::string reason);
  // A domain that ran before the driver was opened.
  void add_running(const DomainSpec& spec);

  // ---- what happened -----------------------------------------------------------------------------------------------
  // The guest's end of the newest link that was opened to the domain; an empty Fd after the deadline.
  Fd take_agent_end(const DomainId& id, std::chrono::milliseconds deadline);
  // False where the domain is still there after the deadline.
  bool wait_gone(const DomainId& id, std::chrono::milliseconds deadline);
  // "start j7/1/guest-0", in order.
  std::vector<std::string> calls() const;
  struct Domain {
    DomainSpec spec;
    std::string memory;
    bool paused = false;
    std::vector<std::filesystem::path> chain;  // active first
  };
  std::optional<Domain> domain(const DomainId& id) const;

  // ---- DomainDriver ------------------------------------------------------------------------------------------------
  const DriverProbe& probe() const override { return probe_; }
  void on_event(std::function<void(DomainEvent)> handler) override;
  Result<std::vector<DomainId>> running() override;
  Status start(const DomainSpec& spec) override;
  Status capture(const DomainId& id, const std::filesystem::path& new_layer, MemorySink& sink,
                 CaptureTurn& turn) override;
  Result<std::string> describe(const DomainId& id) override;
  Status restore(const DomainSpec& spec, const std::string& domain_xml, MemorySource& source) override;
  Status resume(const DomainId& id) override;
  Status carry_on(const DomainId& id) override;
  Status flatten_disk(const DomainId& id) override;
  Result<std::vector<std::filesystem::path>> disk_chain(const DomainId& id) override;
  Status destroy(const DomainId& id) override;
  Result<Fd> open_guest_link(const DomainId& id) override;

 private:
  struct Script {
    std::vector<Error> failures;  // next last
    std::chrono::milliseconds delay{0};
    bool held = false;
    int waiting = 0;
  };
  // Notes the call, waits as the script says, and gives the scripted failure. Takes the lock that the caller holds.
  Status enter(std::unique_lock<std::mutex>& lock, Call call, const DomainId& id);
  Result<Domain*> find(const DomainId& id, const char* step);  // with mutex_ held

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  DriverProbe probe_;  // before the first call only
  std::function<void(DomainEvent)> handler_;
  std::map<Call, Script> scripts_;
  std::map<DomainId, Domain> domains_;
  std::map<DomainId, Fd> agent_ends_;
  std::vector<std::string> calls_;
  std::optional<Error> half_way_;
  double pause_ms_ = 5;
};

}  // namespace stillpoint::node
