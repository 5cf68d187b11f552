#include "coordinator/core/rooms.h"

#include <fmt/format.h>

#include <algorithm>

namespace stillpoint::coordinator {
namespace {

std::uint64_t minus(std::uint64_t a, std::uint64_t b) { return a > b ? a - b : 0; }

// Two bounds, the smaller counts: what the machine has less what is promised to guests (guests touch their memory
// late), and what it says is free less what guests that are only just coming up will take.
std::uint64_t free_on(const Core& core, const HostName& host, const JobRecord& except) {
  const auto& h = core.hosts.at(host);
  std::uint64_t promised = 0, coming = 0, own = 0;
  for (const auto& [id, job] : core.catalog.jobs) {
    const std::uint64_t bytes = core.guests_on(job, host).size() * job.spec.memory_bytes;
    if (id == except.job) own += bytes;
    if (id == except.job || !holds_gang(job.state)) continue;
    promised += bytes;
    if (job.state == JobState::starting || job.state == JobState::restarting) coming += bytes;
  }
  const bool own_running = holds_gang(except.state) && except.state != JobState::starting;
  return std::min(minus(h.hello.memory_bytes(), promised), minus(h.memory_free + (own_running ? own : 0), coming));
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
  for (const auto& [name, record] : core.catalog.hosts) {
    if (!allows(hosts, name) || name == except) continue;
    if (core.usable(name) && !record.cordoned) rooms.push_back({name, free_on(core, name, job)});
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
