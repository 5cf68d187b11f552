#include "tests/deaths/death_story.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <thread>

namespace stillpoint::test {
namespace {

using nlohmann::json;
using std::chrono::steady_clock;

constexpr std::chrono::seconds kDeadline{60};

bool in_state(DeathSite& site, const std::string& job, const std::string& state) {
  return status(site, job).value("state", "") == state;
}

json epochs(DeathSite& site, const std::string& job) {
  const json list = site.http().get("/v1/jobs/" + job + "/checkpoints").json();
  return list.is_array() ? list : json::array();
}

void set_version(DeathSite& site, const std::string& job, std::uint64_t version) {
  for (unsigned i = 0; i < site.hosts(); ++i) site.tell(i, "version " + job + " " + std::to_string(version));
}

// "j1/2/guest-0 version 1", of the job alone.
std::vector<std::string> machines_of(DeathSite& site, const std::string& job) {
  auto all = site.machines();
  std::erase_if(all, [&](const std::string& one) { return !one.starts_with(job + "/"); });
  std::ranges::sort(all);
  return all;
}

// Each guest of the job's present incarnation once, and nothing else of it. version: nothing: any.
bool is_whole(DeathSite& site, const std::string& job, std::optional<std::uint64_t> version) {
  const auto incarnation = status(site, job).value("incarnation", 0);
  const auto there = machines_of(site, job);
  if (there.size() != 2) return false;
  for (unsigned guest = 0; guest < 2; ++guest) {
    const std::string name = job + "/" + std::to_string(incarnation) + "/guest-" + std::to_string(guest) + " version ";
    const std::string& one = there[guest];
    if (!one.starts_with(name) || one.ends_with(" held") || one.ends_with(" paused")) return false;
    if (version && one != name + std::to_string(*version)) return false;
  }
  return true;
}

std::string look(DeathSite& site, const std::string& job) {
  std::string text = status(site, job).dump() + "\n" + epochs(site, job).dump() + "\n";
  for (const auto& one : site.machines()) text += one + "\n";
  return text + site.logs();
}

// A coordinator that was started anew has heard of them.
bool hosts_are_up(DeathSite& site) {
  const json hosts = site.http().get("/v1/hosts").json();
  return hosts.size() == site.hosts() &&
         std::ranges::all_of(hosts, [](const json& host) { return host["state"] == "up"; });
}

bool is_settled(const json& list) {
  return std::ranges::none_of(
      list, [](const json& epoch) { return epoch["state"] == "attempted" || epoch["state"] == "captured"; });
}

}  // namespace

bool wait_until(const std::function<bool()>& condition) {
  const auto end = steady_clock::now() + kDeadline;
  while (!condition()) {
    if (steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // between two looks; the deadline is above
  }
  return true;
}

json status(DeathSite& site, const std::string& job) {
  const json document = site.http().get("/v1/jobs/" + job).json();
  return document.is_object() ? document : json::object();
}

json spec_of(const std::string& name, unsigned guests, std::uint64_t memory_mib) {
  return {{"spec",
           {{"name", name},
            {"guests", guests},
            {"memoryBytes", memory_mib << 20},
            {"diskBytes", 64u << 20},
            {"ranksPerGuest", std::vector<int>(guests, 1)},
            {"checkpoint", {{"keep", 2}}},
            {"restart", {{"onFailure", true}, {"maxRestarts", 1000}}},
            {"command", {"heat"}}}}};
}

bool await_hosts(DeathSite& site) {
  return wait_until([&] { return hosts_are_up(site); });
}

std::string start_job(DeathSite& site, const std::string& name, std::uint64_t memory_mib) {
  const auto reply = site.http().post("/v1/jobs", spec_of(name, 2, memory_mib).dump());
  REQUIRE_MESSAGE(reply.status == 200, reply.body);
  const std::string job = reply.json()["job"];
  REQUIRE_MESSAGE(wait_until([&] { return in_state(site, job, "running"); }), look(site, job));
  return job;
}

Told tell_story(DeathSite& site, const std::string& job) {
  Told told;
  for (const std::uint64_t version : {1, 2}) {
    set_version(site, job, version);
    const auto taken = site.http().post("/v1/jobs/" + job + "/checkpoint");
    if (taken.status != 200) return told;
    told.committed.push_back(taken.json()["epoch"].get<std::uint64_t>());
  }
  told.finished = site.http().post("/v1/jobs/" + job + "/restart").status == 200;
  return told;
}

void check_runs(DeathSite& site, const std::string& job) {
  CHECK_MESSAGE(wait_until([&] {
                  return hosts_are_up(site) && in_state(site, job, "running") && is_settled(epochs(site, job)) &&
                         is_whole(site, job, std::nullopt);
                }),
                look(site, job));
}

void check_promises(DeathSite& site, const std::string& job, const Told& told) {
  std::map<std::uint64_t, std::string> states;
  for (const auto& epoch : epochs(site, job)) states[epoch["epoch"]] = epoch["state"];
  for (const auto promised : told.committed)
    CHECK_MESSAGE((states[promised] == "committed" || states[promised] == "pruned"), promised, " is ", states[promised],
                  "\n", look(site, job));
  for (const auto& [number, state] : states)
    CHECK_MESSAGE((state == "committed" || state == "aborted" || state == "pruned"), number, " is ", state);
}

void check_checkpoints(DeathSite& site, const std::string& job, const Told& told) {
  check_promises(site, job, told);
  const json list = epochs(site, job);
  std::vector<std::uint64_t> numbers;
  for (const auto& epoch : list) numbers.push_back(epoch["epoch"]);
  std::ranges::sort(numbers);
  for (const auto& epoch : list) {
    if (epoch["state"] != "committed") continue;
    const auto number = epoch["epoch"].get<std::uint64_t>();
    const auto version = static_cast<std::uint64_t>(std::ranges::find(numbers, number) - numbers.begin()) + 1;
    const auto restarted = site.http().post("/v1/jobs/" + job + "/restart", json{{"from", number}}.dump());
    CHECK_MESSAGE(restarted.status == 200, restarted.body, "\n", look(site, job));
    CHECK_MESSAGE(wait_until([&] { return in_state(site, job, "running") && is_whole(site, job, version); }), "epoch ",
                  number, " has version ", version, "\n", look(site, job));
  }
}

void remove_job(DeathSite& site, const std::string& job) {
  const auto stopped = site.http().post("/v1/jobs/" + job + "/stop");
  CHECK_MESSAGE(stopped.status == 200, stopped.body, "\n", look(site, job));
  CHECK_MESSAGE(wait_until([&] { return in_state(site, job, "stopped"); }), look(site, job));
  const auto removed = site.http().request("DELETE", "/v1/jobs/" + job, "");
  CHECK_MESSAGE(removed.status == 200, removed.body);
  CHECK_MESSAGE(wait_until([&] { return machines_of(site, job).empty() && site.files_of(job).empty(); }),
                *site.files_of(job).begin(), "\n", look(site, job));
}

}  // namespace stillpoint::test
