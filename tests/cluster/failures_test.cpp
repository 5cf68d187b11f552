// A rank that is killed while others are inside and outside MPI: reported at once, and no survivor writes anything
// after that; and a job that ends by itself, which is something else.
//
// STILLPOINT_FAILURES: how many are killed, for the figures of docs/quiesce.md.
#include <doctest/doctest.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "tests/cluster/suite.h"

using namespace stillpoint;
using namespace stillpoint::cluster;

namespace {

using Clock = std::chrono::steady_clock;

constexpr unsigned kVictim = 3;
constexpr int kTruncated = 15;  // MPI_ERR_TRUNCATE of Open MPI, its exit code when nobody handles it
constexpr milliseconds kDeadline{20'000};
constexpr milliseconds kLook{300};  // for what must not come any more

// programs/mortal.c, all six ranks under way and writing.
struct Mortal {
  explicit Mortal(const std::string& how = "killed", unsigned rank = kVictim) : cluster(2) {
    cluster.put_program("mortal");
    JobText text = job({.name = "mortal"}, how);
    text.command.push_back(std::to_string(rank));
    text.ranks_per_guest = {3, 3};
    cluster.start(text);
    for (const char* writer : {"rank 0 line 3", "rank 3 line 3", "rank 4 line 3"})
      cluster.wait_for_output(writer, kLong);
    for (unsigned guest : {0u, 1u})
      for (const pid_t pid : ranks_of(cluster, guest, "mortal"))
        (rank_number(pid) == std::to_string(kVictim) ? victim : survivors.emplace_back()) = pid;
    REQUIRE(victim != 0);
    REQUIRE(survivors.size() == 5);
  }

  bool all_stopped() const {
    return std::all_of(survivors.begin(), survivors.end(), [](pid_t pid) {
      const std::string stat = text_of("/proc/" + std::to_string(pid) + "/stat");
      const std::size_t state = stat.rfind(") ");
      return state != stat.npos && stat[state + 2] == 'T';
    });
  }

  // How many lines the ranks of each guest have written.
  std::vector<std::uint64_t> written() {
    std::vector<std::uint64_t> sizes;
    for (unsigned guest = 0; guest < cluster.size(); ++guest) {
      wire::GuestRequest request;
      request.mutable_read_file()->set_path("written");
      request.mutable_read_file()->set_length(1u << 18);
      const auto reply = cluster.ask(guest, request, kDeadline);
      REQUIRE(reply.has_value());
      REQUIRE_MESSAGE(!reply->has_failure(), reply->failure().cause());
      sizes.push_back(reply->file().data().size());
    }
    return sizes;
  }

  // The last time that a survivor wrote with a line of its.
  std::int64_t last_line() const {
    std::int64_t last = 0;
    std::istringstream lines(cluster.output());
    for (std::string line; std::getline(lines, line);) {
      const std::size_t at = line.rfind(" at ");
      if (at != line.npos && !line.starts_with("rank 3 "))
        last = std::max<std::int64_t>(last, std::stoll(line.substr(at + 4)));
    }
    return last;
  }

  mutable Cluster cluster;
  pid_t victim = 0;
  std::vector<pid_t> survivors;
};

std::int64_t in_us(Clock::time_point time) {
  return std::chrono::duration_cast<std::chrono::microseconds>(time.time_since_epoch()).count();
}

bool says(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

struct Figures {
  double reported_ms, stopped_ms, last_line_ms;
};

Figures kill_one(const char* how = "killed") {
  Mortal mortal(how);
  Cluster& cluster = mortal.cluster;
  const auto begin = Clock::now();
  const auto since = [&](std::int64_t us) { return static_cast<double>(us - in_us(begin)) / 1000; };
  REQUIRE(::kill(mortal.victim, SIGKILL) == 0);
  REQUIRE_MESSAGE(cluster.serve_until([&] { return !cluster.failed_ranks().empty(); }, kDeadline), cluster.problem());
  const auto reported = in_us(Clock::now());
  REQUIRE_MESSAGE(cluster.serve_until([&] { return mortal.all_stopped(); }, kDeadline), cluster.problem());
  const auto stopped = in_us(Clock::now());

  // Only what was under way then comes, and nothing that a survivor wrote later.
  cluster.serve_until([] { return false; }, kLook);
  const auto written = mortal.written();
  cluster.serve_until([] { return false; }, kLook);
  CHECK(mortal.written() == written);  // past mpirun, which may be late with what was printed before
  CHECK(mortal.last_line() <= stopped);
  CHECK_MESSAGE(!says(cluster.output(), "came out"), cluster.output());
  CHECK(mortal.all_stopped());
  CHECK_FALSE(cluster.exited().has_value());
  for (const auto& failed : cluster.failed_ranks()) {
    CHECK(failed.rank() == kVictim);
    CHECK_FALSE(failed.has_exit_code());
    CHECK_MESSAGE(says(failed.detail(), "its process was ended by a signal"), failed.detail());
  }
  const CycleResult refused = cluster.cycle({});
  CHECK_FALSE(refused.quiet);
  CHECK_MESSAGE(says(refused.why, "rank 3 has failed: its process was ended by a signal"), refused.why);
  return {since(reported), since(stopped), since(mortal.last_line())};
}

}  // namespace

TEST_CASE("killed_rank") {
  std::vector<Figures> all;
  for (unsigned i = number_from("STILLPOINT_FAILURES", 1); i > 0; --i) all.push_back(kill_one());
  const auto print = [&](const char* what, double Figures::*figure) {
    std::sort(all.begin(), all.end(), [&](const Figures& a, const Figures& b) { return a.*figure < b.*figure; });
    std::cout << what << " " << all[all.size() / 2].*figure << " ms (median), " << all.back().*figure << " ms (most)\n";
  };
  std::cout << "killed_rank: " << all.size() << " runs, after the kill:\n";
  print("  reported after", &Figures::reported_ms);
  print("  all survivors seen stopped after", &Figures::stopped_ms);
  print("  last line of a survivor written after", &Figures::last_line_ms);
}

// What a survivor makes of it is no end of the program's own.
TEST_CASE("killed_and_handled") { kill_one("handled"); }

// mpirun may say 0 when it lost a part of the job; the agents know better. And nobody's end is taken for the program's.
TEST_CASE("lost_daemon") {
  Mortal mortal;
  Cluster& cluster = mortal.cluster;
  pid_t daemon = 0;
  for (const pid_t pid : cluster.node(1).job_processes())
    if (text_of("/proc/" + std::to_string(pid) + "/comm") == "prted\n") daemon = pid;
  REQUIRE(daemon != 0);
  REQUIRE(::kill(daemon, SIGKILL) == 0);
  REQUIRE_MESSAGE(cluster.serve_until([&] { return cluster.over(); }, kDeadline), cluster.problem());
  const auto a_rank_is_gone = [&] {
    wire::GuestRequest request;
    request.mutable_query_ranks();
    const auto reply = cluster.ask(1, request, kDeadline);
    REQUIRE(reply.has_value());
    const auto& ranks = reply->ranks().ranks();
    return std::any_of(ranks.begin(), ranks.end(), [](const auto& r) { return r.state() == wire::RankReport::FAILED; });
  };
  CHECK_MESSAGE(cluster.serve_until(a_rank_is_gone, kDeadline), cluster.problem());
  for (const auto& failed : cluster.failed_ranks()) CHECK_FALSE(failed.has_exit_code());
  std::cout << "lost_daemon: "
            << (cluster.exited() ? "mpirun said " + std::to_string(cluster.exited()->exit_code())
                                 : cluster.failed_ranks()[0].detail())
            << std::endl;
}

// The kernel's own killing: the handlers of libraries that print a backtrace come before it.
TEST_CASE("crashed_rank") {
  Mortal mortal("segv");
  Cluster& cluster = mortal.cluster;
  for (unsigned guest : {0u, 1u}) REQUIRE(cluster.put_file(guest, "die", "", 0644));
  REQUIRE_MESSAGE(cluster.serve_until([&] { return !cluster.failed_ranks().empty(); }, kDeadline), cluster.problem());
  CHECK(cluster.failed_ranks()[0].rank() == kVictim);
  REQUIRE_MESSAGE(cluster.serve_until([&] { return mortal.all_stopped(); }, kDeadline), cluster.problem());
  CHECK_FALSE(cluster.exited().has_value());
}

// With ULFM, Open MPI 5.0.7 does not by itself end a job of which a rank has called MPI_Abort or exit
// (docs/quiesce.md). The coordinator hears of it, with the exit code, and ends the others, as is done here.
TEST_CASE("own_end") {
  struct Way {
    const char* how;
    unsigned rank;
    int exit_code;
    const char* words;
  };
  for (const Way& way : {Way{"abort", 0, 7, "it called MPI_Abort"}, Way{"abort", kVictim, 7, "it called MPI_Abort"},
                         Way{"exit", kVictim, 3, "it ended itself without MPI_Finalize"},
                         Way{"error", kVictim, kTruncated, "it was ended by MPI itself in MPI_Recv"}}) {
    CAPTURE(way.how);
    Mortal mortal(way.how, way.rank);
    Cluster& cluster = mortal.cluster;
    for (unsigned guest : {0u, 1u}) REQUIRE(cluster.put_file(guest, "die", "", 0644));
    REQUIRE_MESSAGE(cluster.serve_until([&] { return cluster.over(); }, kDeadline), cluster.problem());
    REQUIRE_MESSAGE(!cluster.failed_ranks().empty(), cluster.problem());
    const auto& told = cluster.failed_ranks()[0];
    CHECK(told.rank() == way.rank);
    CHECK(told.has_exit_code());
    CHECK(told.exit_code() == way.exit_code);
    CHECK(told.detail() == way.words);
    const auto stopped = cluster.ask_all(
        [](unsigned) {
          wire::GuestRequest request;
          request.mutable_stop_ranks()->set_grace_ms(2000);
          return request;
        },
        kDeadline);
    REQUIRE(stopped.has_value());
    CHECK_MESSAGE(cluster.serve_until([&] { return cluster.exited().has_value(); }, kDeadline), cluster.problem());
  }
}

// A rank that one of 16 threads of PRRTE's forked can end before its pid is noted; nobody hears of its end then, and
// mpirun waits for ever. That is seldom, so it is the threads that are looked for.
TEST_CASE("launch_threads") {
  Mortal mortal;
  for (const char* daemon : {"prterun", "prted"}) {
    unsigned found = 0;
    for (const unsigned guest : {0u, 1u}) {
      for (const pid_t pid : ranks_of(mortal.cluster, guest, daemon)) {
        ++found;
        const std::filesystem::directory_iterator threads("/proc/" + std::to_string(pid) + "/task");
        CHECK_MESSAGE(std::distance(begin(threads), end(threads)) < 16, daemon << " on guest " << guest);
      }
    }
    CHECK_MESSAGE(found > 0, daemon);
  }
}
