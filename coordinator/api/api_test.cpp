// The API's edges: what is not a request, what asks for too much, what leaves half-way.
#include <doctest/doctest.h>
#include <sys/socket.h>

#include "coordinator/test_support/test_server.h"

using namespace stillpoint;
using namespace stillpoint::coordinator;
using nlohmann::json;

namespace {

struct Running : TestServer {
  Running() { start(); }
  std::string spool() { return http().post("/v1/spool").json()["spool"].get<std::string>(); }
  std::string pending_job(const json& checkpoint = json::object()) {
    const json body = {{"spec",
                        {{"name", "idle"},
                         {"guests", 1},
                         {"memoryBytes", 256u << 20},
                         {"diskBytes", 1u << 30},
                         {"ranksPerGuest", {1}},
                         {"command", {"true"}},
                         {"checkpoint", checkpoint}}}};
    const auto reply = http().post("/v1/jobs", body.dump());
    REQUIRE(reply.status == 200);
    return reply.json()["job"].get<std::string>();
  }
};

}  // namespace

TEST_CASE("health tells who answers") {
  Running site;
  const auto reply = site.http().get("/v1/health");
  CHECK(reply.status == 200);
  CHECK(reply.headers.at("Content-Type") == "application/json");
  CHECK(reply.json()["coordinator"].get<std::string>().size() == 32);
  CHECK(reply.json()["version"] == STILLPOINT_VERSION);
}

TEST_CASE("unknown paths, methods, parameters") {
  Running site;
  for (const char* path :
       {"/", "/v1", "/v1/nothing", "/v2/jobs", "/v1/jobs/j1/nothing", "/v1/health/x", "/v1/spool/x"}) {
    CAPTURE(path);
    const auto reply = site.http().get(path);
    CHECK((reply.status == 404 || reply.status == 405 || reply.status == 400));
    CHECK(reply.json().contains("error"));
  }
  const auto wrong = site.http().request("PUT", "/v1/jobs", "");
  CHECK(wrong.status == 405);
  CHECK(wrong.headers.at("Allow") == "POST, GET");
  CHECK(site.http().get("/v1/jobs?color=red").status == 400);
  CHECK(site.http().get("/v1/jobs/j1/wait?timeoutMs=soon").status == 400);
  CHECK(site.http().get("/v1/jobs/j1/wait?timeoutMs=-1").status == 400);
  CHECK(site.http().get("/v1/jobs/j1/wait?timeoutMs=99999999999999999999").status == 400);
  CHECK(site.http().get("/v1/jobs/j1/logs?offset=1&offset=2").status == 400);
  CHECK(site.http().get("/v1/jobs/%zz").status == 400);
  CHECK(site.http().get("/v1/jobs/%00").status == 400);
  CHECK(site.http().get("/v1//jobs").status == 400);
}

TEST_CASE("jobs that are not there") {
  Running site;
  for (const char* rest : {"", "/wait", "/logs", "/outputs", "/outputs/x", "/events", "/checkpoints"}) {
    const auto reply = site.http().get(std::string("/v1/jobs/j7") + rest);
    CHECK(reply.status == 404);
    CHECK(reply.error_kind() == "not-found");
  }
  for (const char* rest : {"checkpoint", "restart", "stop", "verify", "prune"})
    CHECK(site.http().post(std::string("/v1/jobs/j7/") + rest).status == 404);
  CHECK(site.http().request("DELETE", "/v1/jobs/j7", "").status == 404);
}

