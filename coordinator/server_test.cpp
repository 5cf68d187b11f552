// The whole coordinator with hosts that speak the real protocol over TLS, seen through the API's socket.
#include "coordinator/server.h"

#include <doctest/doctest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <fstream>

#include "coordinator/test_support/fake_host.h"
#include "coordinator/test_support/test_server.h"

using namespace stillpoint;
using namespace stillpoint::coordinator;
using nlohmann::json;

namespace {

json heat_spec() {
  return {{"name", "heat"},
          {"guests", 2},
          {"memoryBytes", 512u << 20},
          {"diskBytes", 1u << 30},
          {"ranksPerGuest", {2, 1}},
          {"command", {"./heat", "100"}},
          {"files", {"bin/heat"}},
          {"outputs", {"field.pgm"}}};
}

struct Site : TestServer {
  FakeHost* add(const std::string& name) {
    hosts.push_back(std::make_unique<FakeHost>(name, site.identity(name), port()));
    hosts.back()->connect();
    return hosts.back().get();
  }
  // Submits heat with its program and waits until it runs.
  std::string submit() {
    const auto spool = http().post("/v1/spool").json()["spool"].get<std::string>();
    const auto put =
        http().request("PUT", "/v1/spool/" + spool + "/bin/heat", std::string(700'000, 'p'), "X-Mode: 755\r\n");
    REQUIRE(put.status == 200);
    const json body = {
        {"spec", heat_spec()}, {"manifest", "kind: MpiJob"}, {"spool", spool}, {"submitDirectory", "/home/u"}};
    const auto reply = http().post("/v1/jobs", body.dump());
    REQUIRE(reply.status == 200);
    CHECK(reply.json()["incarnation"] == 1);
    return reply.json()["job"].get<std::string>();
  }
  FakeHost* host_of_guest_0(const std::string& job) {
    for (auto& host : hosts)
      if (host->guests(job).contains(0)) return host.get();
    return nullptr;
  }
  std::vector<std::unique_ptr<FakeHost>> hosts;
};

}  // namespace

TEST_CASE("a job runs, prints, is checkpointed, loses a host, is restarted, ends, is removed") {
  Site site;
  site.start();
  for (const char* name : {"h1", "h2", "h3"}) site.add(name);
  const auto job = site.submit();
  auto status = site.in_state(job, "running");
  REQUIRE(status["state"] == "running");
  CHECK(status["name"] == "heat");
  CHECK(status["submitDirectory"] == "/home/u");
  CHECK(status["hosts"].size() == 2);
  REQUIRE(status["ranks"].size() == 3);
  CHECK(status["ranks"][2]["guest"] == 1);
  CHECK(status["ranks"][2]["host"] == status["hosts"][1]);
  CHECK(status["exitCode"].is_null());
  CHECK(status["lastCheckpoint"].is_null());

  auto* first = site.host_of_guest_0(job);
  REQUIRE(first != nullptr);
  CHECK(first->files()["bin/heat"].size() == 700'000);

  // Fresh states from the hosts.
  status = site.http().get("/v1/jobs/heat?ranks=1").json();
  CHECK(status["ranks"][0]["state"] == "in-call");
  CHECK(status["ranks"][0]["call"] == "MPI_Barrier");

  // Output: stored, acknowledged, read, waited for.
  first->print(job, 0, "step 1\n");
  CHECK(site.status_when(job, [&](const json&) { return first->acknowledged_output() == 7; }).is_object());
  auto logs = site.http().get("/v1/jobs/heat/logs?offset=0");
  CHECK(logs.status == 200);
  CHECK(logs.body == "step 1\n");
  CHECK(logs.headers["X-Length"] == "7");
  CHECK(logs.headers["X-State"] == "running");
  std::thread printer([&] { first->print(job, 7, "step 2\n"); });
  logs = site.http().get("/v1/jobs/heat/logs?offset=7&waitMs=20000");
  printer.join();
  CHECK(logs.body == "step 2\n");
  CHECK(logs.headers["X-Offset"] == "7");
  first->print(job, 7, "step 2\n");  // sent again: must not be stored twice

  auto taken = site.http().post("/v1/jobs/heat/checkpoint");
  REQUIRE(taken.status == 200);
  const auto epoch = taken.json()["epoch"].get<std::uint64_t>();
  CHECK(taken.json()["job"] == job);
  CHECK(taken.json()["bytesRaw"] == 2 * ((512u << 20) + 1000));
  CHECK(taken.json()["bytesStored"] == 2 * ((50u << 20) + 100));
  CHECK(taken.json()["phases"].size() > 2);
  CHECK(taken.json()["stallMs"].get<double>() >= 0);  // hosts that answer at once: less than a millisecond, maybe
  auto list = site.http().get("/v1/jobs/heat/checkpoints").json();
  REQUIRE(list.size() == 1);
  CHECK(list[0]["state"] == "committed");
  CHECK(list[0]["level"] == "host-loss");
  CHECK(site.http().get("/v1/jobs/heat").json()["lastCheckpoint"] == epoch);

  // Printed after the checkpoint: taken back by the restart.
  first->print(job, 14, "step 3\n");
  CHECK(site.http().get("/v1/jobs/heat/logs?offset=14&waitMs=20000").body == "step 3\n");
  first->disconnect();
  auto restarted = site.http().post("/v1/jobs/heat/restart", json{{"from", epoch}}.dump());
  CAPTURE(restarted.body);
  REQUIRE(restarted.status == 200);
  CHECK(restarted.json()["incarnation"] == 2);
  CHECK(restarted.json()["epoch"] == epoch);
  CHECK(restarted.json()["restartMs"].get<double>() > 0);
  status = site.http().get("/v1/jobs/" + job).json();
  CHECK(status["state"] == "running");
  CHECK(status["restarts"] == 1);
  logs = site.http().get("/v1/jobs/heat/logs?offset=21");
  CHECK(logs.status == 409);
  CHECK(logs.headers["X-Length"] == "14");

  FakeHost* now = nullptr;
  for (auto& host : site.hosts)
    if (host.get() != first && host->guests(job).contains(0)) now = host.get();
  REQUIRE(now != nullptr);
  now->print(job, 14, "step 3 again\n");
  now->end_job(job, 0, 27);
  const auto ended = site.http().get("/v1/jobs/heat/wait?timeoutMs=20000").json();
  CHECK(ended["state"] == "completed");
  CHECK(ended["exitCode"] == 0);
  CHECK(site.http().get("/v1/jobs/heat/logs").body == "step 1\nstep 2\nstep 3 again\n");
  const auto outputs = site.http().get("/v1/jobs/heat/outputs").json();
  REQUIRE(outputs.size() == 1);
  CHECK(outputs[0]["name"] == "field.pgm");
  CHECK(site.http().get("/v1/jobs/heat/outputs/field.pgm").body == "content of field.pgm");
  CHECK(site.http().get("/v1/jobs/heat/outputs/none").status == 404);
  CHECK(site.http().get("/v1/jobs/heat/events").json().size() > 4);

  CHECK(site.http().request("DELETE", "/v1/jobs/heat", "").status == 200);
  CHECK(site.http().get("/v1/jobs/heat").status == 404);
  CHECK(site.http().get("/v1/jobs").json().empty());
  CHECK(site.http().post("/v1/spool").status == 200);
}

TEST_CASE("checkpoints are pruned, and what is stored is shown by host and by job") {
  Site site;
  site.start();
  for (const char* name : {"h1", "h2"}) site.add(name);
  const auto job = site.submit();
  REQUIRE(site.in_state(job, "running")["state"] == "running");
  for (int i = 0; i < 2; ++i) REQUIRE(site.http().post("/v1/jobs/heat/checkpoint").status == 200);
  const auto store = site.http().get("/v1/store").json();
  CHECK(store["hosts"][0] == json({{"name", "h1"},
                                   {"state", "up"},
                                   {"packs", 3},
                                   {"bytes", 40u << 20},
                                   {"freeBytes", 1ull << 40},
                                   {"totalBytes", 2ull << 40},
                                   {"reserveBytes", 1ull << 30}}));
  CHECK(store["jobs"] == json::array({{{"job", job},
                                       {"name", "heat"},
                                       {"images", 4},
                                       {"bytesRaw", 4ull * ((512u << 20) + 1000)},
                                       {"bytesStored", 4ull * ((50u << 20) + 100)}}}));
  CHECK(store["deduplication"].get<double>() == doctest::Approx(4.0 * ((512u << 20) + 1000) / (2 * 20'000 * 4096.0)));
  CHECK(store["compression"].get<double>() == doctest::Approx(20'000 * 4096.0 / (40u << 20)));
  const auto pruned = site.http().post("/v1/jobs/heat/prune", json{{"keep", 1}}.dump()).json();
  CHECK(pruned == json({{"job", job}, {"pruned", {1}}, {"kept", {2}}, {"freedBytes", 2000}}));
  const auto list = site.http().get("/v1/jobs/heat/checkpoints").json();
  CHECK(list[0]["state"] == "pruned");
  CHECK(list[1]["state"] == "committed");
}

TEST_CASE("a checkpoint that a host finds damaged is shown as that, over a restart of the coordinator too") {
  Site site;
  site.start();
  for (const char* name : {"h1", "h2", "h3"}) site.add(name);
  const auto job = site.submit();
  REQUIRE(site.in_state(job, "running")["state"] == "running");
  const auto epoch = site.http().post("/v1/jobs/heat/checkpoint").json()["epoch"];
  auto checked = site.http().post("/v1/jobs/heat/verify").json();
  REQUIRE(checked["epochs"].size() == 1);
  CHECK(checked["epochs"][0] == json({{"epoch", epoch},
                                      {"state", "ok"},
                                      {"bytes", 2 * (50u << 20)},
                                      {"problems", json::array()},
                                      {"mended", json::array()},
                                      {"copies", {{{"place", "h1"}, {"state", "ok"}, {"bytes", 2 * (50u << 20)}}}}}));
  CHECK(site.http().get("/v1/jobs/heat/checkpoints").json()[0]["verified"].is_string());
  // The images of this site are h1's: it reads them both.
  CHECK(site.hosts[0]->count(wire::ToHost::kVerifyImages) == 1);
  site.hosts[0]->edit([](const wire::ToHost& request, wire::FromHost& answer) {
    if (!request.has_verify_images()) return true;
    auto* problem = answer.mutable_verified()->mutable_images(1)->add_problems();
    problem->set_kind(wire::Failure::DAMAGED);
    problem->set_step("verify image");
    problem->set_object("a pack");
    problem->set_cause("a block is not what was written");
    return true;
  });
  checked = site.http().post("/v1/jobs/heat/verify", json{{"epoch", epoch}}.dump()).json();
  CHECK(checked["epochs"][0]["state"] == "damaged");
  CHECK(checked["epochs"][0]["problems"][0] ==
        "guest 1, read by h1: verify image of a pack: a block is not what was written");
  const auto shown = [&] {
    const auto list = site.http().get("/v1/jobs/heat/checkpoints").json();
    CHECK(list[0]["state"] == "damaged");
    CHECK(list[0]["reason"].get<std::string>().find("a block is not what was written") != std::string::npos);
    CHECK(site.http().get("/v1/jobs/heat").json()["lastCheckpoint"].is_null());
  };
  shown();
  site.stop();
  site.start();
  shown();
  const auto refused = site.http().post("/v1/jobs/heat/restart");
  CHECK(refused.error_kind() == "damaged");
}

TEST_CASE("a coordinator that comes back knows its jobs, their output and their checkpoints") {
  Site site;
  site.start();
  site.add("h1");
  site.add("h2");
  const auto job = site.submit();
  REQUIRE(site.in_state(job, "running")["state"] == "running");
  auto* first = site.host_of_guest_0(job);
  first->print(job, 0, "step 1\n");
  CHECK(site.http().get("/v1/jobs/heat/logs?waitMs=20000").body == "step 1\n");
  REQUIRE(site.http().post("/v1/jobs/heat/checkpoint").status == 200);
  const auto before = site.http().get("/v1/jobs/heat").json();
  const auto id = site.http().get("/v1/health").json()["coordinator"];
  CHECK(site.http().post("/v1/spool").status == 200);  // never submitted: must not outlive this run

  const auto port = site.port();
  site.stop();
  site.options.listen = "127.0.0.1:" + std::to_string(port);
  site.start();
  CHECK(site.http().get("/v1/health").json()["coordinator"] == id);
  for (auto& host : site.hosts) host->connect();
  const auto after = site.in_state(job, "running");
  CHECK(after["incarnation"] == before["incarnation"]);
  CHECK(after["lastCheckpoint"] == before["lastCheckpoint"]);
  CHECK(after["hosts"] == before["hosts"]);
  CHECK(site.http().get("/v1/jobs/heat/logs").body == "step 1\n");
  CHECK(std::distance(std::filesystem::directory_iterator(site.directory / "spool"), {}) == 1);

  first->print(job, 7, "step 2\n");
  CHECK(site.http().get("/v1/jobs/heat/logs?offset=7&waitMs=20000").body == "step 2\n");
  CHECK(site.http().post("/v1/jobs/heat/checkpoint").status == 200);
}

TEST_CASE("a host is let in by its certificate, its hello and the protocol it speaks") {
  Site site;
  site.start();
  FakeHost host("h1", site.site.identity("h1"), site.port());
  wire::FromHost message;
  auto* hello = message.mutable_hello();
  hello->set_host("h1");
  hello->set_protocol(1);
  std::string first;
  SUBCASE("another host's name") { hello->set_host("h2"); }
  SUBCASE("another protocol") { hello->set_protocol(2); }
  SUBCASE("no hello") {
    message.Clear();
    message.mutable_done();
  }
  SUBCASE("an unknown message") { message.Clear(); }
  SUBCASE("not protobuf") { first = "\xff\xff\xff"; }
  host.connect(first.empty() ? message.SerializeAsString() : first);
  CHECK(host.wait_for([&] { return true; }));
  CHECK(site.status_when("none", [&](const json&) { return !host.closed_because().empty(); }).is_object());
  CHECK_FALSE(host.closed_because().empty());
  CHECK(host.count(wire::ToHost::kWelcome) == 0);
  CHECK(site.http().get("/v1/hosts").json().empty());
}

TEST_CASE("what is ill-formed after a good hello ends the session") {
  Site site;
  site.start();
  auto* host = site.add("h1");
  auto up = [&] {
    const auto hosts = site.http().get("/v1/hosts").json();
    return !hosts.empty() && hosts[0]["state"] == "up";
  };
  CHECK(site.status_when("none", [&](const json&) { return up(); }).is_object());
  REQUIRE(up());
  SUBCASE("not protobuf") { host->send_raw("\xff\xff\xff"); }
  SUBCASE("a second hello") {
    wire::FromHost message;
    message.mutable_hello()->set_host("h1");
    message.mutable_hello()->set_protocol(1);
    host->send(message);
  }
  site.status_when("none", [&](const json&) { return !host->closed_because().empty(); });
  CHECK_FALSE(host->closed_because().empty());
}

TEST_CASE("a newer session of a host replaces the older") {
  Site site;
  site.start();
  auto* older = site.add("h1");
  auto* newer = site.add("h1");
  site.status_when("none", [&](const json&) { return !older->closed_because().empty(); });
  CHECK_FALSE(older->closed_because().empty());
  CHECK(newer->closed_because().empty());
  site.status_when("none", [&](const json&) { return newer->count(wire::ToHost::kPing) > 0; });
  CHECK(newer->count(wire::ToHost::kPing) > 0);
  const auto hosts = site.http().get("/v1/hosts").json();
  REQUIRE(hosts.size() == 1);
  CHECK(hosts[0]["state"] == "up");
  CHECK(hosts[0]["accel"] == "tcg");
  CHECK(hosts[0]["captureMode"] == "background-snapshot");
  CHECK(hosts[0]["address"] == "192.0.2.1");
  CHECK(hosts[0]["memory"] == 8ull << 30);
}

TEST_CASE("a host that floods is slowed down, not piled up, and the API still answers") {
  Site site;
  site.start();
  auto* host = site.add("h1");
  wire::FromHost message;
  message.mutable_gang()->set_job("j99");  // of no job: the core throws it away
  message.mutable_gang()->set_incarnation(1);
  message.mutable_output()->mutable_output()->set_data(std::string(60'000, 'x'));
  const auto bytes = message.SerializeAsString();
  for (int i = 0; i < 1000; ++i) host->send_raw(bytes);  // 60 MB: within the sender's own queue
  CHECK(site.http().get("/v1/health").status == 200);
  CHECK(host->closed_because().empty());
}

TEST_CASE("cordon and uncordon; a host that nobody knows") {
  Site site;
  site.start();
  site.add("h1");
  site.status_when("none", [&](const json&) { return !site.http().get("/v1/hosts").json().empty(); });
  CHECK(site.http().post("/v1/hosts/h1/cordon").status == 200);
  CHECK(site.http().get("/v1/hosts").json()[0]["state"] == "cordoned");
  CHECK(site.http().post("/v1/hosts/h1/uncordon").status == 200);
  CHECK(site.http().get("/v1/hosts").json()[0]["state"] == "up");
  CHECK(site.http().post("/v1/hosts/h9/cordon").status == 404);
}

TEST_CASE("one coordinator for one state directory; nothing in it is for others to read") {
  Site site;
  site.start();
  auto second = site.open_another();
  REQUIRE(second.has_error());
  CHECK(second.error().kind == ErrorKind::refused);
  CHECK(site.http().get("/v1/health").status == 200);  // and it took nothing away from the first
  for (const auto& entry : std::filesystem::recursive_directory_iterator(site.directory)) {
    struct stat info {};
    REQUIRE(::lstat(entry.path().c_str(), &info) == 0);
    CAPTURE(entry.path().string());
    CHECK((info.st_mode & 077) == 0);
  }
}

TEST_CASE("a socket that a killed coordinator left is replaced; something else of that name is not") {
  Site site;
  std::filesystem::create_directory(site.directory);
  {
    Fd left(::socket(AF_UNIX, SOCK_STREAM, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    (site.directory / "api.sock").string().copy(address.sun_path, sizeof address.sun_path - 1);
    REQUIRE(::bind(left.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  }
  site.start();
  CHECK(site.http().get("/v1/health").status == 200);
  site.stop();
  std::ofstream(site.directory / "api.sock") << "precious";
  CHECK_THROWS(site.start());
  CHECK(std::filesystem::file_size(site.directory / "api.sock") == 8);
}
