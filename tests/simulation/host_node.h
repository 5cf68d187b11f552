// One host: the node daemon's real core, and models of what it drives: machines, the store of images, its disk, and its
// end of the session. The daemon can die or stand still while the machines run on; the host can lose its power. Work
// that the core asks for takes its time, one piece after the other for each guest, and what was under way when the
// daemon died is done or not, as chance has it. Owned by the cluster.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <set>

#include "node-daemon/core/host.h"
#include "tests/simulation/network.h"
#include "tests/simulation/store.h"

namespace stillpoint::simulation {

class Cluster;

struct Machine {
  node::DomainId id;
  std::uint32_t vni = 0;
  std::uint64_t memory_bytes = 0;
  Guest guest;
  bool running = false;
  Time clock_base{};  // guest clock 0
  bool linked = false;
  std::uint64_t number = 0;  // tells it from another one of the same name
  std::uint32_t layers = 1;  // of its disk
  bool lease_over = false;   // the host's, when it stood still for that
};

class HostNode {
 public:
  HostNode(Cluster& cluster, std::size_t index);

  const HostName& name() const { return name_; }
  void boot();
  // ---- what befalls it
  void crash_daemon(Millis away);
  void pause_daemon(Millis time, bool with_machines);
  void lose_power(Millis away, bool with_disk);
  void set_disk_full(bool full) { disk_full_ = full; }
  void set_disk_slow(bool slow) { disk_slow_ = slow; }
  void set_apart(int change) { apart_ += change; }
  void lose_machine(const node::DomainId& id, const std::string& why);
  void drop_session();
  // ---- the session's other end
  void hear(const wire::ToHost& message);
  void session_closed(const Network::SessionPtr& session);
  void drop_session(const Network::SessionPtr& session) {
    if (session_ == session) drop_session();
  }
  // ---- what others see
  bool powered() const { return powered_; }
  bool is_up() const { return powered_ && core_ != nullptr && !paused_; }
  // The daemon does, but for a moment after it was away.
  bool enforces_lease() const;
  // While it does not: machines whose agents do not watch over the lease; and of a host that slept all, until the
  // agents have looked at their clocks.
  bool may_outlive_lease(const Machine& machine) const;
  bool has_session() const { return session_ != nullptr; }
  bool disk_full() const { return disk_full_; }
  bool is_apart() const { return apart_ != 0; }
  std::map<node::DomainId, Machine>& machines() { return machines_; }
  std::uint64_t memory_taken() const;
  std::vector<std::pair<node::DomainId, Epoch>> waiting_captures() const;  // for their instant, and not given up
  bool is_empty() const { return machines_.empty() && records_.empty(); }

  static constexpr std::uint64_t kMemory = 4096ull << 20;

 private:
  friend class Cluster;
  // Work of one guest (or of the gang, or of images) in order.
  struct Key {
    JobId job;
    std::uint64_t incarnation = 0;
    std::int64_t part = 0;  // guest; below 0: the gang, images
    auto operator<=>(const Key&) const = default;
  };
  using Effect = std::function<node::Event()>;
  struct Work {
    std::optional<Millis> time;  // nothing: until finish_work() is called for it
    Effect effect;
    std::function<void()> begun;
    std::uint64_t token = 0;
  };
  // From its preparation to its image in the store, or to its being given up.
  struct CaptureWork {
    std::uint64_t token = 0;
    bool begun = false, ready = false, instant = false, cancelled = false;
    StoredImage taken;
  };
  using CaptureKey = std::pair<node::DomainId, Epoch>;

  Time clock() const;  // since its boot
  Time lease_end() const;
  // What its guests were told: a daemon that ends, or stands still, does not tell of the coordinator's last word.
  Time told_lease_end() const;
  bool has_told_lease() const;
  void start_daemon();
  void end_daemon();
  void give(node::Event event);
  void step(node::Event event);
  void carry_out(node::Effects effects);
  void watch_deadline();
  void watch_figures(std::uint64_t life);
  void unpause(std::uint64_t pause);
  node::HostFigures figures() const;

  std::uint64_t line(const Key& key, std::optional<Millis> time, Effect effect, std::function<void()> begun = {});
  void begin_work(const Key& key);
  void finish_work(const Key& key, std::uint64_t token);
  Millis takes(std::uint64_t least, std::uint64_t most);

