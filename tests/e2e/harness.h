// What the end-to-end tests share: a laboratory of their own, driven through the `stillpoint` program as a user would,
// and gone when the test ends, whatever happens. One thread.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/fd.h"
#include "common/process.h"

namespace stillpoint::e2e {

using nlohmann::json;
using namespace std::chrono_literals;
using std::chrono::milliseconds;
namespace fs = std::filesystem;

// How long a test waits before it calls something a hang. Far more than a machine of one's own ever needs: under load
// emulated guests may get a tenth of a core.
inline constexpr milliseconds kPatience{300'000};

// Looks again and again until condition holds; false when it did not within limit. What is waited for happens in other
// processes, which tell nobody.
bool until(milliseconds limit, const std::function<bool()>& condition);

// A job as the tests need it; write_manifest() makes the rest.
struct JobText {
  std::string name;
  std::string command;          // as in YAML: "[./heat, 64]"
  std::vector<fs::path> files;  // copied beside the manifest
  std::vector<std::string> outputs;
  unsigned guests = 2;
  unsigned ranks = 4;
  std::string memory = "384MiB";
  unsigned keep = 3;
  std::string image = "openmpi";
  std::string hosts;        // as in YAML: "[h1, h2]"; empty: any
  std::string env;          // as in YAML: "{NAME: value}"; empty: none
  bool comes_back = false;  // by itself: restart.policy on-failure
  unsigned max_restarts = 5;
  std::string interval = "never";  // of checkpoints by itself
  std::string durability;          // empty: the default
};

class TestLab {
 public:
  // name is the test's; the directory follows from it, and what an earlier run left in it is taken down first.
  TestLab(const std::string& name, unsigned hosts, const std::vector<std::string>& up_arguments = {});
  // Keeps the daemons' logs under BUILD/e2e-logs/NAME, takes the laboratory down, and checks that nothing is left.
  ~TestLab();
  TestLab(const TestLab&) = delete;
  TestLab& operator=(const TestLab&) = delete;

  // stillpoint --server … --json ARGUMENTS
  ProcessOutcome run(std::vector<std::string> arguments, milliseconds deadline = kPatience) const;
  // The same, which must succeed; its JSON.
  json ok(const std::vector<std::string>& arguments, milliseconds deadline = kPatience) const;
  // stillpoint lab ARGUMENTS --dir …, which must succeed.
  json lab(std::vector<std::string> arguments) const;

  // The laboratory's.
  const fs::path& directory() const { return directory_; }
  // Where manifests and outputs go.
  const fs::path& scratch() const { return scratch_; }
  // The coordinator's own record, for what no command does. Only while no coordinator runs.
  fs::path catalog() const;
  fs::path write_manifest(const JobText& job) const;
  // Submits it; the job's id.
  std::string submit(const JobText& job) const;

  json status(const std::string& job) const { return ok({"status", job}); }
  std::string state(const std::string& job) const { return status(job).at("state"); }
  std::string logs(const std::string& job) const;
  // The most that any node daemon ever had, in MiB.
  std::uint64_t most_node_memory() const;
  // Hosts of the guests, guest 0 first.
  std::vector<std::string> hosts_of(const std::string& job) const;
  // Until the program has printed `count` lines that start with prefix. Fails the test when it does not, or the job
  // ends.
  void wait_for_lines(const std::string& job, const std::string& prefix, std::size_t count,
                      milliseconds limit = kPatience) const;

 private:
  void keep_logs() const;
  void watch_over();
  void check_nothing_left() const;

  std::string name_;
  fs::path directory_, scratch_;
  std::string server_;
  Fd watcher_;  // a process that takes the laboratory down when this end closes without a word: this test was killed
  pid_t watcher_pid_ = 0;
};

// The pack files that the laboratory's hosts, dead ones too, have in their stores.
std::vector<fs::path> packs_of(const TestLab& lab);
// The number that a variable of the environment has; `otherwise` where it is not set.
unsigned number_from(const char* variable, unsigned otherwise);
// What random choices of a test are made from: STILLPOINT_SEED, or a new one.
std::uint64_t seed();
std::vector<std::string> lines_starting(const std::string& text, const std::string& prefix);
// Without mpirun's own word that a daemon which it launches was quicker than itself: now and then it says
// "plm:ssh: Warning: setpgid(…) failed in parent", and nothing comes of it (the daemon has done the same by then).
std::string printed_by_program(const std::string& output);
// Where the test of that name keeps things: its own for each build, so that two builds' tests do not meet.
fs::path test_directory(const std::string& name);
fs::path build_directory();                   // this build's, or the one that STILLPOINT_BUILD names
fs::path program();                           // the stillpoint command
fs::path example(const std::string& file);    // under jobs/examples
fs::path test_file(const std::string& file);  // in tests/e2e
// Runs an MPI program natively, with the guest image's own Open MPI: what an undisturbed run prints. Working directory
// is a scratch directory in the checkout, whose files are given to take().
std::string run_natively(unsigned ranks, const fs::path& program, const std::vector<std::string>& arguments,
                         const std::function<void(const fs::path& directory)>& take = {});

}  // namespace stillpoint::e2e
