// The real program, killed. What was promised to a client or a host before must hold after.
#include <SQLiteCpp/SQLiteCpp.h>
#include <doctest/doctest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <future>
#include <random>

#include "coordinator/api/transfer_json.h"
#include "coordinator/test_support/fake_host.h"
#include "coordinator/test_support/test_server.h"

using namespace stillpoint;
using namespace stillpoint::coordinator;
using nlohmann::json;

namespace {

// stillpointd in a process of its own; the rest as TestServer has it.
struct Process : TestServer {
  std::string port_text = "0";
  pid_t pid = 0;
  std::vector<std::unique_ptr<FakeHost>> hosts;

  ~Process() { kill_and_wait(); }

  void run() {
    const std::string program = std::string(STILLPOINT_BINARY_DIR) + "/bin/stillpointd";
    const std::string state = directory.string(), listen = "127.0.0.1:" + port_text, tls = options.tls.string();
    pid = ::fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
      ::execl(program.c_str(), "stillpointd", "--state", state.c_str(), "--listen", listen.c_str(), "--tls",
              tls.c_str(), "--heartbeat-ms", "100", "--lease-ms", "5000", "--log-level", "error", nullptr);
      ::_exit(127);
    }
    status_when("none", [&](const json&) { return http().get("/v1/health").status == 200; });
    REQUIRE(http().get("/v1/health").status == 200);
  }
  // Of a run that ends by itself.
  int run_once(std::vector<std::string> flags) {
    flags.insert(flags.begin(), {"stillpointd", "--state", directory.string(), "--log-level", "error"});
    const std::string program = std::string(STILLPOINT_BINARY_DIR) + "/bin/stillpointd";
    const pid_t once = ::fork();
    REQUIRE(once >= 0);
    if (once == 0) {
      std::vector<char*> words;
      for (auto& flag : flags) words.push_back(flag.data());
      words.push_back(nullptr);
      ::execv(program.c_str(), words.data());
      ::_exit(127);
    }
    int status = 0;
    ::waitpid(once, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  int kill_and_wait(int signal = SIGKILL) {
    if (pid == 0) return 0;
    ::kill(pid, signal);
    return wait_for_end();
  }
  int wait_for_end() {
    int status = 0;
    ::waitpid(std::exchange(pid, 0), &status, 0);
    return status;
  }
};

// A port that is free now; the program is started on it again and again.
std::string free_port() {
  TestServer probe;
  probe.start();
  return std::to_string(probe.port());
}

json spec() {
  return {{"spec",
           {{"name", "heat"},
            {"guests", 2},
            {"memoryBytes", 256u << 20},
            {"diskBytes", 1u << 30},
            {"ranksPerGuest", {1, 1}},
            {"command", {"heat"}}}}};
}

}  // namespace

TEST_CASE("killed at any moment of a checkpoint: committed or aborted, never in between, and the job runs on") {
  std::random_device seed_source;
  const auto seed = seed_source();
  CAPTURE(seed);
  std::mt19937 random(seed);
  Process site;
  site.port_text = free_port();
  site.run();
  for (const char* name : {"h1", "h2"}) {
    site.hosts.push_back(std::make_unique<FakeHost>(name, site.site.identity(name),
                                                    static_cast<std::uint16_t>(std::stoul(site.port_text))));
    site.hosts.back()->connect();
  }
  REQUIRE(site.http().post("/v1/jobs", spec().dump()).status == 200);
  REQUIRE(site.in_state("heat", "running")["state"] == "running");

  std::set<std::uint64_t> promised;
  for (int round = 0; round < 8; ++round) {
    CAPTURE(round);
    auto asked = std::async(std::launch::async, [&] { return site.http().post("/v1/jobs/heat/checkpoint"); });
    std::this_thread::sleep_for(
        std::chrono::milliseconds(std::uniform_int_distribution<int>(0, 60)(random)));  // any moment
    site.kill_and_wait();
    const auto answer = asked.get();
    if (answer.status == 200) promised.insert(answer.json()["epoch"].get<std::uint64_t>());
    site.run();
    for (auto& host : site.hosts) host->connect();
    REQUIRE(site.in_state("heat", "running")["state"] == "running");
    json list;
    site.status_when("heat", [&](const json&) {
      list = site.http().get("/v1/jobs/heat/checkpoints").json();
      return std::none_of(list.begin(), list.end(),
                          [](const json& e) { return e["state"] == "attempted" || e["state"] == "captured"; });
    });
    for (const auto& epoch : list) {
      CAPTURE(epoch.dump());
      const auto state = epoch["state"].get<std::string>();
      CHECK((state == "committed" || state == "aborted" || state == "pruned"));
      if (promised.contains(epoch["epoch"].get<std::uint64_t>())) CHECK(state != "aborted");
    }
  }
  CHECK(site.http().get("/v1/jobs/heat").json()["incarnation"] == 1);
  CHECK(site.http().post("/v1/jobs/heat/checkpoint").status == 200);
  CHECK(site.kill_and_wait(SIGTERM) == 0);  // a clean stop is exit code 0
}

namespace {

// As an export of another site describes it; of 2 guests.
json foreign_checkpoint() {
  JobRecord job;
  job.job = JobId{"j5"};
  job.spec.name = "heat";
  job.spec.guests = 2;
  job.spec.memory_bytes = 256u << 20;
  job.spec.disk_bytes = 1u << 30;
  job.spec.ranks_per_guest = {1, 1};
  job.spec.command = {"heat"};
  EpochRecord epoch;
  epoch.epoch = Epoch{9};
  epoch.job = job.job;
  epoch.incarnation = Incarnation{2};
  epoch.output_offset = 5;
  for (std::uint32_t guest = 0; guest < 2; ++guest) {
    epoch.cut.emplace_back().set_guest(guest);
    epoch.images.emplace_back().set_guest(guest);
  }
  return export_json(job, epoch);
}

// Until the first step that is not answered. Whether the last one was.
bool import_all(const HttpClient& http, const std::string& description) {
  const HttpReply begun = http.post("/v1/imports", description);
  if (begun.status != 200) return false;
  const std::string base = "/v1/imports/" + begun.json()["job"].get<std::string>();
  for (const char* image : {"/guests/0/memory", "/guests/0/disk", "/guests/1/memory", "/guests/1/disk"})
    for (const char* query : {"?offset=0", "?offset=5&last=1"})
      if (http.request("PUT", base + image + query, std::string(query).ends_with("1") ? "" : "bytes").status != 200)
        return false;
  if (http.request("PUT", base + "/output?offset=0", "hello").status != 200) return false;
  return http.post(base + "/finish").status == 200;
}

}  // namespace

TEST_CASE("killed at any moment of an import: the job is there with its checkpoint, or nothing of it is") {
  std::random_device seed_source;
  const auto seed = seed_source();
  CAPTURE(seed);
  std::mt19937 random(seed);
  Process site;
  site.port_text = free_port();
  site.run();
  for (const char* name : {"h1", "h2"}) {
    site.hosts.push_back(std::make_unique<FakeHost>(name, site.site.identity(name),
                                                    static_cast<std::uint16_t>(std::stoul(site.port_text))));
    site.hosts.back()->connect();
  }
  json description = foreign_checkpoint();
  std::size_t there = 0;
  for (int round = 0; round < 8; ++round) {
    CAPTURE(round);
    description["spec"]["name"] = "heat-" + std::to_string(round);
    const bool undisturbed = round == 0;
    auto asked = std::async(std::launch::async, [&] { return import_all(site.http(), description.dump()); });
    if (undisturbed) asked.wait();
    else
      std::this_thread::sleep_for(
          std::chrono::milliseconds(std::uniform_int_distribution<int>(0, 60)(random)));  // any moment
    site.kill_and_wait();
    const bool promised = asked.get();
    CHECK(promised >= undisturbed);
    site.run();
    for (auto& host : site.hosts) host->connect();
    const json jobs = site.http().get("/v1/jobs").json();
    CHECK(jobs.size() >= there + promised);
    CHECK(jobs.size() <= there + 1);
    there = jobs.size();
    for (const auto& job : jobs) {
      CHECK(job["state"] == "stopped");
      CHECK(job["lastCheckpoint"].is_number());
      CHECK(site.http().get("/v1/jobs/" + job["job"].get<std::string>() + "/logs").body == "hello");
    }
    std::size_t directories = 0;
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(site.directory / "jobs"))
      ++directories;
    CHECK(directories == there);
  }
}

