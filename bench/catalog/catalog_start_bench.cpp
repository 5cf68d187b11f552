// How long a coordinator takes to start on a catalog that has many epochs: the real stillpointd, from its process's
// beginning to the line that says that it is ready, on a catalog that is on disk and in the kernel's memory. Once with
// the usual few checkpoints of each job, the older ones pruned; once with all of them. Prints one JSON document;
// asserts nothing.
//
//   bench/run catalog-start, or catalog-start [--epochs N] [--jobs N] [--kept N…] [--rounds N] [--state DIR]
//   [--coordinator PROGRAM]
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "bench/catalog/filled_catalog.h"
#include "bench/measured.h"
#include "common/fd.h"
#include "common/log.h"
#include "common/net/test_certificates.h"

using namespace stillpoint;
using namespace stillpoint::bench;
using nlohmann::json;
namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

namespace {

constexpr double kWantedMs = 1'000;  // at 10,000 epochs
constexpr std::chrono::seconds kDeadline{60};

// One process of stillpointd; ends with this one, however that ends.
class Coordinator {
 public:
  Coordinator(const std::string& program, const fs::path& state, const fs::path& identity) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) fail("cannot make a pipe");
    log_ = Fd(ends[0]);
    Fd written(ends[1]);
    pid_ = ::fork();
    if (pid_ < 0) fail("cannot fork");
    if (pid_ > 0) return;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::dup2(written.get(), STDERR_FILENO);
    ::execl(program.c_str(), "stillpointd", "--state", state.c_str(), "--listen", "127.0.0.1:0", "--tls",
            identity.c_str(), nullptr);
    ::_exit(127);
  }
  ~Coordinator() {
    ::kill(pid_, SIGTERM);
    log_.reset();
    ::waitpid(pid_, nullptr, 0);
  }

  void await_ready() {
    const auto end = Clock::now() + kDeadline;
    std::string said;
    while (said.find("coordinator is ready") == std::string::npos) {
      pollfd readable{log_.get(), POLLIN, 0};
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count();
      char bytes[4096];
      if (left <= 0 || ::poll(&readable, 1, static_cast<int>(left)) <= 0) fail("it does not come up; it said: " + said);
      const ssize_t n = ::read(log_.get(), bytes, sizeof bytes);
      if (n <= 0) fail("it ended; it said: " + said);
      said.append(bytes, static_cast<std::size_t>(n));
    }
  }
  double memory_mib() const {
    std::ifstream status("/proc/" + std::to_string(pid_) + "/status");
    for (std::string word; status >> word;)
      if (double kib = 0; word == "VmRSS:" && status >> kib) return kib / 1024;
    return 0;
  }
  double cpu_ms() const {
    double sum = 0;
    for (const auto& thread : fs::directory_iterator("/proc/" + std::to_string(pid_) + "/task"))
      if (std::uint64_t nanoseconds = 0; std::ifstream(thread.path() / "schedstat") >> nanoseconds)
        sum += static_cast<double>(nanoseconds) / 1e6;
    return sum;
  }

 private:
  pid_t pid_ = 0;
  Fd log_;
};

struct Options {
  bench::Filling filling;
  std::vector<std::uint32_t> kept = {3, 1'000'000};
  int rounds = 7;
  std::string state = fs::temp_directory_path();
  std::string coordinator = std::string(STILLPOINT_BINARY_DIR) + "/bin/stillpointd";
};

json measure(const Options& options, std::uint32_t kept) {
  bench::Filling filling = options.filling;
  filling.kept = std::min(kept, filling.epochs);
  const Place place(options.state);
  const fs::path state = place.path / "state", catalog = state / "catalog.db";
  fs::create_directory(state);
  if (auto filled = bench::fill_catalog(catalog, filling); !filled) fail(filled.error().message());
  net::TestSite site;
  const fs::path identity = site.identity("coordinator");
  std::vector<double> ready, cpu, memory;
  for (int round = -1; round < options.rounds; ++round) {  // the first one is not counted
    const auto begin = Clock::now();
    Coordinator coordinator(options.coordinator, state, identity);
    coordinator.await_ready();
    if (round < 0) continue;
    ready.push_back(ms(Clock::now() - begin));
    cpu.push_back(coordinator.cpu_ms());
    memory.push_back(coordinator.memory_mib());
  }
  return {{"epochs", filling.epochs},
          {"jobs", filling.jobs},
          {"kept_of_each_job", std::min(filling.kept, filling.epochs / filling.jobs)},
          {"catalog_bytes", fs::file_size(catalog)},
          {"ready_ms", spread(ready)},
          {"cpu_ms", spread(cpu)},
          {"memory_mib", spread(memory)}};
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("The coordinator's start on a catalog with many epochs.", "catalog-start");
  Options options;
  app.add_option("--epochs", options.filling.epochs, "Epochs in the catalog")
      ->check(CLI::Range(1u, 1'000'000u))
      ->capture_default_str();
  app.add_option("--jobs", options.filling.jobs, "Jobs that they are of")
      ->check(CLI::Range(1u, 10'000u))
      ->capture_default_str();
  app.add_option("--kept", options.kept, "Committed checkpoints of each job; the older ones are pruned")
      ->check(CLI::Range(1u, 1'000'000u))
      ->capture_default_str();
  app.add_option("--rounds", options.rounds, "Starts that count")->check(CLI::Range(1, 1000))->capture_default_str();
  app.add_option("--state", options.state, "Where the coordinator's directory is made")->capture_default_str();
  app.add_option("--coordinator", options.coordinator, "Another stillpointd, to compare")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  set_log_level("error");
  double load = -1;
  ::getloadavg(&load, 1);
  json catalogs = json::array();
  for (const auto kept : options.kept) catalogs.push_back(measure(options, kept));
  std::cout << json{{"bench", "catalog-start"},
                    {"rounds", options.rounds},
                    {"load_average", load},
                    {"wanted_ms_at_10000", kWantedMs},
                    {"catalogs", catalogs}}
                   .dump(2)
            << "\n";
  return 0;
}
