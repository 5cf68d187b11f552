// Under heavy traffic, at random moments, from many checkpoints, on other hosts than before: no corrupted byte, no
// hang.
#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <thread>

#include "cli/lab/layout.h"
#include "tests/e2e/examples.h"

using namespace stillpoint;
using namespace stillpoint::e2e;

namespace {

constexpr unsigned kHosts = 4;  // so that both guests can land on others than before
constexpr int kCheckpoints = 20;
constexpr int kRestores = 5;

// The laboratory's hosts but for these, separated by commas.
std::string hosts_without(const std::vector<std::string>& hosts) {
  std::string others;
  for (unsigned number = 1; number <= kHosts; ++number)
    if (const auto name = lab::host_name(number); std::find(hosts.begin(), hosts.end(), name) == hosts.end())
      others += (others.empty() ? "" : ",") + name;
  return others;
}

}  // namespace

TEST_CASE("every checkpoint of a job in heavy traffic restores, on whatever hosts") {
  MESSAGE("seed " << seed() << " (STILLPOINT_SEED)");
  std::mt19937_64 random(seed());

  TestLab lab("ring", kHosts);
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
  for (int i = 0; i < kRestores; ++i) {
    const int epoch = epochs[static_cast<std::size_t>(i)];
    const auto before = lab.hosts_of(job);
    const std::string others = hosts_without(before);
    CAPTURE(epoch);
    CAPTURE(others);
    lab.ok({"restart", job, "--from", std::to_string(epoch), "--hosts", others});
    for (const auto& host : lab.hosts_of(job)) CHECK(std::find(before.begin(), before.end(), host) == before.end());
    lab.wait_for_lines(job, kRingLine, lines_starting(lab.logs(job), kRingLine).size() + 2);
  }
  // A wrong byte ends the program, and says so; the checksums are those of a run that nothing happened to.
  CHECK(lab.state(job) == "running");
  lab.ok({"stop", job});
  const std::string logs = lab.logs(job);
  CHECK(logs.find("WRONG") == std::string::npos);
  ring.rounds = static_cast<unsigned>(check_numbered(logs, kRingLine, 1, 1));
  CHECK(lines_starting(logs, kRingLine) ==
        lines_starting(run_natively(4, example("ring/ring"), ring.arguments()), kRingLine));
}
