// Real jobs on a cluster without virtual machines, under checkpoint cycles at random moments.
#include "tests/cluster/cluster.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <random>

using namespace stillpoint;
using namespace stillpoint::cluster;

namespace {

constexpr milliseconds kLong{120'000};

unsigned number_from(const char* variable, unsigned otherwise) {
  const char* text = std::getenv(variable);
  return text != nullptr ? static_cast<unsigned>(std::strtoul(text, nullptr, 10)) : otherwise;
}

}  // namespace

TEST_CASE("traffic") {
  Cluster cluster(2);
  cluster.put_program("traffic");
  JobText job;
  job.command = {"./traffic", "0", "17"};
  job.ranks_per_guest = {2, 2};
  job.env = {{"OMPI_MCA_mpi_yield_when_idle", "1"}};
  const auto begin = std::chrono::steady_clock::now();
  cluster.start(job);
  cluster.wait_for_output("round 0", kLong);
  REQUIRE_MESSAGE(!cluster.exited(), cluster.problem());
  std::cout << "started after "
            << std::chrono::duration_cast<milliseconds>(std::chrono::steady_clock::now() - begin).count() << " ms\n";
  std::mt19937 random(number_from("STILLPOINT_SEED", 1));
  for (unsigned i = 0; i < number_from("STILLPOINT_CYCLES", 100); ++i) {
    cluster.serve_until([] { return false; }, milliseconds(random() % 20));
    const auto result = cluster.cycle({});
    CHECK_MESSAGE(result.quiet, result.why);
    std::cout << "cycle " << i << ": closed " << result.to_closed.count() << " ms, verified "
              << result.to_verified.count() << " ms, " << result.rounds << " rounds, " << result.cuts << " cuts, "
              << result.sockets << " sockets\n";
  }
  REQUIRE(cluster.put_file(0, "stop", "", 0644));
  cluster.wait_for_end(kLong);
  std::cout << cluster.output();
}
