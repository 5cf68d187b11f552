// The commands against a server that answers as the coordinator does: arguments, requests, JSON, exit codes.
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cli/api_client.h"
#include "cli/app.h"
#include "cli/command.h"
#include "cli/doctor.h"
#include "cli/test_server.h"
#include "cli/text.h"
#include "common/file.h"

using namespace stillpoint;
using namespace stillpoint::cli;
using nlohmann::json;

namespace {

struct Outcome {
  int code = -1;
  std::string out, err;
  json document() const { return json::parse(out, nullptr, false); }
};

Outcome run_command(std::vector<std::string> arguments) {
  std::ostringstream out, err;
  Outcome outcome;
  outcome.code = run(std::move(arguments), out, err, false);
  outcome.out = out.str();
  outcome.err = err.str();
  return outcome;
}

Outcome run_with(const TestServer& server, std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {"--server", server.socket()});
  return run_command(std::move(arguments));
}

TestAnswer refusal(unsigned status, const char* kind, const char* message) {
  return {status, json({{"error", {{"kind", kind}, {"message", message}}}}).dump()};
}

TestServer::Handler always(TestAnswer answer) {
  return [answer](const TestRequest&) { return answer; };
}

std::string file_of(const std::filesystem::path& path) {
  auto text = read_file(path);
  REQUIRE(text.has_value());
  return *text;
}

const json kStatus = {{"job", "j7"},
                      {"name", "melt"},
                      {"state", "running"},
                      {"reason", ""},
                      {"incarnation", 2},
                      {"epoch", 12},
                      {"hosts", {"h1", "h2"}},
                      {"ranks",
                       {{{"rank", 0},
                         {"host", "h1"},
                         {"state", "in-call"},
                         {"call", "MPI_Allreduce"},
                         {"sinceMs", 10'200},
                         {"communicator", "rows"},
                         {"peers", 4},
                         {"bytesInFlight", 0}}}},
                      {"lastCheckpoint", 12},
                      {"restarts", 1},
                      {"exitCode", nullptr},
                      {"phase", ""},
                      {"submitDirectory", "/x"}};

json ended(const char* state, json exit_code, const std::string& directory = "") {
  auto status = kStatus;
  status["state"] = state;
  status["exitCode"] = std::move(exit_code);
  status["submitDirectory"] = directory;
  return status;
}

}  // namespace

TEST_CASE("wrong usage exits with 2 and says nothing on stdout") {
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{{},
                                             {"--nonsense"},
                                             {"nonsense"},
                                             {"status"},
                                             {"status", "a", "b"},
                                             {"checkpoint"},
                                             {"wait", "j1", "--timeout", "-1"},
                                             {"wait", "j1", "--timeout", "soon"},
                                             {"restart", "j1", "--from", "latest"},
                                             {"verify"},
                                             {"prune"},
                                             {"prune", "j1", "--keep", "0"},
                                             {"prune", "j1", "--keep", "-1"},
                                             {"store", "j1"},
                                             {"verify", "j1", "newest"},
                                             {"logs", "j1", "--backwards"},
                                             {"--server"}}) {
    const auto outcome = run_command(arguments);
    CHECK(outcome.code == 2);
    CHECK(outcome.out.empty());
    CHECK(!outcome.err.empty());
  }
}

TEST_CASE("help and version are no errors") {
  CHECK(run_command({"--help"}).code == 0);
  CHECK(run_command({"checkpoint", "--help"}).code == 0);
  CHECK(run_command({"--version"}).out == std::string(STILLPOINT_VERSION) + "\n");
  CHECK(run_command({"checkpoint", "--help"}).out.find("--test-uncoordinated") == std::string::npos);
}

TEST_CASE("no coordinator exits with 3") {
  for (const std::string command : {"jobs", "hosts"}) {
    const auto outcome = run_command({command, "--server", "/no/such/socket", "--json"});
    CHECK(outcome.code == 3);
    CHECK(outcome.document()["error"]["kind"] == "transient");
    CHECK(outcome.err.find("/no/such/socket") != std::string::npos);
  }
  CHECK(run_command({"wait", "j7", "--server", "unix:/no/such/socket"}).code == 3);
  CHECK(run_command({"logs", "-f", "j7", "--server", "unix:/no/such/socket"}).code == 3);
}

TEST_CASE("a coordinator that goes away before it answers is no coordinator") {
  TestAnswer nothing;
  nothing.hang_up = true;
  const TestServer server(always(nothing));
  const auto outcome = run_with(server, {"checkpoint", "j7"});
  CHECK(outcome.code == 3);
  CHECK(outcome.err.find("went away before it answered") != std::string::npos);
}

TEST_CASE("kinds of errors become exit codes") {
  const TestServer missing(always(refusal(404, "not-found", "no job j9")));
  auto outcome = run_with(missing, {"status", "j9", "--json"});
  CHECK(outcome.code == 4);
  CHECK(outcome.err == "stillpoint: no job j9\n");
  CHECK(outcome.document() == json({{"error", {{"kind", "not-found"}, {"message", "no job j9"}}}}));

  for (const char* kind : {"refused", "transient", "permanent", "storage-full", "damaged", "deadline", "not-quiet"}) {
    const TestServer server(always(refusal(500, kind, "told")));
    outcome = run_with(server, {"checkpoint", "j7", "--json"});
    CHECK(outcome.code == 1);
    CHECK(outcome.document()["error"]["kind"] == kind);
  }
  const TestServer broken(always({500, "oops"}));
  CHECK(run_with(broken, {"jobs"}).code == 1);
  const TestServer foreign(always({200, "<html>"}));
  CHECK(run_with(foreign, {"jobs"}).code == 1);
}

