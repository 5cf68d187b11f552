// Every kind of communication, brought back from checkpoints taken at random moments: programs of
// tests/cluster/programs on real machines. A job is checkpointed, then brought back from one checkpoint after another
// in no order, now on the hosts it is on, now on others, now with a host dead; after each restart but the last one more
// checkpoint is taken, of the job that came back. The last restart is from the checkpoint that the program was told of
// (SUITE_LAST in suite.h): it ends 20 rounds later, and must have computed what an undisturbed run of as many rounds
// computes.
//
// STILLPOINT_SEED repeats the choices of a failed run; STILLPOINT_CHECKPOINTS and STILLPOINT_RESTORES change how many.
#include <doctest/doctest.h>

#include <algorithm>
#include <iostream>
#include <map>
#include <random>
#include <thread>

#include "cli/lab/layout.h"
#include "tests/e2e/harness.h"

using namespace stillpoint;
using namespace stillpoint::e2e;

namespace {

constexpr unsigned kHosts = 3;
constexpr unsigned kMostBetween = 1500;  // ms from one checkpoint to the next

struct Program {
  std::string name;
  std::vector<std::string> arguments = {};
  // What it computes depends on which ranks share a guest.
  bool by_guest = false;
};

std::vector<std::string> arguments_of(const Program& program, const std::string& rounds) {
  std::vector<std::string> arguments = {rounds};
  arguments.insert(arguments.end(), program.arguments.begin(), program.arguments.end());
  return arguments;
}

JobText text_of(const Program& program, const std::string& rounds) {
  JobText text;
  text.name = program.name;
  std::replace(text.name.begin(), text.name.end(), '_', '-');
  std::replace(text.name.begin(), text.name.end(), '.', '-');
  text.command = "[./" + program.name;
  for (const auto& argument : arguments_of(program, rounds)) text.command += ", \"" + argument + "\"";
  text.command += "]";
  text.files = {build_directory() / "tests" / "cluster" / program.name};
  return text;
}

// How often text is in it. Not by lines: what mpirun says on stderr may end without one.
std::size_t count_of(const std::string& text, const std::string& output) {
  std::size_t count = 0;
  for (std::size_t at = output.find(text); at != output.npos; at = output.find(text, at + 1)) ++count;
  return count;
}

// "rounds N checksum X"
std::string result(const std::string& output) {
  REQUIRE_MESSAGE(count_of("rounds ", output) == 1, output);
  const std::size_t at = output.find("rounds ");
  return output.substr(at, output.find('\n', at) - at);
}

void wait_until_under_way(const TestLab& lab, const std::string& job) {
  std::string output, state;
  const auto there = [&] { return count_of("round 0\n", output) == 1; };
  (void)until(kPatience, [&] {
    output = lab.logs(job);
    state = lab.state(job);
    return there() || state == "failed" || state == "completed";
  });
  REQUIRE_MESSAGE(there(), job << " is " << state << " and has printed:\n" << output);
}

std::string end_of(const TestLab& lab, const std::string& job) {
  const auto end = lab.run({"wait", job, "--timeout", "600"}, 610s);
  REQUIRE_MESSAGE(end.exit_code == 0, end.out << end.err << lab.logs(job));
  CHECK(lab.state(job) == "completed");
  return lab.logs(job);
}

std::string undisturbed(const TestLab& lab, const Program& program, const std::string& rounds) {
  if (!program.by_guest)
    return result(
        run_natively(4, build_directory() / "tests" / "cluster" / program.name, arguments_of(program, rounds)));
  JobText text = text_of(program, rounds);
  text.name += "-undisturbed";
  return result(end_of(lab, lab.submit(text)));
}

// Until each rank has begun more MPI calls than it had: nobody hangs.
void wait_until_all_go_on(const TestLab& lab, const std::string& job) {
  std::map<int, std::uint64_t> calls;
  std::map<int, bool> went_on;
  json status;
  const bool all = until(kPatience, [&] {
    status = lab.status(job);
    if (status.at("state") != "running") return true;
    for (const auto& rank : status.at("ranks")) {
      if (!rank.contains("calls")) continue;
      const int number = rank.at("rank");
      const std::uint64_t now = rank.at("calls");
      if (calls.contains(number) && now > calls[number]) went_on[number] = true;
      calls[number] = now;
    }
    return went_on.size() == status.at("ranks").size();
  });
  REQUIRE_MESSAGE(all, status.dump());
  REQUIRE_MESSAGE(status.at("state") == "running", status.dump() << "\n" << lab.logs(job));
}

// The checkpoints of a job, of which some are for the last restart.
struct Checkpoints {
  int last_from = 0;  // those from this number on
  std::vector<int> early, late;
  unsigned given_up = 0;

