#include "tests/deaths/death_site.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <fstream>
#include <sstream>
#include <thread>

#include "common/file.h"
#include "common/process.h"

namespace stillpoint::test {
namespace {

namespace fs = std::filesystem;
using std::chrono::steady_clock;

constexpr const char* kPort = "4711";  // in a namespace of our own
constexpr const char* kCoordinator = "192.0.2.254";

void run(const std::vector<std::string>& argv) {
  const auto done = run_checked(argv);
  REQUIRE_MESSAGE(done.has_value(), done.error());
}

// This process's own network, with a bridge that the hosts are on.
void enter_network() {
  static const bool entered = [] {
    REQUIRE_MESSAGE(::unshare(CLONE_NEWNET) == 0, "a network namespace needs root: ", std::strerror(errno));
    run({"ip", "link", "set", "lo", "up"});
    run({"ip", "link", "add", "hosts0", "type", "bridge"});
    run({"ip", "address", "add", std::string(kCoordinator) + "/24", "dev", "hosts0"});
    run({"ip", "link", "set", "hosts0", "up"});
    return true;
  }();
  (void)entered;
}

std::string program(const char* name) { return std::string(STILLPOINT_BINARY_DIR) + "/tests/" + name; }

std::string tail(const fs::path& file, std::size_t lines) {
  std::ifstream in(file);
  std::vector<std::string> all;
  for (std::string line; std::getline(in, line);) all.push_back(line);
  std::string text;
  for (std::size_t i = all.size() > lines ? all.size() - lines : 0; i < all.size(); ++i) text += all[i] + "\n";
  return text;
}

}  // namespace

void Child::run(const std::vector<std::string>& argv, const std::map<std::string, std::string>& environment,
                int network, int input, int output, const fs::path& log) {
  REQUIRE(pid_ == 0);
  std::vector<char*> words;
  for (const auto& word : argv) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  pid_ = ::fork();
  REQUIRE(pid_ >= 0);
  if (pid_ != 0) return;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::signal(SIGPIPE, SIG_DFL);
  for (const auto& [name, value] : environment) ::setenv(name.c_str(), value.c_str(), 1);
  const int errors = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  const int nothing = ::open("/dev/null", O_RDWR);
  ::dup2(input >= 0 ? input : nothing, 0);
  ::dup2(output >= 0 ? output : nothing, 1);
  ::dup2(errors, 2);
  if (network >= 0 && ::setns(network, CLONE_NEWNET) != 0) ::_exit(126);
  ::execv(words[0], words.data());
  ::_exit(127);
}

bool Child::is_dead() {
  if (pid_ == 0) return true;
  if (::waitpid(pid_, nullptr, WNOHANG) == 0) return false;
  pid_ = 0;
  return true;
}

bool Child::is_stopped() const {
  std::ifstream in("/proc/" + std::to_string(pid_) + "/stat");
  std::string number, name, state;
  in >> number >> name >> state;
  return state == "T";
}

void Child::signal(int number) const {
  if (pid_ != 0) ::kill(pid_, number);
}

void Child::end(int number) {
  if (pid_ == 0) return;
  ::kill(pid_, number);
  ::waitpid(pid_, nullptr, 0);
  pid_ = 0;
}

DeathSite::DeathSite(unsigned hosts, Times times) : times_(times) {
  enter_network();
  ::signal(SIGPIPE, SIG_IGN);
  std::string pattern = "/dev/shm/stillpoint-deaths-XXXXXX";  // a sync costs nothing there, and SIGKILL asks for none
  REQUIRE(::mkdtemp(pattern.data()) != nullptr);
  path = pattern;
  fs::create_directory(path / "guest");
  for (const char* file : {"vmlinuz", "initrd.img", "base.squashfs"}) std::ofstream(path / "guest" / file) << "x";
  identity_ = certificates_.identity("coordinator");
  endpoint_ = std::string(kCoordinator) + ":" + kPort;
  for (unsigned i = 0; i < hosts; ++i) {
    auto node = std::make_unique<Node>();
    node->name = "h" + std::to_string(i + 1);
    node->address = "192.0.2." + std::to_string(i + 1);
    node->identity = certificates_.identity(node->name);
    fs::create_directory(path / node->name);
    node->holder.run({"/usr/bin/unshare", "--net", "sleep", "infinity"}, {}, -1, -1, -1, path / "holders.log");
    const std::string holder = std::to_string(node->holder.pid());
    const std::string own = fs::read_symlink("/proc/self/ns/net");
    const auto end = steady_clock::now() + std::chrono::seconds(20);
    std::error_code gone;
    while (fs::read_symlink("/proc/" + holder + "/ns/net", gone) == own || gone) {
      REQUIRE(steady_clock::now() < end);
      std::this_thread::sleep_for(std::chrono::milliseconds(2));  // between two looks; the deadline is above
    }
    node->network = Fd(::open(("/proc/" + holder + "/ns/net").c_str(), O_RDONLY | O_CLOEXEC));
    REQUIRE(node->network);
    const std::string here = "port" + std::to_string(i + 1);
    run({"ip", "link", "add", here, "type", "veth", "peer", "name", "under0", "netns", holder});
    run({"ip", "link", "set", here, "master", "hosts0", "up"});
    const std::vector<std::string> inside = {"nsenter", "--net=/proc/" + holder + "/ns/net", "ip"};
    auto there = [&](std::vector<std::string> words) {
      words.insert(words.begin(), inside.begin(), inside.end());
      run(words);
    };
    there({"link", "set", "lo", "up"});
    there({"address", "add", node->address + "/24", "dev", "under0"});
    there({"link", "set", "under0", "up"});
    nodes_.push_back(std::move(node));
  }
}

DeathSite::~DeathSite() {
  coordinator_.end(SIGKILL);
  for (auto& node : nodes_) node->process.end(SIGKILL);
  for (auto& node : nodes_) node->holder.end(SIGKILL);
  std::error_code ignored;
  for (unsigned i = 0; i < nodes_.size(); ++i)
    (void)run_process({"ip", "link", "delete", "port" + std::to_string(i + 1)});
  fs::remove_all(path, ignored);
}

void DeathSite::start_coordinator() {
  const auto ms = [](int value) { return std::to_string(value); };
  coordinator_.run({program("dying-coordinator"),
                    "--state",
                    path / "coordinator",
                    "--listen",
                    endpoint_,
                    "--tls",
                    identity_,
                    "--heartbeat-ms",
                    ms(times_.heartbeat_ms),
                    "--lease-ms",
                    ms(times_.lease_ms),
                    "--hold-ms",
                    ms(times_.hold_ms),
                    "--drain-deadline-ms",
                    ms(times_.hold_ms),
                    "--capture-deadline-ms",
                    "20000",
                    "--prepare-deadline-ms",
                    "20000",
                    "--upload-deadline-ms",
                    "20000"},
                   {{"STILLPOINT_TEST_ORDERS", coordinator_orders()}}, -1, -1, -1, path / "coordinator.log");
  const auto end = steady_clock::now() + std::chrono::seconds(30);
  while (http().get("/v1/health").status != 200) {
    REQUIRE_MESSAGE(!coordinator_.is_dead(), "the coordinator does not start: ", logs());
    REQUIRE(steady_clock::now() < end);
    std::this_thread::sleep_for(std::chrono::milliseconds(10));  // between two looks; the deadline is above
  }
}

fs::path DeathSite::node_orders(unsigned index) const { return path / (nodes_.at(index)->name + ".orders"); }

void DeathSite::start_node(unsigned index) {
  const std::lock_guard lock(mutex_);
  Node& node = *nodes_.at(index);
  int in[2], out[2];
  REQUIRE(::pipe2(in, O_CLOEXEC) == 0);
  REQUIRE(::pipe2(out, O_CLOEXEC) == 0);
  const Fd input(in[0]), output(out[1]);
  node.commands = Fd(in[1]);
  node.answers = Fd(out[0]);
  node.process.run({program("fake-node"), node.name, node.address, path, node.identity, endpoint_},
                   {{"STILLPOINT_TEST_ORDERS", node_orders(index)}}, node.network.get(), input.get(), output.get(),
                   path / (node.name + ".log"));
}

std::optional<std::string> DeathSite::tell(unsigned index, const std::string& command) {
  const std::lock_guard lock(mutex_);
  Node& node = *nodes_.at(index);
  if (node.process.pid() == 0 || node.process.is_stopped()) return std::nullopt;
  const std::string line = command + "\n";
  if (::write(node.commands.get(), line.data(), line.size()) < 0) return std::nullopt;
  std::string answer;
  while (!answer.ends_with('\n')) {
    pollfd poll{node.answers.get(), POLLIN, 0};
    REQUIRE_MESSAGE(::poll(&poll, 1, 30'000) == 1, node.name, " does not answer to ", command);
    char byte = 0;
    if (::read(node.answers.get(), &byte, 1) != 1) return std::nullopt;
    answer += byte;
  }
  answer.pop_back();
  return answer;
}

std::vector<std::string> DeathSite::machines() {
  std::vector<std::string> found;
  for (unsigned i = 0; i < hosts(); ++i) {
    std::istringstream all(tell(i, "list").value_or(""));
    for (std::string one; std::getline(all, one, ';');) found.push_back(one);
  }
  return found;
}

std::string DeathSite::double_run() const {
  std::map<std::string, std::map<std::string, std::set<std::string>>> running;  // job, incarnation, guests
  std::ifstream in(path / "journal");
  std::string time, what, machine;
  while (in >> time >> what >> machine) {
    std::istringstream parts(machine);
    std::string job, incarnation, guest;
    std::getline(parts, job, '/');
    std::getline(parts, incarnation, '/');
    std::getline(parts, guest);
    auto& of_job = running[job];
    if (what == "begin") of_job[incarnation].insert(guest);
    else of_job[incarnation].erase(guest);
    std::erase_if(of_job, [](const auto& entry) { return entry.second.empty(); });
    if (of_job.size() > 1) return machine + " at " + time + " ms, while another incarnation ran";
  }
  return {};
}

std::set<std::string> DeathSite::files_of(const std::string& job) const {
  std::set<std::string> found;
  for (const auto& entry : fs::recursive_directory_iterator(path, fs::directory_options::skip_permission_denied)) {
    const std::string name = entry.path().filename();
    if (name == job || name.starts_with(job + "-")) found.insert(entry.path().lexically_relative(path));
  }
  return found;
}

std::string DeathSite::logs() const {
  std::string text = "coordinator:\n" + tail(path / "coordinator.log", 40);
  for (const auto& node : nodes_) text += node->name + ":\n" + tail(path / (node->name + ".log"), 15);
  return text;
}

void order(const fs::path& file, const std::string& line) {
  const auto written = publish_file(file, line + "\n", 0600);
  REQUIRE_MESSAGE(written.has_value(), written.error());
}

void no_orders(const fs::path& file) {
  std::error_code ignored;
  fs::remove(file, ignored);
}

std::map<std::string, int> recorded_steps(const fs::path& file) {
  std::map<std::string, int> steps;
  std::ifstream in(file.string() + ".steps");
  for (std::string line; std::getline(in, line);) ++steps[line];
  return steps;
}

}  // namespace stillpoint::test
