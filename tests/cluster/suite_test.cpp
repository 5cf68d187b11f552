// Every kind of communication under checkpoint cycles at random moments: each program of programs/ runs on two guests
// with two ranks each while the cluster goes through one checkpoint after another, then once more as many rounds
// without any, and must have computed the same.
//
// STILLPOINT_SEED repeats the moments of a failed run as far as a machine can, STILLPOINT_CYCLES changes their number.
#include "tests/cluster/suite.h"

#include <doctest/doctest.h>
#include <signal.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <random>

using namespace stillpoint;
using namespace stillpoint::cluster;

namespace {

using Clock = std::chrono::steady_clock;
std::uint32_t seed() {
  static const std::uint32_t chosen = number_from("STILLPOINT_SEED", std::random_device{}());
  return chosen;
}

auto in_ms(microseconds time) { return std::chrono::duration_cast<milliseconds>(time).count(); }
milliseconds since(Clock::time_point begin) { return std::chrono::duration_cast<milliseconds>(Clock::now() - begin); }

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
         " sockets, verified after " + std::to_string(in_ms(results[results.size() / 2].to_verified)) +
         " ms (median), " + std::to_string(in_ms(results.back().to_verified)) + " ms (most)";
}

void run_under_checkpoints(const Program& program, unsigned tries = 5) {
  std::cout << program.name << ": seed " << seed() << " (STILLPOINT_SEED)" << std::endl;
  const unsigned wanted = number_from("STILLPOINT_CYCLES", 25);
  if (wanted == 0) {  // to see what the program does by itself
    std::cout << undisturbed(program, std::to_string(number_from("STILLPOINT_ROUNDS", 200))) << std::endl;
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
    auto owned = std::make_unique<Cluster>(2);
    Cluster& cluster = *owned;
    cluster.put_program(program.name);
    cluster.start(job(program, "0"));
    cluster.wait_for_output("round 0", kLong);
    const auto again = [&] {
      const bool flaw = !program.flaw.empty() && cluster.output().find(program.flaw) != std::string::npos && tries > 1;
      if (!flaw) return false;
      std::cout << program.name << ": ended by Open MPI's own flaw, once more" << std::endl;
      owned.reset();  // the next one has the same addresses
      return true;
    };
    while (done.size() < wanted) {
      cluster.serve_until([] { return false; }, milliseconds(random() % 15));
      if (cluster.over() && again()) return run_under_checkpoints(program, tries - 1);
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
    cluster.serve_until([&] { return cluster.over(); }, kLong);
    if ((!cluster.exited() || cluster.exited()->exit_code() != 0) && again())
      return run_under_checkpoints(program, tries - 1);
    cluster.wait_for_end(kLong);
    last = result(cluster);
  }
  const auto disturbed = since(begin);
  const std::string rounds = last.substr(7, last.find(' ', 7) - 7);
  CHECK(undisturbed(program, rounds) == last);
  std::cout << program.name << ": " << summary(done) << "; " << given_up << " given up; " << rounds << " rounds; "
            << disturbed.count() << " ms and " << (since(begin) - disturbed).count() << " ms undisturbed" << std::endl;
}

// What must not grow.
struct Usage {
  long kilobytes = 0, files = 0, threads = 0;
};

Usage usage_of(pid_t pid) {
  const std::filesystem::path proc = "/proc/" + std::to_string(pid);
  const std::string status = text_of(proc / "status");
  const auto number = [&](const std::string& name) {
    const std::size_t at = status.find("\n" + name + ":");
    return at == status.npos ? -1 : std::strtol(status.c_str() + at + name.size() + 2, nullptr, 10);
  };
  const auto files = std::distance(std::filesystem::directory_iterator(proc / "fd"), {});
  return {number("VmRSS"), files, number("Threads")};
}

void go_through_cycles(Cluster& cluster, unsigned count, std::mt19937& random) {
  for (unsigned i = 0; i < count; ++i) {
    cluster.serve_until([] { return false; }, milliseconds(random() % 4));
    const CycleResult one = cluster.cycle({.hold = milliseconds(0)});
    REQUIRE_MESSAGE(one.quiet, one.why << "\n" << cluster.problem());
  }
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
TEST_CASE("spawn") {
  run_under_checkpoints({.name = "spawn", .defers = true, .flaw = "pmix_server_dyn.c at line 1048"});
}
TEST_CASE("connect") { run_under_checkpoints({.name = "connect", .defers = true}); }
TEST_CASE("io") { run_under_checkpoints({.name = "io", .by_guest = true}); }
TEST_CASE("threads_funneled") { run_under_checkpoints({"threads", {"funneled"}}); }
TEST_CASE("threads_serialized") { run_under_checkpoints({"threads", {"serialized"}}); }
TEST_CASE("threads_multiple") { run_under_checkpoints({"threads", {"multiple"}}); }
TEST_CASE("fortran_mpifh") { run_under_checkpoints({"fortran_mpifh"}); }
TEST_CASE("fortran_mpi") { run_under_checkpoints({"fortran_mpi"}); }
TEST_CASE("fortran_f08") { run_under_checkpoints({"fortran_f08"}); }

TEST_CASE("python") {
  REQUIRE_MESSAGE(image_has("usr/lib/python3/dist-packages/mpi4py"),
                  "the guest SDK has no python3-mpi4py: run scripts/guest-image");
  run_under_checkpoints({"python.py"});
}
TEST_CASE("traffic") { run_under_checkpoints({.name = "traffic", .arguments = {"17"}, .by_guest = true}); }
TEST_CASE("flood") { run_under_checkpoints({"hard", {"flood"}}); }
TEST_CASE("alltoall") { run_under_checkpoints({"hard", {"alltoall"}}); }
// No checkpoint waits for a rank that does not call MPI.
TEST_CASE("compute") {
  run_under_checkpoints({"hard", {"compute", std::to_string(number_from("STILLPOINT_COMPUTE_TENTHS", 20))}});
}

bool all_threads_are(pid_t process, char state) {
  for (const auto& task : std::filesystem::directory_iterator("/proc/" + std::to_string(process) + "/task")) {
    std::ifstream file(task.path() / "stat");
    const std::string stat{std::istreambuf_iterator<char>(file), {}};
    if (stat.substr(stat.rfind(')') + 2, 1) != std::string(1, state)) return false;
  }
  return true;
}

TEST_CASE("stopped") {
  Cluster cluster(2);
  cluster.put_program("eager");
  cluster.start(job({"eager"}, "0"));
  cluster.wait_for_output("round 0", kLong);
  const auto ranks = ranks_of(cluster, 1, "eager");
  REQUIRE(ranks.size() == 2);
  ::kill(ranks[0], SIGSTOP);
  // Until then its helper may still answer; and what stands still with its gate shut may be captured as it is.
  REQUIRE(cluster.serve_until([&] { return all_threads_are(ranks[0], 'T'); }, kLong));
  const auto begin = Clock::now();
  const CycleResult stopped = cluster.cycle({.close = milliseconds(1000)});
  CHECK_FALSE(stopped.quiet);
  CHECK(since(begin) < milliseconds(5000));
  const auto named = [&](pid_t rank) {
    return stopped.why.find("rank " + rank_number(rank) + " is stopped by a signal") != std::string::npos;
  };
  CHECK_MESSAGE(named(ranks[0]), stopped.why);
  CHECK_MESSAGE(!named(ranks[1]), stopped.why);
  std::cout << "stopped: " << stopped.why << " (after " << in_ms(stopped.to_verified) << " ms)" << std::endl;
  ::kill(ranks[0], SIGCONT);
  const CycleResult next = cluster.cycle({});
  CHECK_MESSAGE(next.quiet, next.why);
  REQUIRE(cluster.put_file(0, "stop", "", 0644));
  cluster.wait_for_end(kLong);
  const std::string last = result(cluster);
  CHECK(undisturbed({"eager"}, last.substr(7, last.find(' ', 7) - 7)) == last);
}

TEST_CASE("leaks") {
  std::cout << "leaks: seed " << seed() << " (STILLPOINT_SEED)" << std::endl;
  std::mt19937 random(seed());
  const unsigned cycles = number_from("STILLPOINT_LEAK_CYCLES", 300);
  Cluster cluster(2);
  cluster.put_program("persistent");
  cluster.start(job({"persistent"}, "0"));
  cluster.wait_for_output("round 0", kLong);
  std::vector<pid_t> all;
  for (unsigned guest : {0u, 1u}) {
    all.push_back(cluster.node(guest).agent());
    for (pid_t pid : ranks_of(cluster, guest, "persistent")) all.push_back(pid);
  }
  REQUIRE(all.size() == 6);
  go_through_cycles(cluster, cycles / 4, random);  // what is allocated once is there then
  std::vector<Usage> before;
  for (pid_t pid : all) before.push_back(usage_of(pid));
  go_through_cycles(cluster, cycles - cycles / 4, random);
  for (std::size_t i = 0; i < all.size(); ++i) {
    const Usage now = usage_of(all[i]);
    std::cout << "leaks: process " << i << ": " << before[i].kilobytes << " -> " << now.kilobytes << " KiB, "
              << now.files << " files, " << now.threads << " threads" << std::endl;
    CHECK(now.files <= before[i].files);
    CHECK(now.threads <= before[i].threads);
    CHECK(now.kilobytes <= before[i].kilobytes + 1024);
  }
  REQUIRE(cluster.put_file(0, "stop", "", 0644));
  cluster.wait_for_end(kLong);
}