TEST_CASE("what the coordinator says is printed under --json as it is") {
  const TestServer server([](const TestRequest& request) -> TestAnswer {
    if (request.target == "/v1/jobs") return {200, json::array({kStatus}).dump()};
    if (request.target == "/v1/hosts")
      return {200,
              R"([{"name":"h1","state":"up","accel":"tcg","captureMode":"paused-save","memoryFree":1,"jobs":["j7"]}])"};
    if (request.target == "/v1/jobs/j7/checkpoints")
      return {200, R"([{"epoch":12,"state":"committed","time":"2026-01-01T00:00:00Z"}])"};
    return {200, kStatus.dump()};
  });
  CHECK(run_with(server, {"jobs", "--json"}).document() == json::array({kStatus}));
  CHECK(run_with(server, {"--json", "status", "j7"}).document() == kStatus);
  CHECK(run_with(server, {"hosts", "--json"}).document()[0]["accel"] == "tcg");
  CHECK(run_with(server, {"checkpoints", "j7", "--json"}).document()[0]["epoch"] == 12);
  CHECK(server.requests()[1].target == "/v1/jobs/j7?ranks=1");
  const auto table = run_with(server, {"jobs"});
  CHECK(table.code == 0);
  CHECK(table.out.find("j7   melt  running") != std::string::npos);
  CHECK(run_with(server, {"status", "j7"}).out.find("last checkpoint  12") != std::string::npos);
  const auto ranks = run_with(server, {"status", "j7"}).out;
  CHECK(ranks.find("COMMUNICATOR  PEERS  IN FLIGHT") != std::string::npos);
  CHECK_MESSAGE(ranks.find("in-call  MPI_Allreduce  10.2 s  rows          4      -") != std::string::npos, ranks);
  const auto hosts = run_with(server, {"hosts"}).out;
  CHECK(hosts.find("h1    up     tcg") != std::string::npos);
  CHECK_MESSAGE(hosts.find("CAPTURE IF NOT PRE-COPY") != std::string::npos, hosts);
  CHECK(hosts.find("paused-save              j7") != std::string::npos);
}

TEST_CASE("a document that is not what it should be is an error, not a crash") {
  const TestServer server(always({200, R"({"state":5,"job":[],"outputs":7})"}));
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{{"jobs"},
                                                                                         {"hosts"},
                                                                                         {"status", "j7"},
                                                                                         {"checkpoints", "j7"},
                                                                                         {"checkpoint", "j7"},
                                                                                         {"restart", "j7"},
                                                                                         {"verify", "j7"},
                                                                                         {"prune", "j7"},
                                                                                         {"store"},
                                                                                         {"wait", "j7"},
                                                                                         {"logs", "j7"}}) {
    const auto outcome = run_with(server, arguments);
    CHECK(outcome.code >= 0);
    CHECK(outcome.code <= 1);
  }
  const auto outcome = run_with(server, {"wait", "j7", "--json"});
  CHECK(outcome.code == 1);
  CHECK(outcome.document()["error"]["kind"] == "permanent");
}

TEST_CASE("verify: exit code 0 when all is well, 1 with what is wrong and what to do otherwise") {
  json answer = {{"job", "j7"},
                 {"epochs", {{{"epoch", 3}, {"state", "ok"}, {"bytes", 2048}, {"problems", json::array()}}}}};
  const TestServer server([&](const TestRequest&) -> TestAnswer { return {200, answer.dump()}; });
  auto outcome = run_with(server, {"verify", "melt", "3"});
  CHECK(outcome.code == 0);
  CHECK(outcome.out == "checkpoint 3 of melt is whole, 2.0 KiB read\n");
  CHECK(server.requests()[0].target == "/v1/jobs/melt/verify");
  CHECK(json::parse(server.requests()[0].body) == json({{"epoch", 3}}));
  answer["epochs"].push_back({{"epoch", 4},
                              {"state", "ok"},
                              {"bytes", 1024},
                              {"problems", json::array()},
                              {"mended", {"guest 0: h1/j7/e4/guest-0.ram was put right from host h2: …"}}});
  CHECK(run_with(server, {"verify", "melt"}).out ==
        "all 2 checkpoints of melt are whole, 3.0 KiB read\n"
        "checkpoint 4: guest 0: h1/j7/e4/guest-0.ram was put right from host h2: …\n");
  CHECK(json::parse(server.requests()[1].body) == json::object());
  answer["epochs"].push_back(
      {{"epoch", 5}, {"state", "damaged"}, {"bytes", 0}, {"problems", {"guest 1: bad", "guest 0: gone"}}});
  outcome = run_with(server, {"verify", "melt"});
  CHECK(outcome.code == 1);
  CHECK(outcome.out ==
        "EPOCH  STATE    WHAT\n5      damaged  guest 1: bad\n5      damaged  guest 0: gone\n"
        "checkpoint 4: guest 0: h1/j7/e4/guest-0.ram was put right from host h2: …\n");
  CHECK(outcome.err.find("stillpoint checkpoint melt") != std::string::npos);
  CHECK(outcome.err.find("could not be checked") == std::string::npos);
  outcome = run_with(server, {"verify", "melt", "--json"});
  CHECK(outcome.code == 1);
  CHECK(outcome.document() == answer);
  answer["epochs"] = {{{"epoch", 5}, {"state", "unchecked"}, {"bytes", 0}, {"problems", {"no host is up"}}}};
  outcome = run_with(server, {"verify", "melt"});
  CHECK(outcome.code == 1);
  CHECK(outcome.err.find("verify again when their hosts are up") != std::string::npos);
  answer["epochs"] = json::array();
  outcome = run_with(server, {"verify", "melt"});
  CHECK(outcome.code == 0);
  CHECK(outcome.out == "melt has no checkpoint to verify\n");
}

