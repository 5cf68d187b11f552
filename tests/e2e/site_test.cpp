// A site with a real S3 store: its checkpoints outlive every host that has them.
#include <doctest/doctest.h>

#include <algorithm>

#include "cli/lab/layout.h"
#include "node-daemon/store/remote/s3_test_server.h"
#include "tests/e2e/examples.h"

using namespace stillpoint;
using namespace stillpoint::e2e;
using node::test::S3TestServer;

namespace {

constexpr const char* kAddress = "10.98.0.2";  // of the server, in the laboratory's underlay

std::vector<std::string> with_store(const std::string& prefix) {
  const std::string endpoint = std::string("http://") + kAddress + ":" + std::to_string(S3TestServer::kPort);
  const std::string credentials = S3TestServer::credentials("tester:tester", "testing");
  return {"--own-images", "--node-arg=--s3-endpoint=" + endpoint,
          std::string("--node-arg=--s3-bucket=") + S3TestServer::kBucket, "--node-arg=--s3-prefix=" + prefix,
          "--node-arg=--s3-credentials=" + credentials};
}

// A cable from the server's network namespace, which is this process's, to the laboratory's switch. It goes with them.
void plug_in(const TestLab& lab) {
  const std::string lab_switch = lab::Layout::at(lab.directory())->switch_namespace();
  const auto ip = [](const std::vector<std::string>& begin, const std::string& lines) {
    std::vector<std::string> argv = begin;
    argv.insert(argv.end(), {"-batch", "-"});
    const auto done = run_checked(argv, {.input = lines});
    if (!done) FAIL(done.error().message());
  };
  ip({"ip"}, "link add s3 mtu 9000 type veth peer name port-s3 mtu 9000 netns " + lab_switch + "\naddr add " +
                 kAddress + "/24 dev s3\nlink set s3 up\n");
  ip({"ip", "-n", lab_switch}, "link set port-s3 master switch0 up\n");
}

}  // namespace

TEST_CASE("all hosts of a job die with their disks, and it comes back from the S3 store") {
  // The first thread enters its namespaces, and all that follows is in them.
  S3TestServer server(std::uint64_t{2} << 30);
  TestLab lab("site", 3, with_store("e2e"));
  plug_in(lab);
  JobText text = Ring{}.job("ring");
  text.durability = "site";
  text.comes_back = true;
  const std::string job = lab.submit(text);
  const auto more_lines = [&] {
    lab.wait_for_lines(job, kRingLine, lines_starting(lab.logs(job), kRingLine).size() + 2);
  };
  more_lines();
  lab.ok({"checkpoint", job});
  more_lines();
  const int newest = lab.ok({"checkpoint", job}).at("epoch");
  for (const json& one : lab.ok({"checkpoints", job})) CHECK(one.at("level") == "site");
  // Read back at its host and in the S3 store.
  const json verified = lab.ok({"verify", job, std::to_string(newest)}).at("epochs").at(0);
  CHECK_MESSAGE(verified.at("state") == "ok", verified.dump(2));
  CHECK_MESSAGE(std::ranges::any_of(verified.at("copies"),
                                    [](const json& copy) {
                                      return copy.at("place") == "s3" && copy.at("state") == "ok" &&
                                             copy.at("bytes") > 0;
                                    }),
                verified.dump(2));
  more_lines();

  for (const std::string& host : lab.hosts_of(job)) lab.lab({"kill-host", host});
  REQUIRE(until(kPatience, [&] { return lab.status(job).at("restarts") == 1 && lab.state(job) == "running"; }));
  CHECK(lab.status(job).at("restoredFrom") == newest);
  more_lines();
  // It goes on as before: what is stored from here on is stored there, too.
  lab.ok({"checkpoint", job});
  CHECK(lab.ok({"checkpoints", job}).back().at("level") == "site");
  check_numbered(lab.logs(job), kRingLine, 1, 1);
  lab.ok({"stop", job});
}
