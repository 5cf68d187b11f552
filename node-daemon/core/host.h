// The core of a node daemon: what this host does for its gangs, as a deterministic function of what happened. No clock,
// thread, I/O, randomness or log. Owned by one strand; nothing else may touch it.
#pragma once

#include <memory>
#include <optional>

#include "node-daemon/core/effects.h"
#include "node-daemon/core/events.h"

namespace stillpoint::node {

struct HostSettings {
  HostName name;
  std::string address;  // underlay
  DriverProbe probe;
  std::uint32_t cpus = 1;
  std::uint64_t memory_bytes = 0;
  std::string version;
  std::uint32_t pid = 0;
  // Of the store of images, as in HostHello.
  std::string store_id, store_endpoint, domain;
  bool store_is_own = false, object_store = false;
  std::uint64_t first_request = 1;     // ids of guest requests go on from here: higher than any earlier daemon's
  milliseconds default_lease{10'000};  // before any coordinator has said one
  milliseconds resend{1'000};          // to agents
  milliseconds probe_after{15'000};    // an agent silent for so long is asked
  milliseconds silent_limit{60'000};   // and after so long its guest is lost
  milliseconds retry_removal{5'000};
  milliseconds retry_stopped{5'000};    // a machine that stands still, for want of room on a disk, is tried again
  milliseconds stopped_limit{600'000};  // and after so long its guest is lost
  std::uint32_t flatten_layers = 6;     // a disk chain of so many files is shortened
  std::uint32_t max_layers = 16;        // and one of so many is captured no more: with 25 a machine cannot start
  std::size_t max_guests = 48;          // on this host: each takes a worker during a capture
#ifdef NDEBUG
  bool check_invariants = false;  // after every step
#else
  bool check_invariants = true;
#endif
};

// What a starting daemon finds.
struct HostFindings {
  record::Host host;
  std::vector<record::Gang> gangs;
  std::vector<DomainId> running;
  HostFigures figures;
  std::optional<Time> last_word;  // as the daemon before kept it (StoreLastWord), if it did so since the machine's boot
};

class Invariants;

class Host {
 public:
  explicit Host(HostSettings settings);
  ~Host();
  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;

  // Once, first: takes up the gangs whose VMs still run, has everything else removed.
  Effects start(HostFindings found, Time now);
  // now never goes back.
  Effects step(Event event, Time now);
  // When the next Tick is due at the latest; nothing when nothing waits.
  std::optional<Time> next_deadline() const;
  // What must always hold and did not, as HostSettings::check_invariants found; for tests. Debug builds end the
  // process.
  std::vector<std::string> broken_invariants() const;

 private:
  struct Impl;
  Effects checked(Effects effects);

  std::unique_ptr<Impl> impl_;
  std::unique_ptr<Invariants> invariants_;
};

}  // namespace stillpoint::node