TEST_CASE("prune says what went, what stays and what it freed") {
  json answer = {{"job", "j7"}, {"pruned", {1, 2}}, {"kept", {3}}, {"freedBytes", 3u << 20}};
  const TestServer server([&](const TestRequest&) -> TestAnswer { return {200, answer.dump()}; });
  CHECK(run_with(server, {"prune", "melt", "--keep", "1"}).out ==
        "pruned checkpoints 1,2 of melt, kept 3, 3.0 MiB freed\n");
  CHECK(server.requests()[0].target == "/v1/jobs/melt/prune");
  CHECK(json::parse(server.requests()[0].body) == json({{"keep", 1}}));
  CHECK(run_with(server, {"prune", "melt", "--json"}).document() == answer);
  CHECK(json::parse(server.requests()[1].body) == json::object());
  answer["freedBytes"] = 0;
  CHECK(run_with(server, {"prune", "melt"}).out == "pruned checkpoints 1,2 of melt, kept 3\n");
  answer["pruned"] = json::array();
  CHECK(run_with(server, {"prune", "melt"}).out == "nothing to prune: melt has checkpoints 3\n");
}

TEST_CASE("store shows what is used by host and by job, and the ratios") {
  const json answer = {
      {"hosts",
       {{{"name", "h1"},
         {"state", "up"},
         {"packs", 3},
         {"bytes", 40u << 20},
         {"freeBytes", 1ull << 40},
         {"totalBytes", 2ull << 40},
         {"reserveBytes", 1u << 30}},
        {{"name", "h2"}, {"state", "lost"}, {"packs", nullptr}, {"bytes", nullptr}}}},
      {"jobs", {{{"job", "j7"}, {"name", "melt"}, {"images", 4}, {"bytesRaw", 1u << 30}, {"bytesStored", 1u << 20}}}},
      {"deduplication", 12.34},
      {"compression", 2.0}};
  const TestServer server(always({200, answer.dump()}));
  const auto outcome = run_with(server, {"store"});
  CHECK(outcome.code == 0);
  CHECK(server.requests()[0].target == "/v1/store");
  CHECK(outcome.out.find("h1    up     3      40.0 MiB  1.0 TiB  2.0 TiB  1.0 GiB") != std::string::npos);
  CHECK(outcome.out.find("h2    lost   -      -") != std::string::npos);
  CHECK(outcome.out.find("j7   melt  4       1.0 GiB      1.0 MiB") != std::string::npos);
  CHECK(outcome.out.find("stored once for 12.3 times that it occurs, in 1/2.0 of its size") != std::string::npos);
  CHECK(run_with(server, {"store", "--json"}).document() == answer);
}

TEST_CASE("a checkpoint that has to wait for its turn says so, unless the manifest has it refused") {
  auto status = kStatus;
  status["phase"] = "upload";
  status["whileUploading"] = "wait";
  const TestServer server([&](const TestRequest& request) -> TestAnswer {
    if (request.method == "GET") return {200, status.dump()};
    return {200, R"({"job":"j7","epoch":13})"};
  });
  const std::string words = "checkpoint 12 is still under way (upload); this one waits for its turn";
  CHECK(run_with(server, {"checkpoint", "j7"}).err.find(words) != std::string::npos);
  status["whileUploading"] = "refuse";
  CHECK(run_with(server, {"checkpoint", "j7"}).err.empty());
  status["whileUploading"] = "wait";
  status["phase"] = "";
  CHECK(run_with(server, {"checkpoint", "j7"}).err.empty());
}

TEST_CASE("status tells how often a job is checkpointed by itself, and why just so often") {
  json status = {{"job", "j7"}, {"state", "running"}, {"checkpointInterval", nullptr}};
  const TestServer server([&](const TestRequest&) -> TestAnswer { return {200, status.dump()}; });
  const auto says = [&](const std::string& words) {
    const auto outcome = run_with(server, {"status", "j7"});
    CHECK(outcome.code == 0);
    CHECK_MESSAGE(outcome.out.find(words) != std::string::npos, outcome.out);
  };
  says("on demand");
  status["checkpointInterval"] = {{"policy", "fixed"}, {"seconds", 300}};
  says("every 5 min 0 s");
  json inputs = {{"checkpoints", 0},  {"stallMs", 0},           {"commitMs", 0},      {"costMs", 0},
                 {"hostFailures", 2}, {"watchedSeconds", 7200}, {"mtbfSeconds", 3600}};
  status["checkpointInterval"] = {{"policy", "auto"}, {"seconds", 600}, {"inputs", inputs}};
  says("auto: nothing measured yet; its hosts failed 2 times in 2 h 0 min");
  inputs["checkpoints"] = 3;
  inputs["stallMs"] = 150;
  inputs["commitMs"] = 4000;
  inputs["costMs"] = 500;
  status["checkpointInterval"]["inputs"] = inputs;
  says("a checkpoint costs 500 ms: stall 150 ms, commit 4.0 s");
}

TEST_CASE("a restart says which newer checkpoint it passed over") {
  const TestServer server(always(
      {200,
       R"({"job":"j7","incarnation":2,"epoch":3,"restartMs":10,"reason":"checkpoint 4 is damaged (x); checkpoint 3 is taken instead"})"}));
  const auto outcome = run_with(server, {"restart", "j7"});
  CHECK(outcome.code == 0);
  CHECK(outcome.err.find("checkpoint 4 is damaged (x)") != std::string::npos);
  CHECK(outcome.out.find("from checkpoint 3") != std::string::npos);
}

TEST_CASE("an answer that cannot be written is a failure") {
  const TestServer server(always({200, "[]"}));
  std::ostringstream out, err;
  out.setstate(std::ios::badbit);
  CHECK(run({"--server", server.socket(), "jobs"}, out, err, false) == 1);
  CHECK(err.str() == "stillpoint: the answer could not be written to standard output\n");
}