  std::size_t count() const { return early.size() + late.size(); }
};

// On a machine that is very busy a segment that TCP sent twice may come so late that the alarm on the taps sees it in
// the hold. Then that attempt is given up, as it must be, and the next one has better luck.
void take_at_some_moment(const TestLab& lab, const std::string& job, Checkpoints& taken, std::mt19937_64& random) {
  for (;;) {
    std::this_thread::sleep_for(milliseconds(random() % kMostBetween));  // the random moment
    const auto outcome = lab.run({"checkpoint", job});
    if (outcome.exit_code == 0) {
      const int epoch = json::parse(outcome.out).at("epoch");
      (epoch < taken.last_from ? taken.early : taken.late).push_back(epoch);
      return;
    }
    REQUIRE_MESSAGE(outcome.err.find("packets passed between guests") != std::string::npos, outcome.err);
    std::cout << outcome.err << std::flush;
    REQUIRE(++taken.given_up < 3);
  }
}

template <class T>
const T& one_of(const std::vector<T>& all, std::mt19937_64& random) {
  REQUIRE_FALSE(all.empty());
  return all[random() % all.size()];
}

// Two of the hosts, separated by commas.
std::string some_hosts(std::mt19937_64& random) {
  std::vector<std::string> names;
  for (unsigned number = 1; number <= kHosts; ++number) names.push_back(lab::host_name(number));
  std::shuffle(names.begin(), names.end(), random);
  return names[0] + "," + names[1];
}

enum class How { as_it_is, on_hosts_named, host_dead };

// Brings the job back from the checkpoint; a host that was killed for it is there again afterwards.
void restart(const TestLab& lab, const std::string& job, int epoch, How how, std::mt19937_64& random) {
  std::vector<std::string> command = {"restart", job, "--from", std::to_string(epoch)};
  std::string dead;
  if (how == How::on_hosts_named) command.insert(command.end(), {"--hosts", some_hosts(random)});
  if (how == How::host_dead) {
    const auto hosts = lab.hosts_of(job);
    dead = one_of(hosts, random);
    lab.lab({"kill-host", dead});
  }
  CAPTURE(epoch);
  CAPTURE(dead);
  const json back = lab.ok(command);
  CHECK(back.at("epoch") == epoch);
  const auto hosts = lab.hosts_of(job);
  CHECK(std::find(hosts.begin(), hosts.end(), dead) == hosts.end());
  if (dead.empty()) return;
  lab.lab({"start-host", dead});
  REQUIRE(until(kPatience, [&] {
    const json all = lab.ok({"hosts"});
    return std::all_of(all.begin(), all.end(), [](const json& host) { return host.at("state") == "up"; });
  }));
}

void bring_back_again_and_again(const Program& program) {
  const unsigned checkpoints = std::max(2u, number_from("STILLPOINT_CHECKPOINTS", 3));
  const unsigned restores = std::max(1u, number_from("STILLPOINT_RESTORES", 2));
  std::cout << program.name << ": seed " << seed() << " (STILLPOINT_SEED)" << std::endl;
  std::mt19937_64 random(seed());
  const auto begin = std::chrono::steady_clock::now();

  TestLab lab("restores-" + program.name, kHosts);
  // Numbered from 1; each restart but the last adds one.
  Checkpoints taken;
  taken.last_from = 2 + static_cast<int>(random() % (checkpoints + restores - 2));
  JobText text = text_of(program, "0");
  text.env = "{SUITE_LAST: \"" + std::to_string(taken.last_from) + "\"}";
  text.keep = checkpoints + restores;
  const std::string job = lab.submit(text);
  wait_until_under_way(lab, job);

  while (taken.count() < checkpoints) take_at_some_moment(lab, job, taken, random);
  for (unsigned i = 1; i < restores; ++i) {
    restart(lab, job, one_of(taken.early, random), static_cast<How>(random() % 3), random);
    wait_until_all_go_on(lab, job);
    take_at_some_moment(lab, job, taken, random);
  }
  restart(lab, job, one_of(taken.late, random), How::host_dead, random);
  const std::string output = end_of(lab, job);
  CHECK(lab.status(job).at("restarts") == restores);
  CHECK(count_of("round 0\n", output) == 1);
  const std::string computed = result(output);
  CHECK(undisturbed(lab, program, computed.substr(7, computed.find(' ', 7) - 7)) == computed);
  const auto took = std::chrono::duration_cast<std::chrono::seconds>(std::chrono::steady_clock::now() - begin);
  std::cout << program.name << ": " << taken.count() << " checkpoints, " << taken.given_up << " given up, " << restores
            << " restores, " << computed << ", " << took.count() << " s" << std::endl;
}

}  // namespace

TEST_CASE("eager") { bring_back_again_and_again({"eager"}); }
TEST_CASE("rendezvous") { bring_back_again_and_again({"rendezvous"}); }
TEST_CASE("any") { bring_back_again_and_again({"any"}); }
TEST_CASE("modes") { bring_back_again_and_again({"modes"}); }
TEST_CASE("persistent") { bring_back_again_and_again({"persistent"}); }
TEST_CASE("partitioned") { bring_back_again_and_again({"partitioned"}); }
TEST_CASE("collectives") { bring_back_again_and_again({"collectives"}); }
TEST_CASE("icollectives") { bring_back_again_and_again({"icollectives"}); }
TEST_CASE("neighbours") { bring_back_again_and_again({"neighbours"}); }
TEST_CASE("rma_lock") { bring_back_again_and_again({"rma_lock"}); }
TEST_CASE("rma_pscw") { bring_back_again_and_again({"rma_pscw"}); }
TEST_CASE("rma_dynamic") { bring_back_again_and_again({"rma_dynamic"}); }
TEST_CASE("communicators") { bring_back_again_and_again({"communicators"}); }
TEST_CASE("sessions") { bring_back_again_and_again({"sessions"}); }
TEST_CASE("threads_multiple") { bring_back_again_and_again({"threads", {"multiple"}}); }
TEST_CASE("io") { bring_back_again_and_again({.name = "io", .by_guest = true}); }
TEST_CASE("fortran_f08") { bring_back_again_and_again({"fortran_f08"}); }
TEST_CASE("python") { bring_back_again_and_again({"python.py"}); }
