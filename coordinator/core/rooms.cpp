#include "coordinator/core/rooms.h"

#include <fmt/format.h>

#include <algorithm>

namespace stillpoint::coordinator {
namespace {

constexpr std::chrono::minutes kDistrust{10};  // of a host that failed, or that could not do what it was asked

// What the guests of all jobs take of one host.
struct Taken {
  std::uint64_t promised = 0;  // bytes that other jobs than the one that is placed have or will have
  std::uint64_t coming = 0;    // of them, of guests that are only just coming up
  std::uint64_t own = 0;       // bytes that the job itself has there
  std::uint64_t vcpus = 0;     // of others that run
  std::uint64_t used = 0;      // bytes of all that run
};

std::map<HostName, std::uint64_t> guests_by_host(const JobRecord& job) {
  std::map<HostName, std::uint64_t> count;
  for (const auto& place : job.placement) count[place.host] += 1;
  return count;
}

// By host, in one pass over all places: jobs and sites may both have thousands.
std::map<HostName, Taken> taken_for(const Core& core, const JobRecord& placed) {
  std::map<HostName, Taken> taken;
  for (const auto& [id, job] : core.catalog.jobs) {
    const bool holds = holds_gang(job.state);
    const bool comes = job.state == JobState::starting || job.state == JobState::restarting;
    for (const auto& [host, guests] : guests_by_host(job)) {
      Taken& there = taken[host];
      const std::uint64_t bytes = guests * job.spec.memory_bytes;
      if (holds) there.used += bytes;
      if (id == placed.job) {
        there.own += bytes;
        continue;
      }
      if (holds) there.vcpus += guests * job.spec.vcpus;
      // A gang that is over has its memory until its host has said that it is gone.
      if (!holds && !core.is_being_destroyed(id, host)) continue;
      there.promised += bytes;
      if (comes) there.coming += bytes;
    }
  }
  return taken;
}

std::uint64_t minus(std::uint64_t a, std::uint64_t b) { return a > b ? a - b : 0; }

// Two bounds, the smaller counts: what the machine has less what is promised to guests (guests touch their memory
// late), and what it says is free less what guests that are only just coming up will take.
std::uint64_t free_on(const HostRun& host, const JobRecord& except, const Taken& taken) {
  const bool own_running = holds_gang(except.state) && except.state != JobState::starting;
  return std::min(minus(host.hello.memory_bytes(), taken.promised),
                  minus(host.memory_free + (own_running ? taken.own : 0), taken.coming));
}

// What would be free if no guest ran there: other programs of the host have memory, too.
std::uint64_t idle_memory(const HostRun& host, const Taken& taken) {
  return std::min(host.hello.memory_bytes(), host.memory_free + taken.used);
}

bool is_recent(const Core& core, const std::optional<Time>& failed) { return failed && core.now < *failed + kDistrust; }

// As if nothing of the job ran.
HostRoom room_on(const Core& core, const HostName& host, const JobRecord& job, const Taken& taken) {
  const auto& h = core.hosts.at(host);
  const double cpus = std::max<std::uint32_t>(1, h.hello.cpus());
  return {host, free_on(h, job, taken), static_cast<double>(taken.vcpus) / cpus, job.spec.vcpus / cpus,
          is_recent(core, h.failed) || is_recent(core, h.refused)};
}

bool allows(const std::vector<HostName>& allowed, const HostName& host) {
  return allowed.empty() || std::find(allowed.begin(), allowed.end(), host) != allowed.end();
}

}  // namespace

Result<std::vector<Placement>> plan_gang(const Core& core, const JobRecord& job, const std::vector<HostName>& allowed,
                                         const std::optional<HostName>& except) {
  std::vector<HostRoom> rooms;
  std::string out_of_use;
  const auto& hosts = allowed.empty() ? job.spec.hosts : allowed;
  auto taken = taken_for(core, job);
  for (const auto& [name, record] : core.catalog.hosts) {
    if (!allows(hosts, name) || name == except) continue;
    if (core.usable(name) && !record.cordoned) rooms.push_back(room_on(core, name, job, taken[name]));
    else
      out_of_use += fmt::format("{}{} is {}", out_of_use.empty() ? "" : ", ", name.value,
                                record.cordoned ? "cordoned" : "not up");
  }
  auto placed = place(rooms, job.spec.guests, job.spec.memory_bytes, job.spec.spread);
  if (placed.has_value() || out_of_use.empty()) return placed;
  Error error = placed.error();
  error.cause += "; " + out_of_use;
  return error;
}

bool fits_idle_hosts(const Core& core, const JobRecord& job) {
  std::vector<HostRoom> rooms;
  auto taken = taken_for(core, job);
  for (const auto& [name, record] : core.catalog.hosts)
    if (allows(job.spec.hosts, name) && core.usable(name) && !record.cordoned)
      rooms.push_back({name, idle_memory(core.hosts.at(name), taken[name])});
  return place(rooms, job.spec.guests, job.spec.memory_bytes, job.spec.spread).has_value();
}

std::optional<Error> unknown_hosts(const Core& core, const std::vector<HostName>& names, const std::string& step) {
  std::string unknown, known;
  for (const auto& name : names)
    if (!core.catalog.hosts.contains(name)) unknown += (unknown.empty() ? "" : ", ") + name.value;
  if (unknown.empty()) return std::nullopt;
  for (const auto& [name, record] : core.catalog.hosts) known += (known.empty() ? "" : ", ") + name.value;
  return Error{ErrorKind::not_found, step, "host " + unknown,
               "no such host; known are: " + (known.empty() ? "none" : known)};
}

}  // namespace stillpoint::coordinator