TEST_CASE("names are encoded in targets") {
  const TestServer server(always(refusal(404, "not-found", "none")));
  run_with(server, {"status", "a/../b ?x"});
  CHECK(server.requests()[0].target == "/v1/jobs/a%2F..%2Fb%20%3Fx?ranks=1");
}

TEST_CASE("commands ask for what they are told to") {
  const TestServer server(always(
      {200,
       R"({"job":"j7","epoch":3,"incarnation":2,"restartMs":4000.5,"stallMs":1.5,"captureMs":2,"commitMs":3,"bytesRaw":4,"bytesStored":5,"phases":{}})"}));
  CHECK(run_with(server, {"checkpoint", "j7"}).code == 0);
  CHECK(run_with(server, {"checkpoint", "j7", "--test-uncoordinated-gap-ms", "300", "--json"}).document()["epoch"] ==
        3);
  CHECK(run_with(server, {"restart", "j7"}).code == 0);
  CHECK(run_with(server, {"restart", "--hosts", "h2,h3", "j7", "--from", "3", "--test-skip-linkcheck"}).code == 0);
  CHECK(run_with(server, {"stop", "j7"}).out == "j7 is stopped\n");
  CHECK(run_with(server, {"rm", "j7"}).code == 0);
  CHECK(run_with(server, {"cordon", "h1"}).code == 0);
  CHECK(run_with(server, {"uncordon", "h1"}).code == 0);
  std::vector<std::string> asked;
  for (const auto& request : server.requests())  // a checkpoint looks first whether another one is under way
    if (request.method != "GET") asked.push_back(request.method + " " + request.target + " " + request.body);
  CHECK(asked == std::vector<std::string>{
                     "POST /v1/jobs/j7/checkpoint {}", "POST /v1/jobs/j7/checkpoint {\"testUncoordinatedGapMs\":300}",
                     "POST /v1/jobs/j7/restart {}",
                     "POST /v1/jobs/j7/restart {\"from\":3,\"hosts\":[\"h2\",\"h3\"],\"testSkipLinkCheck\":true}",
                     "POST /v1/jobs/j7/stop {}", "DELETE /v1/jobs/j7 ", "POST /v1/hosts/h1/cordon {}",
                     "POST /v1/hosts/h1/uncordon {}"});
}

// ---- validate and submit

namespace {

struct Folder {
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "stillpoint-cli-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~Folder() {
    std::error_code code;
    std::filesystem::remove_all(path, code);
  }
  void write(const std::string& name, const std::string& text, unsigned mode = 0644) {
    std::filesystem::create_directories((path / name).parent_path());
    std::ofstream(path / name) << text;
    REQUIRE(::chmod((path / name).c_str(), mode) == 0);
  }
  std::filesystem::path path;
};

std::string manifest(const std::string& memory = "512MiB") {
  return "apiVersion: stillpoint/v1\nkind: MpiJob\nmetadata: {name: melt}\nspec:\n  guests: {count: 2, memory: " +
         memory + "}\n  mpi: {ranks: 4, command: [./run], files: [run, sub/in.txt], outputs: [out.txt]}\n";
}

}  // namespace

TEST_CASE("validate tells every error with its place, and exits with 1") {
  Folder folder;
  folder.write("m.yaml",
               "apiVersion: stillpoint/v1\nkind: MpiJob\nmetadata: {name: melt}\nspec:\n  guests: {count: 0}\n  mpi: "
               "{ranks: x, command: [a]}\n");
  const auto file = (folder.path / "m.yaml").string();
  auto outcome = run_command({"validate", file, "--server", "/no/such/socket"});
  CHECK(outcome.code == 1);
  CHECK(outcome.out.empty());
  CHECK(outcome.err == file + ":5:19: spec.guests.count is 0, expected a whole number from 1 to 1024\n" + file +
                           ":6:16: spec.mpi.ranks is text (\"x\"), expected a whole number from 1 to 65536\n");
  outcome = run_command({"validate", file, "--json", "--server", "/no/such/socket"});
  CHECK(outcome.code == 1);
  CHECK(outcome.document()["valid"] == false);
  CHECK(outcome.document()["errors"][1]["line"] == 6);
  CHECK(outcome.document()["errors"][1]["column"] == 16);
  CHECK(run_command({"validate", (folder.path / "none.yaml").string(), "--server", "/no/such/socket"}).code == 1);
}

TEST_CASE("validate accepts a good manifest without a coordinator, and asks one for its hosts") {
  Folder folder;
  folder.write("m.yaml", manifest());
  folder.write("run", "program", 0755);
  folder.write("sub/in.txt", "input");
  const auto file = (folder.path / "m.yaml").string();
  CHECK(run_command({"validate", file, "--server", "/no/such/socket", "--json"}).document()["valid"] == true);
  const TestServer small(always({200, R"([{"name":"h1","memory":268435456}])"}));
  const auto outcome = run_with(small, {"validate", file});
  CHECK(outcome.code == 1);
  CHECK(outcome.err.find(
            "m.yaml:5:30: spec.guests.memory is 512MiB, expected no more than the largest host has: 256 MiB on h1") !=
        std::string::npos);
  CHECK(run_with(small, {"submit", file}).code == 1);
}

