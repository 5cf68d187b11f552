// Checkpoint cycles of one job on the cluster without virtual machines, and how long each took from the first gate's
// closing to the verified cut. Nothing is captured: this is the quiescing alone. From the environment:
//
//   BENCH_GUESTS, BENCH_RANKS (of a guest), BENCH_CYCLES, BENCH_PROGRAM ("hard 0 alltoall 64"), BENCH_OUT: a file, to
//   which a line for each cycle is written: microseconds to closed, to verified, rounds, cuts, sockets of guest 0; and
//   at the end "output " and what the program printed. A cycle that does not become quiet fails the run.
#include <doctest/doctest.h>

#include <cstdlib>
#include <fstream>
#include <random>
#include <sstream>

#include "tests/cluster/cluster.h"

using namespace stillpoint;
using namespace stillpoint::cluster;

namespace {

std::string given(const char* variable) {
  const char* text = std::getenv(variable);
  REQUIRE_MESSAGE(text != nullptr, variable << " is not set: run bench/quiesce");
  return text;
}

}  // namespace

TEST_CASE("cycles") {
  const auto guests = static_cast<unsigned>(std::stoul(given("BENCH_GUESTS")));
  const auto cycles = std::stoul(given("BENCH_CYCLES"));
  std::ofstream out(given("BENCH_OUT"));
  JobText job;
  std::istringstream words(given("BENCH_PROGRAM"));
  for (std::string word; words >> word;) job.command.push_back(word);
  job.ranks_per_guest.assign(guests, static_cast<unsigned>(std::stoul(given("BENCH_RANKS"))));
  job.env = {{"OMPI_MCA_mpi_yield_when_idle", "1"}};  // more ranks than processors

  Cluster cluster(guests);
  cluster.put_program(job.command.at(0));
  job.command[0] = "./" + job.command[0];
  cluster.start(job);
  cluster.wait_for_output("round 0", milliseconds(60'000));
  CycleSettings settings;
  settings.close = milliseconds(10'000);  // with many more ranks than processors a rank may be long in answering
  std::mt19937 random(1);
  for (std::size_t i = 0; i < cycles; ++i) {
    cluster.serve_until([] { return false; }, milliseconds(20 + random() % 40));
    const CycleResult one = cluster.cycle(settings);
    REQUIRE_MESSAGE(one.quiet, one.why << "\n" << cluster.problem());
    out << one.to_closed.count() << " " << one.to_verified.count() << " " << one.rounds << " " << one.cuts << " "
        << one.sockets << "\n";
  }
  REQUIRE(cluster.put_file(0, "stop", "", 0644));
  cluster.wait_for_end(milliseconds(60'000));
  out << "output " << cluster.output() << std::flush;
  REQUIRE(out.good());
}
