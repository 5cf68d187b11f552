// Every kind of communication under checkpoint cycles at random moments: each program of programs/ runs on two guests
// with two ranks each while the cluster goes through one checkpoint after another, then once more as many rounds
// without any, and must have computed the same.
//
// STILLPOINT_SEED repeats the moments of a failed run as far as a machine can, STILLPOINT_CYCLES changes their number.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <random>

#include "tests/cluster/cluster.h"

using namespace stillpoint;
using namespace stillpoint::cluster;

namespace {

using Clock = std::chrono::steady_clock;
constexpr milliseconds kLong{60'000};

std::uint32_t number_from(const char* variable, std::uint32_t otherwise) {
  const char* text = std::getenv(variable);
  return text != nullptr ? static_cast<std::uint32_t>(std::strtoul(text, nullptr, 10)) : otherwise;
}

std::uint32_t seed() {
  static const std::uint32_t chosen = number_from("STILLPOINT_SEED", std::random_device{}());
  return chosen;
}

milliseconds since(Clock::time_point begin) { return std::chrono::duration_cast<milliseconds>(Clock::now() - begin); }

struct Program {
  std::string name;
  std::vector<std::string> arguments = {};
  // A checkpoint may meet a call that must be over first, and then gives up; the next one has better luck.
  bool defers = false;
  // What it does depends on which ranks share a guest.
  bool by_guest = false;
};

JobText job(const Program& program, const std::string& rounds) {
  JobText text;
  text.command = {"./" + program.name, rounds};
  text.command.insert(text.command.end(), program.arguments.begin(), program.arguments.end());
  text.ranks_per_guest = {2, 2};
  // Four ranks that spin share this machine's processors.
  text.env = {{"OMPI_MCA_mpi_yield_when_idle", "1"}};
  return text;
}

// "rounds N checksum X"
std::string result(Cluster& cluster) {
  const std::string& text = cluster.output();
  const std::size_t at = text.rfind("rounds ");
  REQUIRE_MESSAGE(at != text.npos, cluster.problem());
  return text.substr(at, text.find('\n', at) - at);
}

// On one guest, where messages take less time: the program computes the same wherever its ranks are.
std::string undisturbed(const Program& program, const std::string& rounds) {
  Cluster cluster(program.by_guest ? 2 : 1);
  cluster.put_program(program.name);
  JobText text = job(program, rounds);
  if (!program.by_guest) text.ranks_per_guest = {4};
  cluster.start(text);
  cluster.wait_for_end(kLong);
  return result(cluster);
}

// The figures of many cycles, for people.
std::string summary(std::vector<CycleResult> results) {
  const auto by_time = [](const CycleResult& a, const CycleResult& b) { return a.to_verified < b.to_verified; };
  std::sort(results.begin(), results.end(), by_time);
  std::size_t sockets = 0;
  unsigned cuts = 0;
  for (const CycleResult& r : results) {
    sockets = std::max(sockets, r.sockets);
    cuts += r.cuts;
  }
  return std::to_string(results.size()) + " cycles, " + std::to_string(cuts) + " cuts of " + std::to_string(sockets) +
         " sockets, verified after " + std::to_string(results[results.size() / 2].to_verified.count()) +
         " ms (median), " + std::to_string(results.back().to_verified.count()) + " ms (most)";
}

void run_under_checkpoints(const Program& program) {
  std::cout << program.name << ": seed " << seed() << " (STILLPOINT_SEED)" << std::endl;
  const unsigned wanted = number_from("STILLPOINT_CYCLES", 100);
  if (wanted == 0) {  // to see what the program does by itself
    std::cout << undisturbed(program, "200") << std::endl;
    return;
  }
  std::mt19937 random(seed());
  CycleSettings settings;
  if (program.defers) settings.close = milliseconds(300);
  const auto begin = Clock::now();
  std::vector<CycleResult> done;
  unsigned given_up = 0;
  std::string last;
  {
    Cluster cluster(2);
    cluster.put_program(program.name);
    cluster.start(job(program, "0"));
    cluster.wait_for_output("round 0", kLong);
    while (done.size() < wanted) {
      cluster.serve_until([] { return false; }, milliseconds(random() % 15));
      REQUIRE_MESSAGE(!cluster.over(), cluster.problem());
      settings.hold = milliseconds(random() % 3);
      const CycleResult one = cluster.cycle(settings);
      if (one.quiet) {
        done.push_back(one);
        continue;
      }
      REQUIRE_MESSAGE(program.defers, "epoch " << cluster.epoch << " did not become quiet: " << one.why << "\n"
                                               << cluster.problem());
      REQUIRE_MESSAGE(++given_up < 5 * wanted, "epoch " << cluster.epoch << ": " << one.why);
    }
    REQUIRE(cluster.put_file(0, "stop", "", 0644));
    cluster.wait_for_end(kLong);
    last = result(cluster);
  }
  const auto disturbed = since(begin);
  const std::string rounds = last.substr(7, last.find(' ', 7) - 7);
  CHECK(undisturbed(program, rounds) == last);
  std::cout << program.name << ": " << summary(done) << "; " << given_up << " given up; " << rounds << " rounds; "
            << disturbed.count() << " ms and " << (since(begin) - disturbed).count() << " ms undisturbed" << std::endl;
}

}  // namespace

TEST_CASE("eager") { run_under_checkpoints({"eager"}); }
TEST_CASE("rendezvous") { run_under_checkpoints({"rendezvous"}); }
TEST_CASE("local") { run_under_checkpoints({.name = "local", .by_guest = true}); }
TEST_CASE("any") { run_under_checkpoints({"any"}); }
TEST_CASE("modes") { run_under_checkpoints({"modes"}); }
TEST_CASE("matched") { run_under_checkpoints({"matched"}); }
TEST_CASE("persistent") { run_under_checkpoints({"persistent"}); }
TEST_CASE("partitioned") { run_under_checkpoints({"partitioned"}); }
TEST_CASE("collectives") { run_under_checkpoints({"collectives"}); }
TEST_CASE("icollectives") { run_under_checkpoints({"icollectives"}); }
TEST_CASE("pcollectives") { run_under_checkpoints({"pcollectives"}); }
TEST_CASE("neighbours") { run_under_checkpoints({"neighbours"}); }
TEST_CASE("rma_fence") { run_under_checkpoints({"rma_fence"}); }
TEST_CASE("rma_lock") { run_under_checkpoints({"rma_lock"}); }
TEST_CASE("rma_pscw") { run_under_checkpoints({"rma_pscw"}); }
TEST_CASE("rma_dynamic") { run_under_checkpoints({"rma_dynamic"}); }
TEST_CASE("rma_shared") { run_under_checkpoints({.name = "rma_shared", .by_guest = true}); }
TEST_CASE("communicators") { run_under_checkpoints({"communicators"}); }
TEST_CASE("sessions") { run_under_checkpoints({.name = "sessions", .defers = true}); }
TEST_CASE("spawn") { run_under_checkpoints({.name = "spawn", .defers = true}); }
TEST_CASE("io") { run_under_checkpoints({.name = "io", .by_guest = true}); }
TEST_CASE("threads_funneled") { run_under_checkpoints({"threads", {"funneled"}}); }
TEST_CASE("threads_serialized") { run_under_checkpoints({"threads", {"serialized"}}); }
TEST_CASE("threads_multiple") { run_under_checkpoints({"threads", {"multiple"}}); }
TEST_CASE("fortran_mpifh") { run_under_checkpoints({"fortran_mpifh"}); }
TEST_CASE("fortran_mpi") { run_under_checkpoints({"fortran_mpi"}); }
TEST_CASE("fortran_f08") { run_under_checkpoints({"fortran_f08"}); }