TEST_CASE("submit sends the files with their modes, then the job") {
  Folder folder;
  folder.write("m.yaml", manifest());
  const std::string program(3 << 20, 'p');
  folder.write("run", program, 0755);
  folder.write("sub/in.txt", "input", 0640);
  const TestServer server([](const TestRequest& request) -> TestAnswer {
    if (request.target == "/v1/hosts") return {200, "[]"};
    if (request.target == "/v1/spool") return {200, R"({"spool":"s1"})"};
    if (request.target == "/v1/jobs") return {200, R"({"job":"j7","incarnation":1})"};
    return {200, "{}"};
  });
  const auto outcome = run_with(server, {"submit", (folder.path / "m.yaml").string(), "--json"});
  CHECK(outcome.code == 0);
  CHECK(outcome.document() == json({{"job", "j7"}, {"incarnation", 1}}));
  const auto requests = server.requests();
  REQUIRE(requests.size() == 5);
  CHECK(requests[2].method == "PUT");
  CHECK(requests[2].target == "/v1/spool/s1/run");
  CHECK(requests[2].headers.at("x-mode") == "0755");
  CHECK(requests[2].body == program);
  CHECK(requests[3].target == "/v1/spool/s1/sub/in.txt");
  CHECK(requests[3].headers.at("x-mode") == "0640");
  const auto job = json::parse(requests[4].body);
  CHECK(job["spec"]["ranksPerGuest"] == json({2, 2}));
  CHECK(job["manifest"] == manifest());
  CHECK(job["spool"] == "s1");
  CHECK(job["submitDirectory"] == folder.path.string());
}

TEST_CASE("submit of a good manifest without a coordinator exits with 3") {
  Folder folder;
  folder.write("m.yaml", manifest());
  folder.write("run", "program", 0755);
  folder.write("sub/in.txt", "input");
  CHECK(run_command({"submit", (folder.path / "m.yaml").string(), "--server", "/no/such/socket"}).code == 3);
}

TEST_CASE("a job without files is submitted without a spool") {
  Folder folder;
  auto text = manifest();
  const std::string files = ", files: [run, sub/in.txt]";
  REQUIRE(text.find(files) != std::string::npos);
  folder.write("m.yaml", text.erase(text.find(files), files.size()));
  const TestServer server([](const TestRequest& request) -> TestAnswer {
    return {200, request.target == "/v1/hosts" ? "[]" : R"({"job":"j7","incarnation":1})"};
  });
  CHECK(run_with(server, {"submit", (folder.path / "m.yaml").string()}).code == 0);
  for (const auto& request : server.requests()) CHECK(request.target != "/v1/spool");
  CHECK(json::parse(server.requests().back().body)["spool"] == "");
}

TEST_CASE("an upload that is refused is the failure of submit") {
  Folder folder;
  folder.write("m.yaml", manifest());
  folder.write("run", std::string(1 << 20, 'p'), 0755);
  folder.write("sub/in.txt", "input");
  const TestServer server([](const TestRequest& request) -> TestAnswer {
    if (request.method == "PUT") return refusal(507, "storage-full", "write of spool: no space left on device");
    return {200, request.target == "/v1/hosts" ? "[]" : R"({"spool":"s1"})"};
  });
  const auto outcome = run_with(server, {"submit", (folder.path / "m.yaml").string()});
  CHECK(outcome.code == 1);
  CHECK(outcome.err == "stillpoint: write of spool: no space left on device\n");
}

// ---- wait

TEST_CASE("wait exits with the program's exit code") {
  const auto code_for = [](const json& status) {
    const TestServer server([&](const TestRequest& request) -> TestAnswer {
      return {200, request.target.find("/outputs") != std::string::npos ? "[]" : status.dump()};
    });
    const auto outcome = run_with(server, {"wait", "j7", "--json"});
    CHECK(outcome.document()["state"] == status["state"]);
    CHECK(outcome.document()["exitCode"] == status["exitCode"]);
    return outcome.code;
  };
  CHECK(code_for(ended("completed", 0)) == 0);
  CHECK(code_for(ended("completed", 17)) == 17);
  CHECK(code_for(ended("failed", 137)) == 137);
  CHECK(code_for(ended("failed", nullptr)) == 1);
  CHECK(code_for(ended("failed", 0)) == 1);
  CHECK(code_for(ended("failed", 256)) == 1);
  CHECK(code_for(ended("failed", -9)) == 1);
  CHECK(code_for(ended("stopped", nullptr)) == 1);
}

TEST_CASE("wait asks again until the end, and gives up after its timeout") {
  int asked = 0;
  const TestServer server([&](const TestRequest& request) -> TestAnswer {
    if (request.target.find("/outputs") != std::string::npos) return {200, "[]"};
    return {200, ++asked < 3 ? kStatus.dump() : ended("completed", 0).dump()};
  });
  CHECK(run_with(server, {"wait", "j7"}).code == 0);
  CHECK(asked == 3);
  const TestServer running(always({200, kStatus.dump()}));
  const auto outcome = run_with(running, {"wait", "j7", "--timeout", "0.01", "--json"});
  CHECK(outcome.code == 1);
  CHECK(outcome.document() == json({{"state", "running"}, {"exitCode", nullptr}}));
}

TEST_CASE("wait goes on when the coordinator was away for a moment") {
  int asked = 0;
  const TestServer server([&](const TestRequest& request) -> TestAnswer {
    if (request.target.find("/outputs") != std::string::npos) return {200, "[]"};
    if (++asked == 2) {
      TestAnswer died;
      died.hang_up = true;
      return died;
    }
    return {200, asked == 1 ? kStatus.dump() : ended("completed", 0).dump()};
  });
  const auto outcome = run_with(server, {"wait", "j7"});
  CHECK(outcome.code == 0);
  CHECK(outcome.err.find("waiting for it to come back") != std::string::npos);
}

TEST_CASE("wait tells what is missing of a completed job; the exit code stays the program's") {
  const TestServer server([&](const TestRequest& request) -> TestAnswer {
    if (request.target.find("/outputs") != std::string::npos) return {200, "[]"};
    auto status = ended("completed", 0);
    status["reason"] = "not every output is there: out.txt: no such file";
    return {200, status.dump()};
  });
  const auto outcome = run_with(server, {"wait", "j7"});
  CHECK(outcome.code == 0);
  CHECK(outcome.err.find("not every output is there: out.txt: no such file") != std::string::npos);
}

