// The coordinator's part of a checkpoint: from the request, and from the first host's PREPARE, to the decision to
// release, which is there when the first host is told; and what memory the coordinator needs for its hosts. The real
// stillpointd with its catalog; the hosts are sessions of this process, each with its own certificate over TLS on
// loopback, and their guests are captured as soon as they are asked. One guest on each host. Prints one JSON document;
// asserts nothing.
//
//   bench/run control-path, or control-path [--hosts N…] [--rounds N] [--state DIR] [--coordinator PROGRAM]
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <fstream>
#include <iostream>
#include <thread>

#include "bench/measured.h"
#include "common/descriptor_limit.h"
#include "common/log.h"
#include "common/net/test_certificates.h"
#include "coordinator/test_support/fake_host.h"
#include "coordinator/test_support/http_client.h"

using namespace stillpoint;
using namespace stillpoint::bench;
using namespace stillpoint::coordinator;
using nlohmann::json;
namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

namespace {

constexpr double kWantedMs = 150;  // of prepare_to_release_ms, at 1,024 hosts
constexpr std::uint64_t kBaseBytes = 64u << 20, kBytesPerHost = 32u << 10;

// stillpointd; ends with this process, however that ends.
class Coordinator {
 public:
  Coordinator(const std::string& program, const fs::path& state, const fs::path& identity)
      : http_(state / "api.sock"), log_(state.parent_path() / "log") {
    pid_ = ::fork();
    if (pid_ < 0) fail("cannot fork");
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (::freopen(log_.c_str(), "w", stderr) == nullptr) ::_exit(126);
      ::execl(program.c_str(), "stillpointd", "--state", state.c_str(), "--listen", "127.0.0.1:0", "--tls",
              identity.c_str(), nullptr);
      ::_exit(127);
    }
    const auto end = Clock::now() + std::chrono::seconds(20);
    while (port() == 0 || http_.get("/v1/health").status != 200) {
      if (Clock::now() > end) fail("the coordinator does not come up; its last words: " + last_words());
      std::this_thread::sleep_for(std::chrono::milliseconds(20));  // between two looks; the deadline is above
    }
  }
  ~Coordinator() {
    ::kill(pid_, SIGTERM);
    ::waitpid(pid_, nullptr, 0);
  }
  const HttpClient& http() const { return http_; }

  // Where hosts connect, as its log says; 0 before it does.
  std::uint16_t port() const {
    const std::string key = "port=";
    std::ifstream in(log_);
    for (std::string word; in >> word;)
      if (word.starts_with(key)) return static_cast<std::uint16_t>(std::stoul(word.substr(key.size())));
    return 0;
  }
  std::string last_words() const {
    std::ifstream in(log_);
    std::string last;
    for (std::string line; std::getline(in, line);) last = line;
    return last;
  }
  std::uint64_t memory(const std::string& figure) const {
    std::ifstream status("/proc/" + std::to_string(pid_) + "/status");
    for (std::string word; status >> word;)
      if (std::uint64_t kib = 0; word == figure && status >> kib) return kib << 10;
    return 0;
  }
  // Of all its threads, in milliseconds.
  double cpu_ms() const {
    double sum = 0;
    for (const auto& thread : fs::directory_iterator("/proc/" + std::to_string(pid_) + "/task"))
      if (std::uint64_t nanoseconds = 0; std::ifstream(thread.path() / "schedstat") >> nanoseconds)
        sum += static_cast<double>(nanoseconds) / 1e6;
    return sum;
  }

 private:
  pid_t pid_ = 0;
  HttpClient http_;
  fs::path log_;
};

// All hosts of the site, on one thread.
class Hosts {
 public:
  Hosts(net::TestSite& site, std::uint16_t port, std::uint32_t count) {
    for (std::uint32_t i = 0; i < count; ++i) {
      const std::string name = "h" + std::to_string(i);
      hosts_.push_back(std::make_unique<FakeHost>(name, site.identity(name), port, io_));
      hosts_.back()->edit([this](const wire::ToHost& request, wire::FromHost&) {
        if (request.has_prepare_capture() && prepared_++ == 0) first_prepare_ = Clock::now();
        if (request.has_release() && released_++ == 0) first_release_ = Clock::now();
        if (!request.has_ping()) ++heard_;
        return true;
      });
      hosts_.back()->connect();
      if (const std::string why = hosts_.back()->closed_because(); !why.empty()) fail(name + ": " + why);
    }
  }
  ~Hosts() {
    hosts_.clear();
    work_.reset();
    thread_.join();
  }
  void begin() { prepared_ = released_ = 0; }
  // Until no host has been asked anything for a while: what follows a commit (older images are deleted) is over.
  void await_quiet() const {
    const auto end = Clock::now() + std::chrono::seconds(60);
    for (std::uint64_t before = heard_ + 1; before != heard_;) {
      if (Clock::now() > end) fail("the hosts are asked without end");
      before = heard_;
      std::this_thread::sleep_for(std::chrono::milliseconds(100));  // the while; the deadline is above
    }
  }
  // Of the last epoch, when its answer is there: since then the hosts' thread has not touched it.
  Clock::time_point first_prepare() const { return first_prepare_; }
  Clock::time_point first_release() const { return first_release_; }

