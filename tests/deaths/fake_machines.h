// A fake hypervisor whose machines outlive the node daemon, as QEMU's do: what runs is kept in files, and a daemon that
// is started again finds it. Each machine has an agent that does what it is asked at once, holds and lets go by itself
// as the real one does. Tests only. Any thread.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "guest.pb.h"
#include "node-daemon/domain/fake_driver.h"

namespace stillpoint::test {

// What an agent knows of a checkpoint: it stands until it is released, or for so long.
struct Hold {
  std::uint64_t epoch = 0;    // 0: not held
  std::uint64_t lost = 0;     // let go of by itself
  std::int64_t until_ms = 0;  // on the monotonic clock; 0: it does not end by itself
  std::int64_t hold_ms = 0;
};

class FakeMachines final : public node::DomainDriver {
 public:
  // directory: for what runs here. journal: each machine's begin and end are appended, "MS begin|end j1/2/guest-0".
  FakeMachines(std::filesystem::path directory, std::filesystem::path journal);
  ~FakeMachines() override;

  // Of all machines of the job here: what a capture stores, and a restore brings back.
  void set_version(const JobId& job, std::uint64_t version);
  // "j1/2/guest-0 version 3", with " held" where it is; a line each.
  std::string list();

  const node::DriverProbe& probe() const override { return driver_.probe(); }
  void on_event(std::function<void(node::DomainEvent)> handler) override { driver_.on_event(std::move(handler)); }
  Result<std::vector<node::DomainId>> running() override { return driver_.running(); }
  Status start(const node::DomainSpec& spec) override;
  Status capture(const node::DomainId& id, const std::filesystem::path& new_layer, node::MemorySink& sink,
                 node::CaptureTurn& turn) override;
  Result<std::string> describe(const node::DomainId& id) override { return driver_.describe(id); }
  Status restore(const node::DomainSpec& spec, const std::string& xml, node::MemorySource& source) override;
  Status resume(const node::DomainId& id) override;
  Status carry_on(const node::DomainId& id) override { return driver_.carry_on(id); }
  Status flatten_disk(const node::DomainId& id) override;
  Result<std::vector<std::filesystem::path>> disk_chain(const node::DomainId& id) override {
    return driver_.disk_chain(id);
  }
  Status destroy(const node::DomainId& id) override;
  Result<Fd> open_guest_link(const node::DomainId& id) override;

 private:
  struct Machine {
    std::string mac, disk;
    std::uint64_t version = 0;
    bool paused = false;
    Hold hold;
  };

  void take_up();
  void keep(const node::DomainId& id);  // with mutex_ held
  std::filesystem::path file_of(const node::DomainId& id) const;
  void note(const node::DomainId& id, const char* what);
  void serve(const node::DomainId& id, const std::stop_token& stop);
  wire::FromGuest answer(const node::DomainId& id, const wire::GuestRequest& request);
  std::optional<std::string> hello(const node::DomainId& id);

  const std::filesystem::path directory_, journal_;
  node::FakeDriver driver_;
  std::mutex mutex_;  // guards what follows
  std::map<node::DomainId, Machine> machines_;
  std::vector<std::jthread> agents_;
};

}  // namespace stillpoint::test