TEST_CASE("wait copies outputs to where the job was submitted, and nowhere else") {
  Folder folder;
  folder.write("out.txt", "old");
  const std::string big(5 << 20, 'x');
  const TestServer server([&](const TestRequest& request) -> TestAnswer {
    if (request.target == "/v1/jobs/j7/outputs")
      return {
          200,
          R"([{"name":"out.txt","size":3},{"name":"deep/er","size":1},{"name":"../evil","size":1},{"name":"/etc/evil","size":1}])"};
    if (request.target == "/v1/jobs/j7/outputs/out.txt") return {200, big};
    if (request.target == "/v1/jobs/j7/outputs/deep/er") return {200, "d"};
    return {200, ended("completed", 3, folder.path.string()).dump()};
  });
  const auto outcome = run_with(server, {"wait", "melt", "--json"});
  CHECK(outcome.code == 3);
  CHECK(file_of(folder.path / "out.txt") == big);
  CHECK(file_of(folder.path / "deep/er") == "d");
  CHECK(outcome.document()["outputs"].size() == 2);
  CHECK(outcome.document()["outputs"][0]["path"] == (folder.path / "out.txt").string());
  CHECK(outcome.err.find("leads out of the submit directory") != std::string::npos);
  CHECK(!std::filesystem::exists(folder.path.parent_path() / "evil"));
  // Nothing half-made is left.
  CHECK(std::distance(std::filesystem::directory_iterator(folder.path), {}) == 2);
}

TEST_CASE("outputs that cannot be copied are told and change nothing") {
  const TestServer server([&](const TestRequest& request) -> TestAnswer {
    if (request.target == "/v1/jobs/j7/outputs") return {200, R"([{"name":"a","size":3},{"name":"b","size":3}])"};
    if (request.target == "/v1/jobs/j7/outputs/a") return {200, "a"};
    if (request.target == "/v1/jobs/j7/outputs/b") return refusal(404, "not-found", "the program did not write it");
    return {200, ended("completed", 0, "/proc/no-such-place").dump()};
  });
  const auto outcome = run_with(server, {"wait", "j7"});
  CHECK(outcome.code == 0);
  CHECK(outcome.err.find("output a was not copied") != std::string::npos);
  CHECK(outcome.err.find("the program did not write it") != std::string::npos);
}

// ---- logs

namespace {

// A job's output as the coordinator serves it, at most 5 bytes at a time.
struct Stream {
  std::string data, state = "running";
  int incarnation = 1;
  TestAnswer serve(const TestRequest& request) const {
    const auto offset = std::stoul(request.target.substr(request.target.find("offset=") + 7));
    std::map<std::string, std::string> headers = {{"X-Offset", std::to_string(offset)},
                                                  {"X-Length", std::to_string(data.size())},
                                                  {"X-State", state},
                                                  {"X-Incarnation", std::to_string(incarnation)}};
    if (offset > data.size()) {
      auto answer = refusal(409, "refused", "the output was cut back");
      answer.headers = headers;
      return answer;
    }
    return {200, data.substr(offset, 5), headers};
  }
};

}  // namespace

TEST_CASE("logs prints all that there is and ends") {
  const TestServer server([](const TestRequest& request) { return Stream{"one\ntwo\nthree\n"}.serve(request); });
  const auto outcome = run_with(server, {"logs", "j7"});
  CHECK(outcome.code == 0);
  CHECK(outcome.out == "one\ntwo\nthree\n");
  const auto document = run_with(server, {"logs", "j7", "--json"}).document();
  CHECK(document["output"] == "one\ntwo\nthree\n");
  CHECK(document["state"] == "running");
}

TEST_CASE("logs -f ends with the job") {
  Stream stream{"one\n"};
  const TestServer server([&](const TestRequest& request) {
    const auto answer = stream.serve(request);
    if (stream.data == "one\n") stream.data += "two\n";
    else stream.state = "completed";
    return answer;
  });
  CHECK(run_with(server, {"logs", "-f", "j7"}).out == "one\ntwo\n");
}

TEST_CASE("logs -f goes back with the output at a restart") {
  // Seven bytes are read; the cut is at four; the restarted job says something else.
  Stream stream{"one\ntw!"};
  int asked = 0;
  const TestServer server([&](const TestRequest& request) -> TestAnswer {
    if (++asked == 3) stream = {"one\n", "restarting", 2};
    if (asked == 5) stream = {"one\ntwo\n", "completed", 2};
    return stream.serve(request);
  });
  const auto outcome = run_with(server, {"logs", "-f", "j7", "--json"});
  CHECK(outcome.document()["output"] == "one\ntwo\n");
  CHECK(outcome.err.find("goes on from byte 4") != std::string::npos);
}

TEST_CASE("logs -f notices a cut behind which the output has grown again") {
  Stream stream{"one\ntw!"};
  int asked = 0;
  const TestServer server([&](const TestRequest& request) -> TestAnswer {
    if (request.target == "/v1/jobs/j7") return {200, R"({"restoredFrom":3})"};
    if (request.target == "/v1/jobs/j7/checkpoints")
      return {200, R"([{"epoch":2,"outputOffset":0},{"epoch":3,"outputOffset":4}])"};
    if (++asked == 3) stream = {"one\ntwo\nthree\n", "completed", 2};
    return stream.serve(request);
  });
  CHECK(run_with(server, {"logs", "-f", "j7", "--json"}).document()["output"] == "one\ntwo\nthree\n");
}

TEST_CASE("logs of no job exits with 4") {
  const TestServer server(always(refusal(404, "not-found", "no job j9")));
  CHECK(run_with(server, {"logs", "j9"}).code == 4);
  CHECK(run_with(server, {"logs", "-f", "j9"}).code == 4);
}

// ---- events