 private:
  boost::asio::io_context io_{1};
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_{io_.get_executor()};
  std::thread thread_{[this] { io_.run(); }};
  std::vector<std::unique_ptr<FakeHost>> hosts_;
  std::atomic<std::uint32_t> prepared_{0}, released_{0};
  std::atomic<std::uint64_t> heard_{0};
  Clock::time_point first_prepare_, first_release_;
};

std::string job_of(std::uint32_t guests) {
  json spec = {{"name", "bench"},
               {"guests", guests},
               {"memoryBytes", 1u << 30},
               {"diskBytes", 1u << 30},
               {"ranksPerGuest", std::vector<int>(guests, 1)},
               {"command", {"bench"}}};
  return json{{"spec", std::move(spec)}}.dump();
}

void start_job(const Coordinator& coordinator, std::uint32_t guests) {
  if (const auto reply = coordinator.http().post("/v1/jobs", job_of(guests)); reply.status != 200) fail(reply.body);
  const auto end = Clock::now() + std::chrono::seconds(120);
  for (json status = json::object(); status.value("state", "") != "running";) {
    if (Clock::now() > end) fail("the job does not run: " + status.dump() + "; " + coordinator.last_words());
    std::this_thread::sleep_for(std::chrono::milliseconds(50));  // between two looks; the deadline is above
    status = coordinator.http().get("/v1/jobs/bench").json();
  }
}

struct Options {
  std::vector<std::uint32_t> hosts = {64, 256, 1024};
  int rounds = 9;
  std::string state = fs::temp_directory_path();
  std::string coordinator = std::string(STILLPOINT_BINARY_DIR) + "/bin/stillpointd";
};

json measure(const Options& options, std::uint32_t count) {
  net::TestSite site;
  const Place place(options.state);
  const fs::path state = place.path / "state";
  Coordinator coordinator(options.coordinator, state, site.identity("coordinator"));
  const std::uint64_t alone = coordinator.memory("VmRSS:");
  Hosts hosts(site, coordinator.port(), count);
  const auto up = [&] { return coordinator.http().get("/v1/hosts").json().size(); };
  while (up() < count) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const std::uint64_t connected = coordinator.memory("VmRSS:");
  const auto asked_to_start = Clock::now();
  start_job(coordinator, count);
  const double start_ms = ms(Clock::now() - asked_to_start);

  std::vector<double> decisions, prepared, answers, cpu;
  std::map<std::string, std::vector<double>> phases;
  for (int round = -1; round < options.rounds; ++round) {  // the first one is not counted
    hosts.await_quiet();
    hosts.begin();
    const double cpu_before = coordinator.cpu_ms();
    const auto asked = Clock::now();
    const auto reply = coordinator.http().post("/v1/jobs/bench/checkpoint");
    const auto answered = Clock::now();
    if (reply.status != 200) fail(reply.body);
    if (round < 0) continue;
    decisions.push_back(ms(hosts.first_release() - asked));
    prepared.push_back(ms(hosts.first_release() - hosts.first_prepare()));
    answers.push_back(ms(answered - asked));
    cpu.push_back(coordinator.cpu_ms() - cpu_before);
    const json checkpoint = reply.json();
    for (const auto& [name, time] : checkpoint.at("phases").items()) phases[name].push_back(time.get<double>());
  }
  json by_phase;
  for (const auto& [name, times] : phases) by_phase[name] = spread(times)["median"];
  const std::uint64_t peak = coordinator.memory("VmHWM:"), limit = kBaseBytes + count * kBytesPerHost;
  return {{"hosts", count},
          {"prepare_to_release_ms", spread(prepared)},
          {"request_to_release_ms", spread(decisions)},
          {"per_host_us", spread(decisions)["median"].get<double>() * 1000 / count},
          {"request_to_commit_ms", spread(answers)},
          {"coordinator_cpu_ms", spread(cpu)},
          {"phases_ms", by_phase},
          {"job_start_ms", start_ms},
          {"memory",
           {{"alone_bytes", alone},
            {"connected_bytes", connected},
            {"after_bytes", coordinator.memory("VmRSS:")},
            {"most_bytes", peak},
            {"wanted_bytes", limit},
            {"per_host_bytes", (connected - alone) / count}}}};
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("The coordinator's part of a checkpoint, over TLS on loopback.", "control-path");
  Options options;
  app.add_option("--hosts", options.hosts, "Numbers of hosts, each at most 1024")
      ->check(CLI::Range(1u, 1024u))
      ->capture_default_str();
  app.add_option("--rounds", options.rounds, "Checkpoints that count")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--state", options.state,
                 "Where the coordinator's directory is made: its catalog is synced to disk there")
      ->capture_default_str();
  app.add_option("--coordinator", options.coordinator, "Another stillpointd, to compare")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  set_log_level("error");
  ::signal(SIGPIPE, SIG_IGN);
  raise_descriptor_limit();
  double load = -1;
  ::getloadavg(&load, 1);
  json sizes = json::array();
  for (const std::uint32_t count : options.hosts) sizes.push_back(measure(options, count));
  std::cout << json{{"bench", "control-path"},
                    {"rounds", options.rounds},
                    {"load_average", load},
                    {"wanted_ms_at_1024", kWantedMs},
                    {"sizes", sizes}}
                   .dump(2)
            << "\n";
  return 0;
}
