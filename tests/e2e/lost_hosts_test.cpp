// Hosts die or are cut off, and nobody does anything: the job comes back by itself and ends as if nothing had happened.
// STILLPOINT_KILLS: how many hosts die in the first one, of which every third while the job is coming back from the
// death before; scripts/soak-kill-hosts has more of them.
#include <doctest/doctest.h>
#include <signal.h>

#include <algorithm>
#include <future>
#include <random>
#include <set>
#include <thread>

#include "common/file.h"
#include "common/process.h"
#include "tests/e2e/examples.h"

using namespace stillpoint;
using namespace stillpoint::e2e;
using Clock = std::chrono::steady_clock;

namespace {

json host(const TestLab& lab, const std::string& name) {
  for (const auto& one : lab.ok({"hosts"}))
    if (one.at("name") == name) return one;
  FAIL("no host " << name);
  return {};
}

bool has(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::vector<std::string> idle_hosts(const TestLab& lab, const std::string& job) {
  std::vector<std::string> idle;
  const auto used = lab.hosts_of(job);
  for (const auto& one : lab.ok({"hosts"}))
    if (one.at("state") == "up" && !has(used, one.at("name"))) idle.push_back(one.at("name"));
  return idle;
}

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

// The incarnations of a job whose machines there are now, on any of the laboratory's hosts: of their processes' names.
std::set<unsigned> incarnations_alive(const TestLab& lab, const std::string& job) {
  std::set<unsigned> found;
  const std::string prefix = "guest=sp-" + job + "-i";
  const json status = lab.lab({"status"});
  for (const auto& host : status.at("hosts"))
    for (const auto& pid : host.at("processes")) {
      const auto line = read_file("/proc/" + std::to_string(pid.get<pid_t>()) + "/cmdline");  // none: it has ended
      if (const auto at = line ? line->find(prefix) : std::string::npos; at != std::string::npos)
        found.insert(static_cast<unsigned>(std::strtoul(line->c_str() + at + prefix.size(), nullptr, 10)));
    }
  return found;
}

// Looks all the time whether machines of two incarnations of a job are there at once. Two looks in a row have to agree:
// one ended in the middle of the first.
class OneAtATime {
 public:
  OneAtATime(const TestLab& lab, std::string job)
      : lab_(lab), job_(std::move(job)), worker_([this](const std::stop_token& s) { look(s); }) {}
  // How often it was looked, and how often there were two.
  std::pair<unsigned, unsigned> ended() {
    worker_.request_stop();
    worker_.join();
    return {looks_, twice_};
  }

 private:
  void look(const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      looks_ += 1;
      if (incarnations_alive(lab_, job_).size() > 1 && incarnations_alive(lab_, job_).size() > 1) twice_ += 1;
      std::this_thread::sleep_for(50ms);  // the rate of looking
    }
  }

  const TestLab& lab_;
  const std::string job_;
  unsigned looks_ = 0, twice_ = 0;
  std::jthread worker_;
};

// Of the job's hosts one that is up.
std::string any_up_host(const TestLab& lab, const std::string& job, std::mt19937_64& random) {
  auto gang = lab.hosts_of(job);
  std::erase_if(gang, [&](const std::string& name) { return host(lab, name).at("state") != "up"; });
  REQUIRE_FALSE(gang.empty());
  return gang.at(random() % gang.size());
}

// A host dies; until that is seen. The seconds that took.
double kill_host(const TestLab& lab, const std::string& victim) {
  const auto begin = Clock::now();
  lab.lab({"kill-host", victim});
  REQUIRE(until(60s, [&] { return host(lab, victim).at("state") != "up"; }));
  return seconds_since(begin);
}

// One more of the job's hosts dies, at a random moment after the job began to come back. Whether it had not come back
// by then.
bool kill_in_restart(const TestLab& lab, const std::string& job, std::uint64_t incarnation, std::mt19937_64& random,
                     std::vector<std::string>& dead) {
  REQUIRE(until(60s, [&] {
    const json now = lab.status(job);
    return now.at("state") == "restarting" || now.at("incarnation") > incarnation;
  }));
  std::this_thread::sleep_for(milliseconds(random() % 8'000));  // the random moment
  const std::string state = lab.state(job);
  dead.push_back(any_up_host(lab, job, random));
  kill_host(lab, dead.back());
  MESSAGE("killed " << dead.back() << " as well, when the job was " << state);
  return state == "restarting";
}

// Until the job runs on none of these.
void await_elsewhere(const TestLab& lab, const std::string& job, const std::vector<std::string>& dead) {
  REQUIRE(until(kPatience, [&] {
    const json now = lab.status(job);
    REQUIRE_MESSAGE((now.at("state") != "failed" && now.at("state") != "completed"), now.dump());
    if (now.at("state") != "running") return false;
    const auto gang = lab.hosts_of(job);
    return std::ranges::none_of(dead, [&](const std::string& name) { return has(gang, name); });
  }));
}

void bring_hosts_back(const TestLab& lab, const std::vector<std::string>& dead) {
  for (const auto& name : dead) {
    lab.lab({"start-host", name});
    REQUIRE(until(60s, [&] { return host(lab, name).at("state") == "up"; }));
    CHECK(host(lab, name).at("jobs").empty());
  }
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

// With no backup: the coordinator begins with an empty one.
void lose_catalog(const TestLab& lab) {
  REQUIRE(::kill(lab.lab({"status"}).at("coordinator").at("pid").get<pid_t>(), SIGKILL) == 0);
  REQUIRE(until(5s, [&] { return lab.lab({"status"}).at("coordinator").at("state") == "dead"; }));
  for (const char* suffix : {"", "-wal", "-shm"}) fs::remove(lab.catalog().string() + suffix);
  const auto anew = run_process({(build_directory() / "bin/stillpointd").string(), "--state",
                                 lab.catalog().parent_path().string(), "--new-catalog"});
  REQUIRE(anew.has_value());
  REQUIRE_MESSAGE(anew->exit_code == 0, anew->err);
  lab.lab({"start-coordinator"});
  REQUIRE(until(60s, [&] {
    const json hosts = lab.ok({"hosts"});
    return hosts.size() == 3 && std::ranges::all_of(hosts, [](const json& host) { return host.at("state") == "up"; });
  }));
}

}  // namespace

TEST_CASE("hosts die at random moments, and the job comes back each time without a hand") {
  const unsigned kills = number_from("STILLPOINT_KILLS", 2);
  std::mt19937_64 random(seed());
  TestLab lab("lost-hosts", 4);
  Heat heat = Heat::long_enough_on(lab);
  heat.steps += heat.steps / 3 * kills;
  const std::string undisturbed = run_natively(4, example("heat/heat"), heat.arguments());

  JobText text = heat.job("heat");
  text.comes_back = true;
  text.max_restarts = 2 * kills;
  text.interval = "5s";
  const std::string job = lab.submit(text);
  lab.wait_for_lines(job, kHeatLine, 3);
  REQUIRE(until(kPatience, [&] { return !lab.status(job).at("lastCheckpoint").is_null(); }));
  OneAtATime watch(lab, job);
  std::vector<double> detected, restored;
  unsigned in_restart = 0;  // deaths that came before the job was back from the one before
  for (unsigned n = 0; n < kills;) {
    std::this_thread::sleep_for(milliseconds(random() % 14'000));  // the random moment
    const auto incarnation = lab.status(job).at("incarnation").get<std::uint64_t>();
    std::vector<std::string> dead{any_up_host(lab, job, random)};
    const auto begin = Clock::now();
    detected.push_back(kill_host(lab, dead.front()));
    const bool twice = n % 3 == 0 && n + 1 < kills;  // of four hosts the job needs two
    if (twice) in_restart += kill_in_restart(lab, job, incarnation, random, dead);
    await_elsewhere(lab, job, dead);
    const double later = seconds_since(begin) - detected.back();
    if (!twice) restored.push_back(later);
    n += static_cast<unsigned>(dead.size());
    MESSAGE("kill " << n << " (" << dead.front() << (twice ? ", then " + dead.back() : "") << "): detected after "
                    << detected.back() << " s, running " << later << " s later");
    bring_hosts_back(lab, dead);
  }
  MESSAGE(kills << " kills, " << in_restart << " of them in a restart; median: detected after " << median(detected)
                << " s");
  if (!restored.empty()) MESSAGE("median of those by themselves: running " << median(restored) << " s later");

  const auto end = lab.run({"wait", job, "--timeout", "1200"}, 1'210s);
  CHECK_MESSAGE(end.exit_code == 0, end.out << end.err);
  const json status = lab.status(job);
  CHECK(status.at("state") == "completed");
  // A death in a restart ends that try, and there is one more; but none where the restart had not come to that host
  // yet.
  const auto tries = status.at("automaticRestarts").get<unsigned>(), restarts = status.at("restarts").get<unsigned>();
  MESSAGE(tries << " tries, " << restarts << " restarts");
  CHECK(tries <= kills);
  CHECK(tries + in_restart >= kills);
  CHECK(restarts <= tries);
  CHECK(restarts + in_restart >= kills);
  CHECK(printed_by_program(lab.logs(job)) == undisturbed);
  const auto [looks, twice] = watch.ended();
  CHECK(looks > 0);
  CHECK(twice == 0);
}

TEST_CASE("a host that is cut off ends its guests before the job runs elsewhere, and is a spare when it is back") {
  TestLab lab("cut-off", 3);
  JobText text = Ring{}.job("ring");
  text.comes_back = true;
  const std::string job = lab.submit(text);
  lab.wait_for_lines(job, kRingLine, 2);
  lab.ok({"checkpoint", job});
  OneAtATime watch(lab, job);
  const std::string victim = lab.hosts_of(job).at(1);
  lab.lab({"partition", victim});
  REQUIRE(until(kPatience, [&] { return lab.status(job).at("incarnation") == 2 && lab.state(job) == "running"; }));
  CHECK_FALSE(has(lab.hosts_of(job), victim));
  CHECK(incarnations_alive(lab, job) == std::set<unsigned>{2});
  // Nobody asks the restored guests anything for longer than their hosts' lease and what follows it: they live on by
  // what their daemons say of it.
  std::this_thread::sleep_for(15s);
  CHECK(incarnations_alive(lab, job) == std::set<unsigned>{2});
  CHECK(lab.status(job).at("incarnation") == 2);
  lab.lab({"heal", victim});
  REQUIRE(until(60s, [&] { return host(lab, victim).at("state") == "up"; }));
  CHECK(host(lab, victim).at("jobs").empty());
  CHECK(idle_hosts(lab, job) == std::vector{victim});

  // It is one that jobs can go to: the only one, when another host dies.
  lab.wait_for_lines(job, kRingLine, lines_starting(lab.logs(job), kRingLine).size() + 2);
  const std::string next = lab.hosts_of(job).at(0);
  lab.lab({"kill-host", next});
  REQUIRE(until(kPatience, [&] { return lab.status(job).at("incarnation") == 3 && lab.state(job) == "running"; }));
  CHECK_FALSE(has(lab.hosts_of(job), next));
  lab.wait_for_lines(job, kRingLine, lines_starting(lab.logs(job), kRingLine).size() + 2);
  check_numbered(lab.logs(job), kRingLine, 1, 1);
  const auto [looks, twice] = watch.ended();
  CHECK(looks > 0);
  CHECK(twice == 0);
  lab.ok({"stop", job});
}

TEST_CASE("two jobs on three hosts: one is checkpointed while the other restarts, then the catalog is lost") {
  TestLab lab("two-jobs", 3);
  std::vector<std::string> jobs;
  for (const char* name : {"first", "second"}) {
    JobText text = Ring{}.job(name);
    text.ranks = 2;
    text.memory = "256MiB";
    jobs.push_back(lab.submit(text));
  }
  for (const auto& job : jobs) lab.wait_for_lines(job, kRingLine, 2);
  for (const auto& job : jobs) lab.ok({"checkpoint", job});
  for (unsigned turn = 0; turn < 2; ++turn) {
    const std::string &restarted = jobs.at(turn), &other = jobs.at(1 - turn);
    auto restart = std::async(std::launch::async, [&] { return lab.ok({"restart", restarted}); });
    // Again and again until it is back: some of them meet each of its phases.
    unsigned taken = 0;
    do {
      CHECK(lab.ok({"checkpoint", other}).at("epoch") > 2);
      taken += 1;
    } while (restart.wait_for(0s) != std::future_status::ready);
    CHECK(restart.get().at("incarnation") == 2);
    MESSAGE(taken << " checkpoints of " << other << " while " << restarted << " restarted");
    for (const auto& job : jobs)
      lab.wait_for_lines(job, kRingLine, lines_starting(lab.logs(job), kRingLine).size() + 2);
  }
  lose_catalog(lab);
  CHECK(lab.ok({"jobs"}).empty());
  const json found = lab.ok({"catalog", "rebuild"});
  CHECK_MESSAGE(found.at("jobs").size() == 2, found.dump());
  CHECK_MESSAGE(found.at("problems").empty(), found.dump());
  for (const auto& job : jobs) {
    lab.ok({"restart", job});
    lab.wait_for_lines(job, kRingLine, lines_starting(lab.logs(job), kRingLine).size() + 2);
    check_numbered(lab.logs(job), kRingLine, 1, 1);
    lab.ok({"stop", job});
  }
}