namespace {

json event_line(std::uint64_t id, const char* what) {
  return {{"id", id},     {"time", "2026-01-02T03:04:05Z"}, {"job", "j7"},           {"incarnation", 1},
          {"epoch", 12},  {"jobState", "running"},          {"epochState", nullptr}, {"host", ""},
          {"what", what}, {"detail", "of old\x1b[31m"}};
}

// A history that answers as the coordinator's does, two lines at a time would be too many: pages are of 1,000.
struct History {
  std::vector<json> lines;
  std::string state = "running";
  TestAnswer serve(const TestRequest& request) const {
    const auto number = [&](const std::string& key) -> std::uint64_t {
      const auto at = request.target.find(key + "=");
      return at == std::string::npos ? 0 : std::stoull(request.target.substr(at + key.size() + 1));
    };
    std::vector<json> page;
    for (const auto& line : lines)
      if (line["id"].get<std::uint64_t>() > number("after")) page.push_back(line);
    if (const auto last = number("last"); last != 0 && page.size() > last)
      page.erase(page.begin(), page.end() - static_cast<std::ptrdiff_t>(last));
    if (page.size() > number("limit")) page.resize(number("limit"));
    const auto newest = lines.empty() ? 0 : lines.back()["id"].get<std::uint64_t>();
    return {200, json(page).dump(), {{"X-Newest", std::to_string(newest)}, {"X-Job", "j7"}, {"X-State", state}}};
  }
};

std::vector<std::uint64_t> ids_of(const std::string& lines) {
  std::vector<std::uint64_t> ids;
  std::istringstream in(lines);
  for (std::string line; std::getline(in, line);) ids.push_back(json::parse(line)["id"].get<std::uint64_t>());
  return ids;
}

}  // namespace

TEST_CASE("events: a table for people, without control characters of others; one document with --json") {
  History history{{event_line(1, "submitted"), event_line(4, "epoch begun")}};
  const TestServer server([&](const TestRequest& request) { return history.serve(request); });
  const auto outcome = run_with(server, {"events", "heat/x"});
  CHECK(outcome.code == 0);
  CHECK(outcome.out.find("TIME") == 0);
  CHECK(outcome.out.find("epoch begun: of old") != std::string::npos);
  CHECK(outcome.out.find('\x1b') == std::string::npos);
  CHECK(server.requests()[0].target.starts_with("/v1/jobs/heat%2Fx/events?after=0"));
  CHECK(run_with(server, {"events", "--json"}).document() == json(history.lines));
  CHECK(run_with(server, {"events", "-n", "1", "--json", "--host", "h1"}).document() == json{history.lines[1]});
  CHECK(server.requests().back().target.find("&host=h1") != std::string::npos);
  CHECK(server.requests().back().target.starts_with("/v1/events?"));
}

