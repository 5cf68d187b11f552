// The node daemon in a process of its own, killed at every step that changes a file, from its first start over
// captures, uploads, prunings and collections to a restore. After it is started again, what was reported to the
// coordinator restores, and of the rest nothing is left.
//
// Every kind of step once; with STILLPOINT_ALL_DEATHS=1 every step, which takes many minutes (scripts/soak-deaths).
#include <doctest/doctest.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <map>
#include <regex>
#include <set>

#include "common/fd.h"
#include "node-daemon/shell/test_site.h"
#include "node-daemon/store/site_key.h"
#include "node-daemon/store/store_history.h"

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;
using std::chrono::seconds;

constexpr const char* kInMemory = "/dev/shm";  // fsync costs nothing there, and SIGKILL asks for none

// One life of the daemon. The coordinator is told when it ends.
class Life {
 public:
  Life(Site& site, std::vector<std::string> arguments) : coordinator_(site.coordinator) {
    coordinator_.host_starts();
    const std::string program = std::string(STILLPOINT_BINARY_DIR) + "/tests/node-daemon-life";
    arguments.insert(arguments.begin(), {program, site.path, site.identity, coordinator_.endpoint()});
    int in[2], out[2];
    REQUIRE(::pipe2(in, O_CLOEXEC) == 0);
    REQUIRE(::pipe2(out, O_CLOEXEC) == 0);
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    pid_ = ::fork();
    REQUIRE(pid_ >= 0);
    if (pid_ == 0) {
      ::dup2(in[0], 0);
      ::dup2(out[1], 1);
      ::execv(argv[0], argv.data());
      ::_exit(127);
    }
    commands_ = Fd(in[1]);
    answers_ = Fd(out[0]);
    ::close(in[0]);
    ::close(out[1]);
    reaper_ = std::thread([this] {
      ::waitpid(pid_, &status_, 0);
      coordinator_.host_gone();
    });
  }
  Life(const Life&) = delete;
  Life& operator=(const Life&) = delete;
  ~Life() {
    if (reaper_.joinable()) end(SIGKILL);
  }
  // What the process ended with.
  int end(int signal) {
    if (!has_ended()) ::kill(pid_, signal);
    commands_.reset();
    reaper_.join();
    return status_;
  }
  int wait_for_end() {
    reaper_.join();
    return status_;
  }
  // Nothing: it has ended.
  std::optional<std::string> tell(const std::string& command) {
    const std::string line = command + "\n";
    if (::write(commands_.get(), line.data(), line.size()) < 0) return std::nullopt;
    std::string answer;
    while (!answer.ends_with('\n')) {
      pollfd poll{answers_.get(), POLLIN, 0};
      REQUIRE_MESSAGE(::poll(&poll, 1, 20'000) == 1, "no answer to ", command);
      char byte = 0;
      if (::read(answers_.get(), &byte, 1) != 1) return std::nullopt;
      answer += byte;
    }
    answer.pop_back();
    return answer;
  }

 private:
  // It is not reaped before the thread is joined: its number is still its own.
  bool has_ended() {
    siginfo_t info{};
    return ::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid != 0;
  }
  TestCoordinator& coordinator_;
  pid_t pid_ = 0;
  int status_ = 0;
  Fd commands_, answers_;
  std::thread reaper_;
};

// What the coordinator knows.
struct Told {
  std::map<std::uint64_t, wire::GuestImage> committed;
  std::set<std::uint64_t> pruned;  // or asked to be
};

wire::ToHost deletion(const std::vector<std::uint64_t>& epochs) {
  auto message = about(1);
  for (const std::uint64_t epoch : epochs) message.mutable_delete_images()->add_epochs(epoch);
  return message;
}

wire::ToHost restoration(std::uint64_t incarnation, std::uint64_t epoch, const wire::GuestImage& image) {
  auto message = about(incarnation, epoch);
  fill(*message.mutable_restore()->mutable_network(), static_cast<std::uint32_t>(6 + incarnation));
  fill(*message.mutable_restore()->mutable_hardware());
  *message.mutable_restore()->add_images() = image;
  return message;
}

bool start(Site& site, Life& node) {
  if (!site.coordinator.try_welcome() || !node.tell("agent 1")) return false;
  auto message = about(1);
  fill(*message.mutable_start_guests()->mutable_network(), 7);
  fill(*message.mutable_start_guests()->mutable_hardware());
  message.mutable_start_guests()->set_workdir("/job");
  message.mutable_start_guests()->add_guests(0);
  const auto started = site.coordinator.try_ask(message);
  if (started) REQUIRE_MESSAGE(started->has_guests_started(), started->failure().cause());
  return started.has_value();
}

bool checkpoint(Site& site, Life& node, std::uint64_t epoch, Told& told) {
  if (!node.tell("memory 1 " + std::to_string(epoch))) return false;
  auto prepare = about(1, epoch), freeze = prepare, capture = prepare, release = prepare;
  prepare.mutable_prepare_capture();
  freeze.mutable_freeze();
  capture.mutable_capture();
  release.mutable_release();
  for (const auto& message : {prepare, freeze, capture, release}) {
    const auto reply = site.coordinator.try_ask(message);
    if (!reply) return false;
    REQUIRE_MESSAGE(!reply->has_failure(), reply->failure().cause());
  }
  const auto stored = site.coordinator.try_wait([](const auto& m) { return m.has_images(); });
  if (!stored) return false;
  REQUIRE_MESSAGE(stored->images().images_size() == 1, stored->images().failure().cause());
  told.committed[epoch] = stored->images().images(0);
  return true;
}

bool prune(Site& site, std::uint64_t epoch, Told& told) {
  told.pruned.insert(epoch);
  const auto done = site.coordinator.try_ask(deletion({epoch}));
  if (done) CHECK(done->has_done());
  return done.has_value();
}

// Whether it came to its end.
bool story(Site& site, Life& node, Told& told) {
  if (!start(site, node)) return false;
  for (std::uint64_t epoch = 1; epoch <= 3; ++epoch) {
    if (!checkpoint(site, node, epoch, told)) return false;
    if (epoch > 1 && !prune(site, epoch - 1, told)) return false;
  }
  auto destroy = about(1);
  destroy.mutable_destroy();
  if (!site.coordinator.try_ask(destroy) || !node.tell("agent 2")) return false;
  const auto restored = site.coordinator.try_ask(restoration(2, 3, told.committed[3]));
  if (!restored) return false;
  REQUIRE_MESSAGE(restored->has_done(), restored->failure().cause());
  const auto same = node.tell("compare 2 3");
  if (same) CHECK(*same == "same");
  return same.has_value();
}

// What a site without gangs has, and no more. Directories may be empty.
void check_files(const fs::path& site) {
  static const std::regex expected(
      "guest/.*|store\\.keys|state/(lock|host\\.record|last-word)|images/(key-ids|id)|images/hosts/h1/lock|"
      "images/hosts/h1/(packs|images)/.*");
  // A record that is just being written has a name of its own for a moment.
  std::string others;
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  do {
    others.clear();
    std::error_code gone;  // what is listed may be renamed meanwhile
    for (fs::recursive_directory_iterator entry(site, gone), last; !gone && entry != last; entry.increment(gone)) {
      const std::string name = entry->path().lexically_relative(site);
      if (!entry->is_directory() && !std::regex_match(name, expected)) others += name + " ";
    }
    if (gone) others = gone.message();
  } while (!others.empty() && std::chrono::steady_clock::now() < end);
  CHECK(others == "");
  CHECK(fs::is_empty(site / "state/gangs"));
  const auto keys = load_site_keys(site / "store.keys");
  REQUIRE_MESSAGE(keys.has_value(), keys.error());
  for (const std::string& name : test::rubbish(system_files(), site / "images/hosts/h1", *keys)) FAIL_CHECK(name);
}

std::set<std::string> lists(const fs::path& site) {
  std::set<std::string> found;
  for (const auto& entry : fs::recursive_directory_iterator(site / "images/hosts/h1/images"))
    if (entry.is_regular_file())
      found.insert(entry.path().filename().string() + " of " + entry.path().parent_path().filename().string());
  return found;
}

void check_restores(Site& site, Life& node, std::uint64_t incarnation, std::uint64_t epoch, const Told& told) {
  REQUIRE(node.tell("agent " + std::to_string(incarnation)));
  const auto restored = site.coordinator.ask(restoration(incarnation, epoch, told.committed.at(epoch)));
  REQUIRE_MESSAGE(restored.has_done(), restored.failure().cause());
  CHECK(*node.tell("compare " + std::to_string(incarnation) + " " + std::to_string(epoch)) == "same");
  const fs::path base = site.path / ("state/gangs/j1-" + std::to_string(incarnation)) / "guest-0/base.qcow2";
  CHECK(run_checked({"qemu-img", "check", "-q", base}).has_value());
  auto destroy = about(incarnation);
  destroy.mutable_destroy();
  CHECK(site.coordinator.ask(destroy).has_done());
}

// The daemon starts again, without its machines, as after the host's reboot. The coordinator has it end the gangs and
// delete what was not committed, as it does in its recovery.
void check_after(Site& site, const Told& told) {
  Life node(site, {"-"});
  site.coordinator.welcome();
  for (std::uint64_t incarnation : {1, 2}) {
    auto destroy = about(incarnation);
    destroy.mutable_destroy();
    CHECK(site.coordinator.ask(destroy).has_done());
  }
  std::vector<std::uint64_t> gone;
  std::set<std::string> kept;
  for (std::uint64_t epoch = 1; epoch <= 3; ++epoch) {
    if (!told.committed.contains(epoch) || told.pruned.contains(epoch)) gone.push_back(epoch);
    else
      for (const char* part : {"ram", "disk"})
        kept.insert("guest-0." + std::string(part) + " of e" + std::to_string(epoch));
  }
  CHECK(site.coordinator.ask(deletion(gone)).has_done());
  CHECK(lists(site.path) == kept);
  check_files(site.path);
  for (const auto& [epoch, image] : told.committed)
    if (!told.pruned.contains(epoch)) check_restores(site, node, 10 + epoch, epoch, told);
  CHECK(site.coordinator.ask(deletion({1, 2, 3})).has_done());
  check_files(site.path);
  CHECK(fs::is_empty(site.path / "images/hosts/h1/packs"));
  const int status = node.end(SIGTERM);
  CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 0));
}

