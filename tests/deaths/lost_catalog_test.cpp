// The catalog is gone, with no backup: the real stillpointd begins with an empty one, and what real node daemons (on
// fake machines) have records of comes back.
#include <doctest/doctest.h>
#include <signal.h>

#include <algorithm>
#include <thread>

#include "common/process.h"
#include "tests/deaths/death_story.h"

namespace stillpoint::test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

bool hosts_are_up(DeathSite& site) {
  return wait_until([&] {
    const json hosts = site.http().get("/v1/hosts").json();
    return hosts.size() == site.hosts() &&
           std::ranges::all_of(hosts, [](const json& host) { return host["state"] == "up"; });
  });
}

// Of all hosts.
std::set<fs::path> records_of(const DeathSite& site) {
  std::set<fs::path> found;
  for (const auto& entry : fs::recursive_directory_iterator(site.path))
    if (entry.is_regular_file() && entry.path().parent_path().parent_path().filename() == "records")
      found.insert(entry.path());
  return found;
}

void lose_catalog(DeathSite& site) {
  site.coordinator().end(SIGKILL);
  for (const char* suffix : {"", "-wal", "-shm"})
    fs::remove(site.path / ("coordinator/catalog.db" + std::string(suffix)));
  const auto anew = run_process(
      {STILLPOINT_BINARY_DIR "/bin/stillpointd", "--state", (site.path / "coordinator").string(), "--new-catalog"});
  REQUIRE(anew.has_value());
  REQUIRE_MESSAGE(anew->exit_code == 0, anew->err);
  site.start_coordinator();
  REQUIRE_MESSAGE(hosts_are_up(site), site.logs());
}

json rebuild(DeathSite& site) {
  const auto reply = site.http().post("/v1/catalog/rebuild");
  REQUIRE_MESSAGE(reply.status == 200, reply.body, "\n", site.logs());
  return reply.json();
}

}  // namespace

TEST_CASE("the catalog is lost: every committed checkpoint is found again, restarts and can be removed") {
  DeathSite site(3);
  site.start_coordinator();
  for (unsigned i = 0; i < site.hosts(); ++i) site.start_node(i);
  REQUIRE(hosts_are_up(site));
  const std::string job = start_job(site, "heat"), other = start_job(site, "other");
  Told told;
  for (const std::uint64_t version : {1, 2}) {
    for (unsigned i = 0; i < site.hosts(); ++i) site.tell(i, "version " + job + " " + std::to_string(version));
    const auto taken = site.http().post("/v1/jobs/" + job + "/checkpoint");
    REQUIRE_MESSAGE(taken.status == 200, taken.body);
    told.committed.push_back(taken.json()["epoch"].get<std::uint64_t>());
  }
  REQUIRE(wait_until([&] { return records_of(site).size() == 4; }));  // of two hosts for each
  lose_catalog(site);
  CHECK(site.http().get("/v1/jobs").json().empty());

  const json found = rebuild(site);
  CHECK(found == json{{"jobs", {{{"job", job}, {"name", "heat"}, {"checkpoints", told.committed}}}},
                      {"problems", json::array()}});
  CHECK(status(site, job)["state"] == "failed");
  CHECK(rebuild(site) == json{{"jobs", json::array()}, {"problems", json::array()}});
  const auto restarted = site.http().post("/v1/jobs/" + job + "/restart");
  REQUIRE_MESSAGE(restarted.status == 200, restarted.body, "\n", site.logs());
  CHECK(restarted.json()["epoch"] == told.committed.back());
  check_runs(site, job);
  check_checkpoints(site, job, told);
  CHECK(site.double_run() == "");
  remove_job(site, job);
  CHECK(records_of(site).empty());
}

TEST_CASE("a record that is damaged is named, and the checkpoint comes back when its host has it anew") {
  DeathSite site(2);
  site.start_coordinator();
  for (unsigned i = 0; i < site.hosts(); ++i) site.start_node(i);
  REQUIRE(hosts_are_up(site));
  const std::string job = start_job(site, "heat");
  const auto taken = site.http().post("/v1/jobs/" + job + "/checkpoint");
  REQUIRE_MESSAGE(taken.status == 200, taken.body);
  REQUIRE(wait_until([&] { return records_of(site).size() == 2; }));
  const fs::path damaged = *records_of(site).begin();
  const auto whole = fs::file_size(damaged);
  fs::resize_file(damaged, whole / 2);
  // The coordinator sees from what the host says it has that it lacks this one.
  const unsigned owner = damaged.string().find("/h1/") != std::string::npos ? 0 : 1;
  site.node(owner).end(SIGKILL);
  site.start_node(owner);
  CHECK(wait_until([&] { return fs::file_size(damaged) == whole; }));

  fs::resize_file(damaged, whole / 2);
  lose_catalog(site);
  const json found = rebuild(site);
  CHECK(found["jobs"].empty());
  REQUIRE(found["problems"].size() == 2);
  CHECK_MESSAGE(
      found["problems"][0].get<std::string>().find("its length is not the one that its head says") != std::string::npos,
      found.dump());
  CHECK_MESSAGE(found["problems"][1].get<std::string>().find("records of 1 of its 2 guests") != std::string::npos,
                found.dump());
}

}  // namespace stillpoint::test