TEST_CASE("events: a long history comes page by page") {
  History history;
  for (std::uint64_t id = 1; id <= 2'500; ++id) history.lines.push_back(event_line(2 * id, "what"));
  const TestServer server([&](const TestRequest& request) { return history.serve(request); });
  const auto document = run_with(server, {"events", "j7", "--json"}).document();
  CHECK(document == json(history.lines));
  CHECK(server.requests().size() == 3);
}

TEST_CASE("events -f goes over a coordinator that is away, without loss or doubling, to the job's end") {
  History history{{event_line(1, "a"), event_line(2, "b")}};
  int asked = 0;
  const TestServer server([&](const TestRequest& request) -> TestAnswer {
    ++asked;
    if (asked == 2) history.lines.push_back(event_line(3, "c"));
    if (asked == 3 || asked == 4) return {.hang_up = true};
    if (asked == 5) history.lines.push_back(event_line(5, "d"));
    if (asked == 6) {
      history.lines.push_back(event_line(6, "completed"));
      history.state = "completed";
    }
    return history.serve(request);
  });
  const auto outcome = run_with(server, {"events", "-f", "j7", "--json"});
  CHECK(outcome.code == 0);
  CHECK(ids_of(outcome.out) == std::vector<std::uint64_t>{1, 2, 3, 5, 6});
}

TEST_CASE("events -f of a job that is known by its name tells its removal, after which the name is nobody's") {
  for (const bool any : {true, false}) {
    CAPTURE(any);
    History history;  // that is empty to begin with, or not: `--host` may leave nothing of it
    if (any) history.lines = {event_line(1, "a")};
    const TestServer server([&](const TestRequest& request) -> TestAnswer {
      if (request.target.starts_with("/v1/jobs/heat/")) return history.serve(request);
      CHECK(request.target.starts_with("/v1/jobs/j7/"));
      history.lines.push_back(event_line(2, "removed"));
      history.state = "removed";
      return history.serve(request);
    });
    const auto outcome = run_with(server, {"events", "-f", "heat", "--json"});
    CHECK(outcome.code == 0);
    CHECK(ids_of(outcome.out) == (any ? std::vector<std::uint64_t>{1, 2} : std::vector<std::uint64_t>{2}));
    CHECK(server.requests().size() == 2);
  }
}

TEST_CASE("events -f of a catalog that was put back goes on with what is new") {
  History history{{event_line(50, "a")}};
  int asked = 0;
  const TestServer server([&](const TestRequest& request) -> TestAnswer {
    ++asked;
    if (asked == 2) history.lines = {event_line(20, "older")};
    if (asked == 4) {
      history.lines.push_back(event_line(21, "new"));
      history.state = "stopped";
    }
    return history.serve(request);
  });
  const auto outcome = run_with(server, {"events", "-f", "j7", "--json"});
  CHECK(ids_of(outcome.out) == std::vector<std::uint64_t>{50, 21});
  CHECK(outcome.err.find("older copy") != std::string::npos);
}

TEST_CASE("events of what is not there, or from somebody else, fail in words") {
  const TestServer none(always(refusal(404, "not-found", "no job j9")));
  CHECK(run_with(none, {"events", "j9"}).code == 4);
  CHECK(run_with(none, {"events", "-f", "j9"}).code == 4);
  const TestServer other(always({200, "{}"}));
  CHECK(run_with(other, {"events"}).code == 1);
  CHECK(run_command({"events", "-n", "0"}).code == 2);
}

TEST_CASE("catalog backup names the file whole, for the coordinator writes it") {
  const TestServer server(always({200, R"({"file":"/x/copy.db","bytes":2097152})"}));
  const auto outcome = run_with(server, {"catalog", "backup", "copy.db"});
  CHECK(outcome.code == 0);
  CHECK(outcome.out.find("2.0 MiB") != std::string::npos);
  const auto asked = json::parse(server.requests()[0].body);
  CHECK(asked["file"] == (std::filesystem::current_path() / "copy.db").string());
  CHECK(run_with(server, {"catalog", "backup", "copy.db", "--json"}).document()["bytes"] == 2097152);
  const TestServer refuses(always(refusal(409, "refused", "there is something of that name already")));
  CHECK(run_with(refuses, {"catalog", "backup", "copy.db"}).code == 1);
  CHECK(run_command({"catalog"}).code == 2);
  CHECK(run_command({"catalog", "backup"}).code == 2);
}

// ---- doctor, text, client

TEST_CASE("doctor names each check with a result and, where it is not ok, a remedy") {
  const auto outcome = run_command({"doctor", "--json", "--guest-image", "/no/such/image"});
  CHECK(outcome.code == 1);
  const auto findings = outcome.document()["findings"];
  CHECK(findings.size() == 11);
  for (const auto& finding : findings) {
    CHECK(finding.size() == 4);
    if (finding["result"] == "fail") CHECK(finding["remedy"] != "");
  }
  CHECK(findings.back()["check"] == "guest-image");
  CHECK(findings.back()["result"] == "fail");
}

TEST_CASE("the accelerator is chosen by the CPU's flag") {
  CHECK(judge_accelerator(true, true, "").result == Finding::Result::ok);
  CHECK(judge_accelerator(true, false, "no such file").result == Finding::Result::warn);
  CHECK(judge_accelerator(false, true, "").result == Finding::Result::warn);
  CHECK(judge_accelerator(false, true, "").detail.find("would hang") != std::string::npos);
  CHECK(judge_accelerator(false, false, "no such file").result == Finding::Result::warn);
}

TEST_CASE("a KVM that makes no virtual machine is a failure, for a host would choose it") {
  const auto finding = judge_accelerator(true, true, "operation not permitted");
  CHECK(finding.result == Finding::Result::fail);
  CHECK(finding.detail.find("operation not permitted") != std::string::npos);
  CHECK_FALSE(finding.remedy.empty());
}

TEST_CASE("versions are read and judged") {
  CHECK(version_in("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\n") == 10'000'002);
  CHECK(version_in("QEMU emulator version 7.2") == 7'002'000);
  CHECK(version_in("no digits") == 0);
  CHECK(version_in("") == 0);
  for (const char* fault : {"", "operation not permitted"}) {
    const auto finding = judge_userfaultfd(fault);
    CHECK(finding.result == (*fault ? Finding::Result::warn : Finding::Result::ok));
    CHECK(finding.detail.find(fault) == 0);
    CHECK(finding.detail.find("copied while the guest runs first (pre-copy)") != std::string::npos);
    CHECK(finding.remedy.empty() == (*fault == 0));
  }
  CHECK(judge_qemu(0).result == Finding::Result::fail);
  CHECK(judge_qemu(7'002'000).result == Finding::Result::warn);
  CHECK(judge_qemu(10'000'002).result == Finding::Result::ok);
  CHECK(judge_libvirt(0, true).result == Finding::Result::fail);
  CHECK(judge_libvirt(11'003'000, false).result == Finding::Result::fail);
  CHECK(judge_libvirt(8'001'000, true).result == Finding::Result::fail);
  CHECK(judge_libvirt(9'000'000, true).result == Finding::Result::warn);
  CHECK(judge_libvirt(11'003'000, true).result == Finding::Result::ok);
  CHECK(judge_room(1 << 20, "/").result == Finding::Result::fail);
  CHECK(judge_room(2ull << 30, "/").result == Finding::Result::warn);
  CHECK(judge_memory(64ull << 30).result == Finding::Result::ok);
}

TEST_CASE("text for people") {
  CHECK(table({"A", "LONG"}, {{"äö", "x"}, {"y", ""}}) == "A   LONG\näö  x\ny\n");
  CHECK(human_bytes(0) == "0 B");
  CHECK(human_bytes(1536) == "1.5 KiB");
  CHECK(human_bytes(108003328) == "103 MiB");
  CHECK(human_ms(5.25) == "5.2 ms");
  CHECK(human_ms(200'000) == "3 min 20 s");
  CHECK(human_ms(7'500'000) == "2 h 5 min");
  CHECK(human_ms(273'600'000) == "3 d 4 h");
  CHECK(plain("a\x1b[31mb\n") == "a?[31mb?");
}

TEST_CASE("a coordinator that does not answer in time is told apart from one that is not there") {
  // Accepts into the backlog and never answers.
  Folder folder;
  std::mutex held;
  std::unique_lock hold(held);
  const TestServer server([&](const TestRequest&) -> TestAnswer {
    const std::lock_guard wait(held);
    return {200, "{}"};
  });
  const auto answer = ApiClient(server.socket()).get("/v1/health", std::chrono::milliseconds(50));
  hold.unlock();
  REQUIRE(!answer.has_value());
  CHECK(answer.error().error.kind == ErrorKind::deadline);
  CHECK(answer.error().exit_code == kFailed);
}