// Every step of the story, by name, with how often it comes.
std::map<std::string, int> steps_of_the_story() {
  Site site(kInMemory);
  const fs::path record = site.certificates.directory() / "steps";
  Told told;
  {
    Life node(site, {record});
    REQUIRE(story(site, node, told));
  }
  std::map<std::string, int> steps;
  std::ifstream in(record);
  for (std::string line; std::getline(in, line);) ++steps[line];
  check_after(site, told);
  return steps;
}

// "fsync …/e2/guest-0.ram.tmp" and the same of epoch 3 are of one kind.
std::string kind_of(const std::string& step) {
  static const std::regex number("(j1-|/e|layer-e)[0-9]+");
  return std::regex_replace(step, number, "$1N");
}

struct Chosen {
  std::string step, when;
  int occurrence = 1;
};

std::vector<Chosen> deaths(const std::map<std::string, int>& steps, bool all) {
  std::vector<Chosen> chosen;
  std::set<std::string> kinds;
  for (const auto& [step, count] : steps) {
    if (!all && !kinds.insert(kind_of(step)).second) continue;
    const int last = all ? count : 1;
    for (int occurrence = 1; occurrence <= last; ++occurrence) {
      // In the short run one time each of a step that is seen often: somewhere among them.
      const int at = all ? occurrence : 1 + count / 2;
      if (all || !step.starts_with("write ")) chosen.push_back({step, "before", at});
      if (step.starts_with("write ")) chosen.push_back({step, "half_way", at});
      if (all) chosen.push_back({step, "after", at});
    }
  }
  return chosen;
}