TEST_CASE("a catalog that cannot be written ends the process before anything is done") {
  Process site;
  site.run();
  {
    SQLite::Database db((site.directory / "catalog.db").string(), SQLite::OPEN_READWRITE, 5000);
    db.exec("CREATE TRIGGER broken BEFORE INSERT ON jobs BEGIN SELECT RAISE(ABORT, 'disk on fire'); END");
  }
  CHECK(site.http().post("/v1/jobs", spec().dump()).status == 0);  // no answer: nothing was promised
  const int status = site.wait_for_end();
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 70);
  {
    SQLite::Database db((site.directory / "catalog.db").string(), SQLite::OPEN_READWRITE, 5000);
    db.exec("DROP TRIGGER broken");
  }
  site.run();
  CHECK(site.http().get("/v1/jobs").json().empty());
  CHECK(site.http().post("/v1/jobs", spec().dump()).status == 200);
}

TEST_CASE("flags that cannot be right are wrong usage; what cannot start says so with exit code 1") {
  TestServer site;
  auto run = [&](std::vector<std::string> arguments) {
    const std::string program = std::string(STILLPOINT_BINARY_DIR) + "/bin/stillpointd";
    std::vector<char*> argv = {const_cast<char*>(program.c_str())};
    for (auto& a : arguments) argv.push_back(a.data());
    argv.push_back(nullptr);
    const pid_t pid = ::fork();
    if (pid == 0) {
      ::close(2);
      ::execv(program.c_str(), argv.data());
      ::_exit(127);
    }
    int status = 0;
    ::waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  };
  const std::string state = site.directory.string(), tls = site.options.tls.string();
  CHECK(run({}) == 2);
  CHECK(run({"--state", state, "--listen", "127.0.0.1:0", "--tls", tls, "--lease-ms", "0"}) == 2);
  CHECK(run({"--state", state, "--listen", "127.0.0.1:0", "--tls", tls, "--lease-ms", "600", "--heartbeat-ms",
             "500"}) == 2);
  CHECK(run({"--state", state, "--listen", "nowhere", "--tls", tls}) == 1);
  CHECK(run({"--state", state, "--listen", "127.0.0.1:0", "--tls", state}) == 1);
  CHECK(run({"--state", state, "--listen", "127.0.0.1:0", "--tls", tls, "--api-socket",
             "/tmp/" + std::string(200, 'x')}) == 1);
}

