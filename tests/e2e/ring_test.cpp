// Under heavy traffic, at random moments, from many checkpoints, on other hosts than before: no corrupted byte, no hang.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <random>
#include <thread>

#include "tests/e2e/examples.h"

using namespace stillpoint;
using namespace stillpoint::e2e;

namespace {

constexpr int kCheckpoints = 20;
constexpr int kRestores = 5;

std::uint64_t seed() {
  const char* given = std::getenv("STILLPOINT_SEED");
  return given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
}

}  // namespace

TEST_CASE("every checkpoint of a job in heavy traffic restores, on whatever hosts") {
  const std::uint64_t used = seed();
  MESSAGE("seed " << used << " (STILLPOINT_SEED)");
  std::mt19937_64 random(used);

  TestLab lab("ring", 3);
  Ring ring;
  JobText text = ring.job("ring");
  text.keep = kCheckpoints + 2;
  const std::string job = lab.submit(text);
  lab.wait_for_lines(job, kRingLine, 2);

  std::vector<int> epochs;
  for (int i = 0; i < kCheckpoints; ++i) {
    std::this_thread::sleep_for(milliseconds(random() % 700));  // the random moment
    epochs.push_back(lab.ok({"checkpoint", job}).at("epoch"));
  }
  CHECK(std::is_sorted(epochs.begin(), epochs.end()));
  for (const auto& checkpoint : lab.ok({"checkpoints", job})) CHECK(checkpoint.at("state") == "committed");

  std::shuffle(epochs.begin(), epochs.end(), random);
  const std::vector<std::string> hosts = {"h1", "h2", "h3"};
  for (int i = 0; i < kRestores; ++i) {
    // The hosts that the guests are on, each moved on by one.
    std::string targets;
    for (const auto& host : lab.hosts_of(job)) {
      const auto at = static_cast<std::size_t>(std::find(hosts.begin(), hosts.end(), host) - hosts.begin());
      targets += (targets.empty() ? "" : ",") + hosts[(at + 1) % hosts.size()];
    }
    CAPTURE(epochs[static_cast<std::size_t>(i)]);
    CAPTURE(targets);
    const auto before = lab.hosts_of(job);
    lab.ok({"restart", job, "--from", std::to_string(epochs[static_cast<std::size_t>(i)]), "--hosts", targets});
    const auto after = lab.hosts_of(job);
    // Which of the two named hosts a guest gets is the coordinator's choice; one of them ran no guest before.
    for (const auto& host : after) CHECK(targets.find(host) != std::string::npos);
    CHECK(after != before);
    const std::string at_cut = lab.logs(job);
    lab.wait_for_lines(job, kRingLine, lines_starting(at_cut, kRingLine).size() + 3);
  }
  // A wrong byte ends the program, and says so; the checksums are those of a run that nothing happened to.
  CHECK(lab.state(job) == "running");
  lab.ok({"stop", job});
  const std::string logs = lab.logs(job);
  CHECK(logs.find("WRONG") == std::string::npos);
  ring.rounds = static_cast<unsigned>(check_numbered(logs, kRingLine, 1, 1));
  CHECK(logs == run_natively(4, example("ring/ring"), ring.arguments()));
}