TEST_CASE("killed at any step: what was reported restores, and nothing else is left") {
  ::signal(SIGPIPE, SIG_IGN);  // a command to a daemon that is dead
  const char* const wish = std::getenv("STILLPOINT_ALL_DEATHS");
  const auto steps = steps_of_the_story();
  std::size_t died = 0, ended = 0;
  const auto chosen = deaths(steps, wish != nullptr && *wish == '1');
  for (const Chosen& death : chosen) {
    CAPTURE(death.step);
    CAPTURE(death.occurrence);
    CAPTURE(death.when);
    Site site(kInMemory);
    Told told;
    {
      Life node(site, {"-", death.step, std::to_string(death.occurrence), death.when});
      if (story(site, node, told)) {
        ++ended;  // a step that does not come as often in every run
        const int status = node.end(SIGKILL);
        CHECK(WIFSIGNALED(status));
      } else {
        ++died;
        const int status = node.wait_for_end();
        REQUIRE(WIFSIGNALED(status));
        CHECK(WTERMSIG(status) == SIGKILL);
      }
    }
    check_after(site, told);
  }
  MESSAGE(chosen.size(), " deaths chosen of ", steps.size(), " steps: ", died, " died, ", ended, " came to the end");
  CHECK(died > 30);
  CHECK(ended * 5 < died);
}

}  // namespace
}  // namespace stillpoint::node