TEST_CASE("submissions that make no sense are refused with everything that is wrong") {
  Running site;
  auto refused = [&](const std::string& body) {
    const auto reply = site.http().post("/v1/jobs", body);
    CHECK(reply.status == 400);
    CHECK(reply.error_kind() == "refused");
    return reply.body;
  };
  CHECK(refused("").find("spec: is missing") != std::string::npos);
  CHECK(refused("{").find("JSON") != std::string::npos);
  CHECK(refused("\"\xff\"").find("JSON") != std::string::npos);
  CHECK(refused("[]").find("expected an object") != std::string::npos);
  const auto both = refused(R"({"spec":{"name":5},"extra":1})");
  CHECK(both.find("extra: is not a known key") != std::string::npos);
  CHECK(both.find("spec.name: expected a string") != std::string::npos);
  CHECK(refused(std::string(100'000, '[')).find("error") != std::string::npos);
  CHECK(site.http().get("/v1/jobs").json().empty());
}

TEST_CASE("checkpoint and restart bodies are read strictly; a job that does not run cannot be checkpointed") {
  Running site;
  const auto job = site.pending_job();
  CHECK(site.http().post("/v1/jobs/idle/checkpoint").status == 409);
  CHECK(site.http().post("/v1/jobs/idle/checkpoint").error_kind() == "refused");
  CHECK(site.http().post("/v1/jobs/idle/checkpoint", R"({"gap":1})").status == 400);
  CHECK(site.http().post("/v1/jobs/idle/checkpoint", R"({"testUncoordinatedGapMs":"1"})").status == 400);
  CHECK(site.http().post("/v1/jobs/idle/restart", R"({"from":-1})").status == 400);
  CHECK(site.http().post("/v1/jobs/idle/verify", R"({"epoch":"1"})").status == 400);
  CHECK(site.http().post("/v1/jobs/idle/verify", R"({"epoch":7})").status == 404);
  CHECK(site.http().post("/v1/jobs/idle/prune", R"({"keep":-1})").status == 400);
  CHECK(site.http().post("/v1/jobs/idle/prune", R"({"keep":0})").status == 409);
  CHECK(site.http().post("/v1/jobs/idle/prune").json() ==
        json({{"job", job}, {"pruned", json::array()}, {"kept", json::array()}, {"freedBytes", 0}}));
  CHECK(
      site.http().get("/v1/store").json() ==
      json({{"hosts", json::array()}, {"jobs", json::array()}, {"deduplication", nullptr}, {"compression", nullptr}}));
  CHECK(site.http().post("/v1/jobs/idle/verify").json() == json({{"job", job}, {"epochs", json::array()}}));
  CHECK(site.http().post("/v1/jobs/idle/restart", R"({"hosts":"h1"})").status == 400);
  const auto unknown = site.http().post("/v1/jobs/idle/restart", R"({"from":99})");
  CHECK(unknown.status >= 400);
  CHECK(unknown.json().contains("error"));
  CHECK(site.http().get("/v1/jobs/" + job).json()["state"] == "pending");
}

TEST_CASE("a job is found by id, and by name the newest of it") {
  Running site;
  std::string last;
  for (int i = 0; i < 11; ++i) last = site.pending_job();  // past j9: ids are numbers, not text
  CHECK(last == "j11");
  CHECK(site.http().get("/v1/jobs/idle").json()["job"] == last);
  CHECK(site.http().get("/v1/jobs/j2").json()["job"] == "j2");
  const auto all = site.http().get("/v1/jobs").json();
  REQUIRE(all.size() == 11);
  CHECK(all[0]["job"] == "j1");
  CHECK(all[10]["job"] == "j11");
}

TEST_CASE("a job's status has the interval of its checkpoints, and what it was computed from") {
  Running site;
  const auto interval = [&](const json& checkpoint) {
    return site.http().get("/v1/jobs/" + site.pending_job(checkpoint)).json().at("checkpointInterval");
  };
  CHECK(interval(json::object()).is_null());
  CHECK(interval({{"intervalSeconds", 300}}) == json{{"policy", "fixed"}, {"seconds", 300}});
  const json computed = interval({{"intervalAuto", true}});
  CHECK(computed.at("policy") == "auto");
  CHECK(computed.at("seconds") > 0);
  CHECK(computed.at("inputs").at("checkpoints") == 0);
  for (const char* input : {"stallMs", "commitMs", "costMs", "hostFailures", "watchedSeconds", "mtbfSeconds"})
    CHECK_MESSAGE(computed.at("inputs").at(input).is_number(), input);
}

TEST_CASE("history: pages, the newest, of one job, as long as it is kept") {
  Running site;
  const auto first = site.pending_job(), second = site.pending_job();
  const auto all = site.http().get("/v1/events");
  REQUIRE(all.status == 200);
  REQUIRE(all.json().size() == 2);
  CHECK(all.json()[0]["id"] == 1);
  CHECK(all.json()[0]["what"] == "submitted");
  CHECK(all.json()[0]["job"] == first);
  CHECK(all.json()[0]["jobState"] == "pending");
  CHECK(all.json()[0]["epochState"] == nullptr);
  CHECK(all.headers.at("X-Newest") == "2");
  CHECK(site.http().get("/v1/events?after=1").json()[0]["job"] == second);
  CHECK(site.http().get("/v1/events?limit=1").json()[0]["job"] == first);
  CHECK(site.http().get("/v1/events?last=1").json()[0]["job"] == second);
  CHECK(site.http().get("/v1/events?host=h1").json().empty());
  CHECK(site.http().get("/v1/jobs/" + first + "/events").json().size() == 1);
  CHECK(site.http().get("/v1/jobs/" + first + "/events").headers.at("X-State") == "pending");
  const auto by_name = site.http().get("/v1/jobs/idle/events?host=h1");
  CHECK(by_name.json().empty());
  CHECK(by_name.headers.at("X-Job") == second);
  for (const char* query : {"after=x", "limit=0", "limit=1001", "last=1001", "waitMs=-1", "color=red"})
    CHECK(site.http().get("/v1/events?" + std::string(query)).status == 400);

  REQUIRE(site.http().post("/v1/jobs/" + first + "/stop").status == 200);
  REQUIRE(site.http().request("DELETE", "/v1/jobs/" + first, "").status == 200);
  const auto removed = site.http().get("/v1/jobs/" + first + "/events?waitMs=60000");
  CHECK(removed.json().back()["what"] == "removed");
  CHECK(removed.headers.at("X-State") == "removed");
  CHECK(site.http().get("/v1/jobs/j7/events").status == 404);
}

TEST_CASE("history: a reader that waits hears of the next line, and of the end") {
  Running site;
  const auto job = site.pending_job();
  HttpReply heard;
  std::thread reader([&] { heard = site.http().get("/v1/jobs/" + job + "/events?after=1&waitMs=60000"); });
  // Whether the reader is there before or after it: the line is behind what it has.
  REQUIRE(site.http().post("/v1/jobs/" + job + "/stop").status == 200);
  reader.join();
  REQUIRE(heard.status == 200);
  REQUIRE(!heard.json().empty());
  CHECK(heard.json()[0]["id"] == 2);
  // Nothing more will come of a job that is over: nobody is kept waiting.
  const auto over = site.http().get("/v1/jobs/" + job + "/events?after=1000&waitMs=60000");
  CHECK(over.json().empty());
  CHECK(over.headers.at("X-State") == "stopped");
}

TEST_CASE("a backup of the catalog: to a new file, in words when not") {
  Running site;
  site.pending_job();
  const auto file = site.site.directory() / "copy.db";
  const auto body = json({{"file", file.string()}}).dump();
  const auto made = site.http().post("/v1/catalog/backup", body);
  REQUIRE(made.status == 200);
  CHECK(made.json()["bytes"] == std::filesystem::file_size(file));
  const auto again = site.http().post("/v1/catalog/backup", body);
  CHECK(again.status == 409);
  CHECK(again.body.find("name already") != std::string::npos);
  CHECK(site.http().post("/v1/catalog/backup", R"({"file":"copy.db"})").status == 409);
  CHECK(site.http().post("/v1/catalog/backup", R"({"file":"/nowhere/at/all/copy.db"})").status == 404);
  CHECK(site.http().post("/v1/catalog/backup", "{}").status == 400);
}

TEST_CASE("uploads stay in their spool") {
  Running site;
  const auto spool = site.spool();
  auto put = [&](const std::string& id, const std::string& name, const std::string& headers = "") {
    return site.http().request("PUT", "/v1/spool/" + id + "/" + name, "content", headers).status;
  };
  CHECK(put(spool, "a") == 200);
  CHECK(put(spool, "dir/b%20c", "X-Mode: 700\r\n") == 200);
  CHECK(put(spool, "a") == 200);  // again: replaced
  for (const char* name : {"..", "../x", "dir/../../x", "%2e%2e/x", "dir/%2e%2e/%2e%2e/x", "%2fetc%2fpasswd",
                           "dir%2f..%2f..%2fx", ".", "a/./b", "x%0ay"}) {
    CAPTURE(name);
    const int status = put(spool, name);
    CHECK((status == 409 || status == 400));
  }
  CHECK(put(spool, "a/b") >= 400);  // a is a file
  CHECK(put(spool, "c", "X-Mode: 999\r\n") == 409);
  CHECK(put(spool, "c", "X-Mode: 4755\r\n") == 409);
  CHECK(put("../" + spool, "c") >= 400);
  CHECK(put("%2e%2e", "c") == 404);
  CHECK(put(std::string(32, '0'), "c") == 404);
  CHECK_FALSE(std::filesystem::exists(site.directory / "spool" / "x"));
  const auto files = site.directory / "spool" / spool / "files";
  CHECK((std::filesystem::status(files / "dir" / "b c").permissions() & std::filesystem::perms::owner_exec) !=
        std::filesystem::perms::none);
  CHECK(std::filesystem::is_empty(site.directory / "spool" / spool / "partial"));
}

TEST_CASE("an empty file arrives empty") {
  Running site;
  const auto spool = site.spool();
  CHECK(site.http().request("PUT", "/v1/spool/" + spool + "/empty", "").status == 200);
  CHECK(
      site.http()
          .raw("PUT /v1/spool/" + spool + "/chunked HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
          .status == 200);
  const auto files = site.directory / "spool" / spool / "files";
  CHECK(std::filesystem::file_size(files / "empty") == 0);
  CHECK(std::filesystem::file_size(files / "chunked") == 0);
}

TEST_CASE("an upload does not follow a symlink out of its spool") {
  Running site;
  const auto spool = site.spool();
  const auto files = site.directory / "spool" / spool / "files";
  std::filesystem::create_directory_symlink("/tmp", files / "way-out");
  std::filesystem::create_symlink("/tmp/stillpoint-must-not-exist", files / "link");
  CHECK(site.http().request("PUT", "/v1/spool/" + spool + "/way-out/x", "content").status == 409);
  CHECK(site.http().request("PUT", "/v1/spool/" + spool + "/link", "content").status == 200);  // the link is replaced
  CHECK_FALSE(std::filesystem::exists("/tmp/stillpoint-must-not-exist"));
  CHECK(std::filesystem::is_regular_file(std::filesystem::symlink_status(files / "link")));
}

TEST_CASE("an upload that breaks off leaves nothing") {
  Running site;
  const auto spool = site.spool();
  {
    const Fd fd = site.http().connect();
    const std::string part = "PUT /v1/spool/" + spool + "/big HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" +
                             std::string(400'000, 'x');
    REQUIRE(::send(fd.get(), part.data(), part.size(), MSG_NOSIGNAL) > 0);
  }
  const auto directory = site.directory / "spool" / spool;
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!std::filesystem::is_empty(directory / "partial") && std::chrono::steady_clock::now() < end)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  CHECK(std::filesystem::is_empty(directory / "partial"));
  CHECK(std::filesystem::is_empty(directory / "files"));
  const json body = {{"spec",
                      {{"name", "x"},
                       {"guests", 1},
                       {"memoryBytes", 256u << 20},
                       {"diskBytes", 1u << 30},
                       {"ranksPerGuest", {1}},
                       {"command", {"x"}},
                       {"files", {"big"}}}},
                     {"spool", spool}};
  const auto reply = site.http().post("/v1/jobs", body.dump());
  CHECK(reply.status == 409);
  CHECK(reply.body.find("were not uploaded: big") != std::string::npos);
}

TEST_CASE("a spool belongs to one job") {
  Running site;
  const auto spool = site.spool();
  CHECK(site.http().request("PUT", "/v1/spool/" + spool + "/prog", "content").status == 200);
  json body = {{"spec",
                {{"name", "x"},
                 {"guests", 1},
                 {"memoryBytes", 256u << 20},
                 {"diskBytes", 1u << 30},
                 {"ranksPerGuest", {1}},
                 {"command", {"prog"}},
                 {"files", {"prog"}}}},
               {"spool", spool}};
  CHECK(site.http().post("/v1/jobs", body.dump()).status == 200);
  CHECK(site.http().post("/v1/jobs", body.dump()).status == 409);
  CHECK(site.http().request("PUT", "/v1/spool/" + spool + "/more", "content").status == 409);
  body.erase("spool");
  CHECK(site.http().post("/v1/jobs", body.dump()).status == 409);
}

TEST_CASE("refused submits use up nothing") {
  Running site;
  json body = {{"spec",
                {{"name", "x"},
                 {"guests", 1},
                 {"memoryBytes", 256u << 20},
                 {"diskBytes", 1u << 30},
                 {"ranksPerGuest", {1}},
                 {"command", {"prog"}},
                 {"files", {"prog"}},
                 {"placement", {{"hosts", {"nowhere"}}}}}}};
  for (int i = 0; i < 70; ++i) {
    const auto spool = site.spool();
    REQUIRE(site.http().request("PUT", "/v1/spool/" + spool + "/prog", "content").status == 200);
    body["spool"] = spool;
    REQUIRE(site.http().post("/v1/jobs", body.dump()).status == 404);
    CHECK_FALSE(std::filesystem::exists(site.directory / "spool" / spool));
  }
  // Nor do those who ask for a place and never submit lock the others out.
  for (int i = 0; i < 70; ++i) CHECK(site.http().post("/v1/spool").status == 200);
}

TEST_CASE("bodies and headers that are too large, and bytes that are not HTTP") {
  Running site;
  CHECK(site.http().post("/v1/jobs", std::string(3u << 20, ' ')).status == 413);
  CHECK(site.http().raw("POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n").status == 413);
  std::string chunks = "POST /v1/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
  for (int i = 0; i < 20; ++i) chunks += "20000\r\n" + std::string(0x20000, 'x') + "\r\n";
  CHECK(site.http().raw(chunks + "0\r\n\r\n").status == 413);
  CHECK(site.http().raw("GET /v1/health HTTP/1.1\r\nX: " + std::string(100'000, 'x') + "\r\n\r\n").status == 431);
  CHECK(site.http().raw("hello\r\n\r\n").status == 400);
  CHECK(site.http()
            .raw(std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11) + std::string(300, '\0'))
            .status == 400);
  CHECK(site.http().raw("GET /v1/health HTTP/1.1\r\nContent-Length: -5\r\n\r\n").status == 400);
  CHECK(site.http().raw("POST /v1/jobs HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n").status == 400);
  CHECK(site.http().get("/v1/health").status == 200);
}

TEST_CASE("Expect: 100-continue, and a refused large upload still gets its answer") {
  Running site;
  const auto spool = site.spool();
  CHECK(site.http()
            .request("PUT", "/v1/spool/" + spool + "/f", std::string(600'000, 'x'), "Expect: 100-continue\r\n")
            .status == 200);
  CHECK(site.http().request("PUT", "/v1/spool/" + std::string(32, 'a') + "/f", std::string(8u << 20, 'x')).status ==
        404);
}

TEST_CASE("a wait ends at its time, at the job's end, and when its client leaves") {
  Running site;
  const auto job = site.pending_job();
  const auto begun = std::chrono::steady_clock::now();
  auto status = site.http().get("/v1/jobs/idle/wait?timeoutMs=200");
  CHECK(status.status == 200);
  CHECK(status.json()["state"] == "pending");
  CHECK(std::chrono::steady_clock::now() - begun >= std::chrono::milliseconds(200));
  std::thread stopper([&] { site.http().post("/v1/jobs/idle/stop"); });
  status = site.http().get("/v1/jobs/idle/wait?timeoutMs=20000");
  stopper.join();
  CHECK(status.json()["state"] == "stopped");
}

TEST_CASE("requests that wait are bounded, and their places free again when the clients leave") {
  Running site;
  site.pending_job();
  const std::string waiting = "GET /v1/jobs/idle/wait?timeoutMs=3600000 HTTP/1.1\r\nHost: x\r\n\r\n";
  auto one_more = [&] { return site.http().get("/v1/jobs/idle/wait?timeoutMs=1").status; };
  {
    std::vector<Fd> clients;
    for (int i = 0; i < 128; ++i) {
      clients.push_back(site.http().connect());
      REQUIRE(::send(clients.back().get(), waiting.data(), waiting.size(), MSG_NOSIGNAL) > 0);
    }
    CHECK(site.status_when("idle", [&](const json&) { return one_more() == 503; }).is_object());
    CHECK(one_more() == 503);
    CHECK(site.http().get("/v1/jobs/idle").status == 200);
  }
  CHECK(site.status_when("idle", [&](const json&) { return one_more() == 200; }).is_object());
  CHECK(one_more() == 200);
}

TEST_CASE("one connection serves many requests, also pipelined") {
  Running site;
  const Fd fd = site.http().connect();
  const std::string request = "GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n";
  const std::string both = request + request + request;
  REQUIRE(::send(fd.get(), both.data(), both.size(), MSG_NOSIGNAL) > 0);
  std::string got;
  char block[4096];
  auto answers = [&] {
    std::size_t count = 0;
    for (std::size_t at = got.find("HTTP/1.1 200"); at != std::string::npos; at = got.find("HTTP/1.1 200", at + 1))
      ++count;
    return count;
  };
  while (answers() < 3) {
    const ssize_t n = ::recv(fd.get(), block, sizeof block, 0);
    REQUIRE(n > 0);
    got.append(block, static_cast<std::size_t>(n));
  }
  CHECK(answers() == 3);
}