TEST_CASE("a damaged catalog is refused; a backup takes its place; the job comes back when somebody says so, once") {
  Process site;
  site.port_text = free_port();
  site.run();
  for (const char* name : {"h1", "h2"}) {
    site.hosts.push_back(std::make_unique<FakeHost>(name, site.site.identity(name),
                                                    static_cast<std::uint16_t>(std::stoul(site.port_text))));
    site.hosts.back()->connect();
  }
  REQUIRE(site.http().post("/v1/jobs", spec().dump()).status == 200);
  REQUIRE(site.in_state("heat", "running")["state"] == "running");
  const auto kept = site.http().post("/v1/jobs/heat/checkpoint").json()["epoch"];
  const auto backup = (site.site.directory() / "backup.db").string();
  REQUIRE(site.http().post("/v1/catalog/backup", json({{"file", backup}}).dump()).status == 200);
  REQUIRE(site.http().post("/v1/jobs/heat/checkpoint").status == 200);
  CHECK(site.run_once({"--restore-catalog", backup}) == 1);  // while it runs

  site.kill_and_wait(SIGTERM);
  const auto catalog = site.directory / "catalog.db";
  std::filesystem::resize_file(catalog, std::filesystem::file_size(catalog) / 2);
  const std::vector<std::string> start = {"--listen", "127.0.0.1:0", "--tls", site.options.tls.string()};
  CHECK(site.run_once(start) == 1);
  std::filesystem::remove(catalog);
  CHECK(site.run_once(start) == 1);  // gone is no first start
  CHECK(site.run_once({"--restore-catalog", backup + ".none"}) == 1);
  REQUIRE(site.run_once({"--restore-catalog", backup}) == 0);

  site.run();
  for (auto& host : site.hosts) host->connect();
  const auto status = site.in_state("heat", "failed");
  CHECK(status["reason"].get<std::string>().find("the catalog was put back") != std::string::npos);
  const auto restarted = site.http().post("/v1/jobs/heat/restart").json();
  CHECK(restarted["epoch"] == kept);
  CHECK(restarted["incarnation"] > 1'000);
  CHECK(site.in_state("heat", "running")["state"] == "running");
  CHECK(site.http().post("/v1/jobs/heat/checkpoint").json()["epoch"] > 1'000'000);
}
