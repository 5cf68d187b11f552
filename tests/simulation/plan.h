// What a history is made of: the cluster's shape and what befalls it, and when. Drawn from a seed, or read from a file:
// a history that found something is kept as text, which stays the same when the drawing changes. Values.
#pragma once

#include <string>
#include <vector>

#include "common/result.h"
#include "tests/simulation/agenda.h"

namespace stillpoint::simulation {

enum class What {
  // ---- what people do
  submit,
  checkpoint,
  restart,  // value: 0 = from the newest, n = from the n-th committed one, counted from the newest
  stop,
  remove,
  verify,
  prune,
  ranks,
  cordon,  // a host, for value ms
  end,     // the program ends by itself, with exit code value
  // ---- what befalls the coordinator; value in ms unless said otherwise
  coordinator_crash,        // and is away for value
  coordinator_crash_after,  // value effects from now, between two of them
  coordinator_pause,        // SIGSTOP, then SIGCONT
  coordinator_disk_full,
  coordinator_disk_slow,
  wall_clock,  // jumps by value seconds
  // ---- a host
  daemon_crash,
  daemon_pause,
  power_loss,  // what was not synced is gone, and all machines
  disk_loss,   // power loss, and an empty disk after it
  suspend,     // the whole host sleeps; its clock goes on
  host_disk_full,
  host_disk_slow,
  image_damage,  // of the job's newest checkpoint, where that host keeps it
  guest_dies,    // value: which guest of the job
  rank_killed,
  defer,  // the next `value` closings of the job's gates meet a call that must finish first
  // ---- the network
  session_drop,
  partition,  // both ways
  mute,       // what the host says does not arrive
  deafen,     // what the host is told does not arrive
  apart,      // the host and the others do not reach one another; the coordinator reaches all
};

struct Happening {
  Millis at{};
  What what = What::submit;
  std::uint32_t host = 0;  // 1 …
  std::uint32_t job = 0;   // 1 …, in the order of their submission
  std::int64_t value = 0;
};

struct Shape {
  std::uint64_t seed = 1;
  std::uint32_t hosts = 3;
  std::uint32_t guests = 2;        // of each job
  std::uint32_t guest_mib = 1024;  // hosts have 4096
  bool own_stores = false;         // each host has an image directory of its own
  std::string durability = "host-loss";
  bool copied_later = false;           // durability host-loss is reached after the commit
  bool old_agents = false;             // from before there were abilities: orders have no numbers, nor is there a lease
  bool catalog_lost = false;           // at the end, and made again from the records that hosts have
  bool leases_change = false;          // each coordinator begins with a lease of its own
  bool sizes_differ = false;           // each job has its own number of guests
  bool hosts_named = false;            // every second job may run on the first hosts only, as many as it has guests
  bool packed = false;                 // spread: false
  bool interval_auto = false;          // the interval is computed
  std::uint32_t interval_seconds = 0;  // 0: no periodic checkpoints, but for interval_auto
  std::uint32_t keep = 2;
  std::uint32_t max_restarts = 5;  // 0: policy never
  // Per mille of the messages between coordinator and hosts, within a session. TCP does none of this.
  std::uint32_t lost = 0, doubled = 0, overtaking = 0;
  std::uint32_t seconds = 20;  // then all faults end
};

struct Plan {
  Shape shape;
  std::vector<Happening> happenings;
};

std::string_view name(What what);
Plan draw(std::uint64_t seed);
std::string print(const Plan& plan);
std::string print(const Happening& happening);
Result<Plan> parse(const std::string& text);

}  // namespace stillpoint::simulation
