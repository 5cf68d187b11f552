// stillpoint-simulate: random histories of a whole site, or one of them.
//
//   stillpoint-simulate --histories N [--first SEED] [--processes P] [--keep-going]
//   stillpoint-simulate --seed SEED | --history FILE   [--transcript] [--shrink]
//
// Exit code 0: every invariant held. 1: one broke; its seed, the shrunk history and its transcript are printed.
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <iostream>

#include "common/file.h"
#include "tests/simulation/mutation.h"
#include "tests/simulation/run.h"

using namespace stillpoint;
using namespace stillpoint::simulation;

namespace {

constexpr std::uint64_t kMany = 1'000;

struct Options {
  std::uint64_t histories = 0, first = 1, seed = 0;
  unsigned processes = 1;
  std::string history, mutation;
  bool transcript = false, shrink = false, keep_going = false;
};

void explain(const Plan& plan, const std::string& broken) {
  fmt::print("\nseed {}: {}\n", plan.shape.seed, broken);
  const Plan small = shrunk(plan, broken);
  const Outcome outcome = run(small, true);
  fmt::print("\nThe history, shrunk from {} to {} happenings (keep it in a file; --history FILE runs it):\n\n{}\n",
             plan.happenings.size(), small.happenings.size(), print(small));
  fmt::print("How it goes:\n\n");
  for (const auto& line : story(outcome.transcript)) fmt::print("{}\n", line);
  fmt::print("\nbroken: {}\n", outcome.broken);
}

int one(const Plan& plan, const Options& options) {
  const Outcome outcome = run(plan, options.transcript);
  for (const auto& line : outcome.transcript) fmt::print("{}\n", line);
  if (outcome.broken.empty()) {
    fmt::print("{}\n", summary({outcome}));
    return 0;
  }
  if (options.shrink) explain(plan, outcome.broken);
  else fmt::print("broken: {}\n", outcome.broken);
  return 1;
}

// A part of the seeds, in a process of its own.
int part(const Options& options, unsigned number, int to) {
  Totals totals;
  int result = 0;
  for (std::uint64_t seed = options.first + number; seed < options.first + options.histories;
       seed += options.processes) {
    const Plan plan = draw(seed);
    const Outcome outcome = run(plan, false);
    totals.add(outcome);
    if (outcome.broken.empty()) continue;
    result = 1;
    if (options.keep_going) fmt::print("seed {}: {}\n", seed, outcome.broken);
    else explain(plan, outcome.broken);
    std::fflush(stdout);
    if (!options.keep_going) break;
  }
  (void)!::write(to, &totals, sizeof totals);
  return result;
}

int many(const Options& options) {
  const auto begin = std::chrono::steady_clock::now();
  int ends[2];
  if (::pipe(ends) != 0) return 2;
  const pid_t parent = ::getpid();
  std::vector<pid_t> children;
  for (unsigned number = 0; number < options.processes; ++number) {
    const pid_t child = ::fork();
    if (child < 0) return 2;
    if (child == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (::getppid() != parent) ::_exit(2);
      const int result = part(options, number, ends[1]);
      std::fflush(stdout);
      ::_exit(result);
    }
    children.push_back(child);
  }
  ::close(ends[1]);
  Totals all, some;
  while (::read(ends[0], &some, sizeof some) == static_cast<ssize_t>(sizeof some)) all.add(some);
  int worst = 0;
  for (const pid_t child : children) {
    int status = 0;
    ::waitpid(child, &status, 0);
    worst = std::max(worst, WIFEXITED(status) ? WEXITSTATUS(status) : 2);
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  fmt::print("{}; {:.1f} s in {} processes\n", all.words(), took.count(), options.processes);
  if (all.histories >= kMany && !all.say_something()) {
    fmt::print("these histories show nothing: something of what they are about never happened\n");
    worst = std::max(worst, 1);
  }
  return worst;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Histories of a whole Stillpoint site in virtual time");
  app.add_option("--histories", options.histories, "how many random ones");
  app.add_option("--first", options.first, "the first one's seed");
  app.add_option("--processes", options.processes)->check(CLI::Range(1, 64));
  app.add_option("--seed", options.seed, "the one of this seed");
  app.add_option("--history", options.history, "the one in this file");
  app.add_option("--mutation", options.mutation, "with this fault in the code (stillpoint-simulate-mutants only)");
  app.add_flag("--transcript", options.transcript, "print all that happens");
  app.add_flag("--shrink", options.shrink, "make a failing one small");
  app.add_flag("--keep-going", options.keep_going, "name every failing seed");
  CLI11_PARSE(app, argc, argv);
  if (!options.mutation.empty()) set_mutation(options.mutation);
  if (!options.history.empty()) {
    const auto text = read_file(options.history);
    const auto plan = text ? parse(*text) : Result<Plan>(text.error());
    if (plan) return one(*plan, options);
    std::cerr << plan.error().message() << "\n";
    return 2;
  }
  if (options.seed != 0) return one(draw(options.seed), options);
  return many(options);
}
