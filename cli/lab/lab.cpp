#include "cli/lab/lab.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "cli/lab/api_probe.h"
#include "cli/lab/certificates.h"
#include "cli/lab/network.h"
#include "cli/lab/processes.h"
#include "common/file.h"

namespace stillpoint::lab {
namespace fs = std::filesystem;
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kCoordinatorDeadline{20'000};
constexpr milliseconds kHostsDeadline{60'000};
constexpr milliseconds kKillDeadline{20'000};
constexpr milliseconds kAskAgain{50};

// Ctrl-C during `up`: the waits end and what was made is taken down again.
volatile sig_atomic_t interrupted = 0;
class InterruptGuard {
 public:
  InterruptGuard() {
    interrupted = 0;
    struct sigaction action {};
    action.sa_handler = [](int) { interrupted = 1; };
    for (std::size_t i = 0; i < std::size(kSignals); ++i) ::sigaction(kSignals[i], &action, &before_[i]);
  }
  ~InterruptGuard() {
    for (std::size_t i = 0; i < std::size(kSignals); ++i) ::sigaction(kSignals[i], &before_[i], nullptr);
  }
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

 private:
  static constexpr int kSignals[] = {SIGINT, SIGTERM, SIGHUP};
  struct sigaction before_[std::size(kSignals)];
};

Result<LabOptions> with_defaults(LabOptions options, const Layout& layout) {
  std::error_code failed;
  const fs::path here = fs::read_symlink("/proc/self/exe", failed).parent_path();
  if (options.programs.empty()) options.programs = here;
  if (options.guest_image.empty()) options.guest_image = (here / ".." / "guest").lexically_normal();
  if (options.images.empty()) options.images = layout.images();
  for (auto* path : {&options.programs, &options.guest_image, &options.images}) *path = fs::absolute(*path).string();
  for (const char* program : {"stillpointd", "stillpoint-node"})
    if (const fs::path path = fs::path(options.programs) / program; ::access(path.c_str(), X_OK) != 0)
      return Error{ErrorKind::not_found, "find program", path.string(), "it is not built: run scripts/build"};
  for (const char* part : {"vmlinuz", "initrd.img", "base.squashfs"})
    if (const fs::path path = fs::path(options.guest_image) / part; ::access(path.c_str(), R_OK) != 0)
      return Error{ErrorKind::not_found, "find guest image", path.string(), "it is not built: run scripts/build"};
  return options;
}

std::string endpoint() { return std::string(kCoordinatorAddress) + ":" + std::to_string(kCoordinatorPort); }

}  // namespace

Result<Lab> Lab::open(const fs::path& directory) {
  if (::geteuid() != 0)
    return Error{ErrorKind::refused, "open laboratory", directory.string(),
                 "needs root: it makes network namespaces and virtual machines"};
  auto layout = Layout::at(directory);
  if (!layout) return layout.error();
  if (auto made = make_directory(kRuntimeDirectory, 0755); !made) return made.error();
  const std::string path = layout->lock().string();
  for (;;) {
    Fd lock(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    if (!lock) return errno_error("open lock", path, errno);
    if (::flock(lock.get(), LOCK_EX) != 0) {
      if (errno == EINTR) continue;
      return errno_error("lock", path, errno);
    }
    // `down` removes the file while it holds the lock: only the file that has the name counts.
    struct stat held, named;
    if (::fstat(lock.get(), &held) == 0 && ::stat(path.c_str(), &named) == 0 && held.st_ino == named.st_ino)
      return Lab(std::move(*layout), std::move(lock));
  }
}

Lab::~Lab() {
  std::error_code ignored;
  if (!lock_ || fs::exists(layout_.journal(), ignored)) return;
  // No laboratory here (any more): the lock's file goes too, while it is locked.
  ::unlink(layout_.lock().c_str());
  ::rmdir(kRuntimeDirectory);
}

Status Lab::load() {
  auto journal = read_journal(layout_.journal());
  if (!journal) return journal.error();
  if (journal->state != LabState::up)
    return Error{ErrorKind::refused, "use laboratory", layout_.directory().string(),
                 "it is not wholly there: a command on it was cut short; 'stillpoint lab down' removes it"};
  journal_ = std::move(*journal);
  return {};
}

Result<HostRecord*> Lab::load_host(const std::string& host) {
  if (auto loaded = load(); !loaded) return loaded.error();
  if (HostRecord* record = journal_.find(host)) return record;
  std::string names;
  for (const auto& record : journal_.hosts) names += (names.empty() ? "" : ", ") + record.name;
  return Error{ErrorKind::not_found, "find host", host, "the laboratory has " + names};
}

std::string Lab::log_tail(const std::string& name) const {
  auto text = read_file(layout_.log(name));
  if (!text) return "";
  std::size_t start = text->size();
  for (int lines = 0; lines < 16 && start > 0; ++lines) {
    start = text->rfind('\n', start - 1);
    if (start == std::string::npos) start = 0;
  }
  return "\n--- last lines of the log of " + name + ":\n" + text->substr(start == 0 ? 0 : start + 1);
}

Result<nlohmann::json> Lab::up(unsigned hosts, LabOptions asked) {
  if (hosts == 0 || hosts > kMaxHosts)
    return Error{ErrorKind::refused, "make laboratory", std::to_string(hosts) + " hosts",
                 "between 1 and " + std::to_string(kMaxHosts) + " are possible"};
  auto options = with_defaults(std::move(asked), layout_);
  if (!options) return options.error();
  if (auto before = read_journal(layout_.journal()); before.has_value() && before->state == LabState::up)
    return Error{
        ErrorKind::refused, "make laboratory", layout_.directory().string(),
        "it is up already, with " + std::to_string(before->hosts.size()) + " hosts; 'stillpoint lab down' ends it"};
  else if (before.has_value() || before.error().kind != ErrorKind::not_found) {
    if (auto cleaned = down(); !cleaned) return cleaned.error();  // what a crash left
  }
  if (!holds_nothing(layout_.directory()))
    return Error{ErrorKind::refused, "make laboratory", layout_.directory().string(), "the directory is not empty"};

  InterruptGuard guard;
  if (auto built = build(hosts, *options); !built) {
    Error error = built.error();
    interrupted = 0;
    if (auto cleaned = down(); !cleaned)
      error.cause += "\nand taking it down again failed: " + cleaned.error().message();
    return error;
  }
  auto document = status();
  if (!document) return document.error();
  nlohmann::json answer = {{"hosts", nlohmann::json::array()}, {"server", layout_.api_socket().string()}};
  for (const auto& host : document->at("hosts"))
    answer["hosts"].push_back({{"name", host.at("name")}, {"state", host.at("state")}});
  return answer;
}

Status Lab::build(unsigned hosts, const LabOptions& options) {
  journal_ = Journal{};
  journal_.options = options;
  for (unsigned number = 1; number <= hosts; ++number)
    journal_.hosts.push_back({host_name(number), HostState::present, {}});
  std::error_code ignored;
  for (fs::path parent = layout_.directory().parent_path(); !fs::exists(parent, ignored); parent = parent.parent_path())
    journal_.made_directories.insert(journal_.made_directories.begin(), parent.string());
  fs::create_directories(layout_.directory(), ignored);
  // From here on the names of all that comes are on disk.
  if (auto published = publish(); !published) return published;

  for (const auto& part : {layout_.directory() / "hosts", layout_.directory() / "log", layout_.coordinator(),
                           layout_.coordinator() / "state", fs::path(options.images)})
    if (auto made = make_directory(part); !made) return made;
  if (::symlink(layout_.directory().c_str(), layout_.link().c_str()) != 0)
    return errno_error("make link", layout_.link().string(), errno);
  if (auto made = make_authority(layout_.site(), "Stillpoint laboratory " + layout_.id()); !made) return made;
  if (auto made = issue_certificate(layout_.site(), "coordinator", layout_.coordinator() / "tls"); !made) return made;
  if (auto made = make_switch(layout_); !made) return made;
  if (auto started = start_coordinator_process(); !started) return started;
  std::vector<std::string> names;
  for (auto& host : journal_.hosts) {
    if (auto made = make_host(host); !made) return made;
    if (interrupted) break;
    names.push_back(host.name);
  }
  if (auto met = wait_for_hosts(names); !met) return met;
  if (auto written = publish_file(kLabSocketFile, layout_.api_socket().string() + "\n", 0644); !written) return written;
  journal_.state = LabState::up;
  return publish();
}

Status Lab::start_coordinator_process() {
  std::vector<std::string> argv = {(fs::path(journal_.options.programs) / "stillpointd").string(),
                                   "--state",
                                   (layout_.coordinator() / "state").string(),
                                   "--api-socket",
                                   layout_.api_socket().string(),
                                   "--listen",
                                   endpoint(),
                                   "--tls",
                                   (layout_.coordinator() / "tls").string()};
  if (journal_.options.lease_ms != 0)
    argv.insert(argv.end(), {"--lease-ms", std::to_string(journal_.options.lease_ms)});
  argv.insert(argv.end(), journal_.options.coordinator_args.begin(), journal_.options.coordinator_args.end());
  auto started = start_in_namespace(argv, layout_.switch_namespace(), layout_.log("coordinator"));
  if (!started) return started.error();
  journal_.coordinator = *started;
  if (auto published = publish(); !published) return published;
  return wait_for_coordinator();
}

Status Lab::make_host(HostRecord& host) {
  for (const auto& part : {layout_.host(host.name), layout_.host(host.name) / "state"})
    if (auto made = make_directory(part); !made) return made;
  if (auto made = issue_certificate(layout_.site(), host.name, layout_.host(host.name) / "tls"); !made) return made;
  if (auto made = make_host_network(layout_, host.name); !made) return made;
  return start_daemon(host);
}

fs::path Lab::images_of(const std::string& host) const {
  return journal_.options.own_images ? layout_.short_host(host) / "images" : fs::path(journal_.options.images);
}

Status Lab::start_daemon(HostRecord& host) {
  std::vector<std::string> argv = {(fs::path(journal_.options.programs) / "stillpoint-node").string(),
                                   "--name",
                                   host.name,
                                   "--state",
                                   (layout_.short_host(host.name) / "state").string(),
                                   "--coordinator",
                                   endpoint(),
                                   "--address",
                                   host_address(host_number(host.name)),
                                   "--tls",
                                   (layout_.short_host(host.name) / "tls").string(),
                                   "--images",
                                   images_of(host.name).string(),
                                   "--store-keys",
                                   layout_.store_keys().string(),
                                   "--store-reserve",
                                   "256MiB",
                                   "--guest-image",
                                   journal_.options.guest_image,
                                   "--libvirt",
                                   "embed"};
  if (journal_.options.own_images) argv.emplace_back("--own-images");
  argv.insert(argv.end(), journal_.options.node_args.begin(), journal_.options.node_args.end());
  auto started = start_in_namespace(argv, layout_.host_namespace(host.name), layout_.log(host.name));
  if (!started) return started.error();
  host.daemon = *started;
  return publish();
}

Status Lab::wait_for_coordinator() {
  const auto end = Clock::now() + kCoordinatorDeadline;
  for (;;) {
    auto health = api_get(layout_.api_socket(), "/v1/health", milliseconds(2000));
    if (health) return {};
    if (!alive(journal_.coordinator))
      return Error{ErrorKind::permanent, "start", "coordinator", "it ended at once" + log_tail("coordinator")};
    if (Clock::now() > end)
      return Error{ErrorKind::deadline, "start", "coordinator", health.error().message() + log_tail("coordinator")};
    if (interrupted) return Error{ErrorKind::refused, "start", "coordinator", "interrupted"};
    wait_for_end({journal_.coordinator}, kAskAgain);
  }
}

Status Lab::wait_for_hosts(const std::vector<std::string>& hosts) {
  const auto end = Clock::now() + kHostsDeadline;
  for (;;) {
    std::vector<std::string> missing = hosts;
    if (auto known = api_get(layout_.api_socket(), "/v1/hosts", milliseconds(2000));
        known.has_value() && known->is_array())
      for (const auto& host : *known) {
        const HostRecord* ours = journal_.find(host.value("name", ""));
        // The daemon that we started: the session of the one before it may still look alive.
        if (ours != nullptr && host.value("connected", false) &&
            host.value("daemonPid", nlohmann::json()) == ours->daemon.pid)
          std::erase(missing, ours->name);
      }
    if (missing.empty()) return {};
    std::vector<ProcessRecord> daemons{journal_.coordinator};
    for (const auto& name : missing) {
      const HostRecord* host = journal_.find(name);
      if (!alive(host->daemon))
        return Error{ErrorKind::permanent, "start", "node daemon of " + name, "it ended" + log_tail(name)};
      daemons.push_back(host->daemon);
    }
    if (!alive(journal_.coordinator))
      return Error{ErrorKind::permanent, "start", "coordinator", "it ended" + log_tail("coordinator")};
    if (interrupted) return Error{ErrorKind::refused, "make laboratory", layout_.directory().string(), "interrupted"};
    if (Clock::now() > end)
      return Error{ErrorKind::deadline, "wait for host", missing.front(),
                   "the coordinator has not heard of it" + log_tail(missing.front())};
    wait_for_end(daemons, kAskAgain);
  }
}

Result<nlohmann::json> Lab::status() {
  if (auto loaded = load(); !loaded) return loaded.error();
  const auto shown = [](const ProcessRecord& process) -> nlohmann::json {
    return alive(process) ? nlohmann::json(process.pid) : nlohmann::json();
  };
  nlohmann::json hosts = nlohmann::json::array();
  for (const auto& host : journal_.hosts) {
    const char* state = host.state == HostState::killed    ? "killed"
                        : !alive(host.daemon)              ? "daemon-dead"
                        : host.state == HostState::cut_off ? "cut-off"
                                                           : "up";
    hosts.push_back({{"name", host.name},
                     {"state", state},
                     {"pid", shown(host.daemon)},
                     {"processes", processes_in({layout_.host_namespace(host.name)})},
                     {"address", host_address(host_number(host.name))},
                     {"namespace", layout_.host_namespace(host.name)},
                     {"log", layout_.log(host.name).string()}});
  }
  return nlohmann::json{{"dir", layout_.directory().string()},
                        {"server", layout_.api_socket().string()},
                        {"coordinator",
                         {{"state", alive(journal_.coordinator) ? "up" : "dead"},
                          {"pid", shown(journal_.coordinator)},
                          {"address", endpoint()},
                          {"namespace", layout_.switch_namespace()},
                          {"log", layout_.log("coordinator").string()}}},
                        {"images", journal_.options.images},
                        {"hosts", hosts}};
}

Status Lab::kill_host(const std::string& name) {
  auto host = load_host(name);
  if (!host) return host.error();
  std::error_code failed;
  const fs::path away = layout_.directory() / "hosts" / ("." + name + ".dead");
  // Each step is done again after a try that was cut short half-way.
  const bool anything = fs::exists(namespace_file(layout_.host_namespace(name)), failed) ||
                        fs::exists(layout_.host(name), failed) || fs::exists(away, failed);
  if ((*host)->state == HostState::killed && !anything)
    return Error{ErrorKind::refused, "kill host", name, "it is dead already"};
  const bool again = (*host)->state == HostState::killed;  // the cable may be gone
  (*host)->state = HostState::killed;
  (*host)->daemon = {};
  if (auto published = publish(); !published) return published;
  // The cable first: what a dying process sends (FIN, RST) never reaches anybody, as with a power loss.
  if (auto pulled = set_cable(layout_, name, false); !pulled && !again) return pulled;
  if (auto killed = kill_all_in({layout_.host_namespace(name)}, kKillDeadline); !killed) return killed.error();
  if (auto removed = remove_host_network(layout_, name); !removed) return removed;
  if (fs::exists(layout_.host(name), failed)) fs::remove_all(away, failed);  // of an earlier try
  fs::rename(layout_.host(name), away, failed);
  if (failed && failed != std::errc::no_such_file_or_directory)
    return Error{ErrorKind::permanent, "take away directory", layout_.host(name).string(), failed.message()};
  fs::remove_all(away, failed);
  if (failed) return Error{ErrorKind::permanent, "delete directory", away.string(), failed.message()};
  return {};
}

Status Lab::start_host(const std::string& name) {
  auto found = load_host(name);
  if (!found) return found.error();
  HostRecord& host = **found;
  if (host.state != HostState::killed && alive(host.daemon))
    return Error{ErrorKind::refused, "start host", name, "it is running"};
  Status started;
  if (host.state == HostState::killed) {
    // A kill-host or start-host that was cut short may have left parts.
    if (auto killed = kill_all_in({layout_.host_namespace(name)}, kKillDeadline); !killed) return killed.error();
    if (auto removed = remove_host_network(layout_, name); !removed) return removed;
    std::error_code failed;
    for (const fs::path& old : {layout_.host(name), layout_.directory() / "hosts" / ("." + name + ".dead")})
      fs::remove_all(old, failed);
    started = make_host(host);
    if (started) host.state = HostState::present;
    if (started) started = publish();
  } else {
    started = start_daemon(host);
  }
  if (!started) return started;
  if (host.state == HostState::cut_off) return {};  // nobody will hear its hello
  return wait_for_hosts({name});
}

Status Lab::start_coordinator() {
  if (auto loaded = load(); !loaded) return loaded;
  if (alive(journal_.coordinator)) return Error{ErrorKind::refused, "start", "coordinator", "it is running"};
  return start_coordinator_process();
}

Status Lab::partition(const std::string& name, bool cut_off) {
  auto host = load_host(name);
  if (!host) return host.error();
  if ((*host)->state == HostState::killed)
    return Error{ErrorKind::refused, cut_off ? "partition" : "heal", name,
                 "the host is dead; start-host brings it back"};
  (*host)->state = cut_off ? HostState::cut_off : HostState::present;
  if (auto published = publish(); !published) return published;
  return set_cable(layout_, name, !cut_off);
}

}  // namespace stillpoint::lab