  void perform(node::SendToCoordinator& e);
  void perform(node::DropCoordinator&) { drop_session(); }
  void perform(node::SendToGuest& e);
  void perform(node::OpenLink& e);
  void perform(node::CloseLink& e);
  void perform(node::PrepareGang& e);
  void perform(node::StoreRecord& e);
  void perform(node::StoreHost& e);
  void perform(node::StoreLastWord& e);
  void perform(node::StartGuest& e);
  void perform(node::RestoreGuest& e);
  void perform(node::ResumeGuest& e);
  void perform(node::ContinueGuest& e);
  void perform(node::PrepareCapture& e);
  void perform(node::TakeInstant& e);
  void perform(node::CancelCapture& e);
  void perform(node::WatchTaps&) {}
  void perform(node::ReadTaps& e);
  void perform(node::FlattenDisk& e);
  void perform(node::DestroyGuest& e);
  void perform(node::RemoveGang& e);
  void perform(node::DeleteImages& e);
  void perform(node::ListImages& e);
  void perform(node::VerifyImages& e);
  void perform(node::CopyImages& e);
  void perform(node::TransferImage& e);
  void perform(node::CarryRecord& e);
  wire::Records records_of(wire::ReadRecords::Where where) const;
  void perform(const node::Log&) {}

  Status restore(const node::RestoreGuest& work);
  static Key key_of(const node::DomainId& id) {
    return {id.job, id.incarnation.value, static_cast<std::int64_t>(id.guest.value)};
  }
  void capture_begun(const CaptureKey& key);
  void capture_ready(const CaptureKey& key);
  void capture_now(const CaptureKey& key);
  void end_capture(const CaptureKey& key, Millis in);
  node::GuestStored store_image(const node::PrepareCapture& work, CaptureWork capture);
  std::optional<Error> copy_to_partner(const wire::Durability& durability, StoredImage& image, wire::GuestImage& said);

  // ---- machines
  Machine& make_machine(const node::GuestPlan& plan, Guest guest, Millis guest_clock);
  Machine* machine(const node::DomainId& id);
  void destroy_machine(const node::DomainId& id);
  void turn(const node::DomainId& id, std::uint64_t number);
  void turn_machine(Machine& machine);
  bool watch_lease(Machine& machine);
  void deliver(const node::DomainId& from, std::uint32_t to);
  void guest_says(const Machine& machine, wire::FromGuest message);
  Guest::Surroundings around(const Machine& machine) const;
  agent::Millis guest_clock(const Machine& machine) const;
  void freed(const Machine& machine, bool held_before);

  // ---- the session
  void dial();
  void connected(Network::SessionPtr session);
  void session_ended();
  void watch_idle();

  Cluster& cluster_;
  const std::size_t index_;
  const HostName name_;
  Dice dice_;

  bool powered_ = false, suspended_ = false, paused_ = false;
  bool disk_full_ = false, disk_slow_ = false;
  int apart_ = 0;            // counts: faults may overlap
  std::uint64_t life_ = 0;   // of the daemon
  std::uint64_t pause_ = 0;  // counts
  Time booted_{};
  Time enforcing_since_{};
  Time stood_still_{};  // the last daemon ended or was paused then
  Time woke_{};         // the host
  std::unique_ptr<node::Host> core_;
  std::deque<node::Event> inbox_;  // while it stands still
  std::optional<Time> tick_at_;
  std::map<Key, std::deque<Work>> lines_;
  std::map<CaptureKey, CaptureWork> captures_;
  std::uint64_t next_token_ = 1;
  std::uint64_t starts_ = 0;
  Millis lease_{0};  // that the daemon goes by; on its disk a moment later

  // On its disk.
  std::map<node::GangId, node::record::Gang> records_;
  node::record::Host host_record_;
  std::optional<Time> last_word_;  // not over a power loss

  struct Word {
    Time stored, word;
    Millis lease;  // by which it goes then
  };
  std::deque<Word> words_;  // the coordinator's newest

  std::map<node::DomainId, Machine> machines_;
  std::uint64_t next_machine_ = 1;

  Network::SessionPtr session_;
  Time last_frame_{};
  Millis pause_to_dial_{100};
};

}  // namespace stillpoint::simulation
