#include "node-daemon/domain/libvirt_driver.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <mutex>
#include <set>

#include "common/log.h"
#include "node-daemon/domain/capture.h"
#include "node-daemon/domain/disk.h"
#include "node-daemon/domain/domain_name.h"
#include "node-daemon/domain/domain_xml.h"
#include "node-daemon/domain/hypervisor.h"
#include "node-daemon/domain/migration.h"
#include "node-daemon/domain/probe.h"
#include "node-daemon/domain/restore.h"

namespace stillpoint::node {
namespace {

constexpr std::size_t kKeptLogs = 64;  // per directory; the newest
constexpr timeval kLinkDeadline{5, 0};

bool is_qcow2(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  char magic[4] = {};
  in.read(magic, sizeof magic);
  return in && std::memcmp(magic, "QFI\xfb", 4) == 0;
}

// Logs are named by domain, and domains by incarnation: without this they would grow in number for ever.
void prune_logs(const std::filesystem::path& directory) {
  std::error_code code;
  std::vector<std::pair<std::filesystem::file_time_type, std::filesystem::path>> logs;
  for (const auto& entry : std::filesystem::directory_iterator(directory, code))
    if (entry.path().extension() == ".log") logs.emplace_back(entry.last_write_time(code), entry.path());
  std::sort(logs.rbegin(), logs.rend());
  for (std::size_t i = kKeptLogs; i < logs.size(); ++i) std::filesystem::remove(logs[i].second, code);
}

class LibvirtDriver final : public DomainDriver {
 public:
  explicit LibvirtDriver(const LibvirtSettings& settings) : settings_(settings) {}
  Status open();

  const DriverProbe& probe() const override { return probe_; }
  void on_event(std::function<void(DomainEvent)> handler) override;
  Result<std::vector<DomainId>> running() override;
  Status start(const DomainSpec& spec) override;
  Status capture(const DomainId& id, const std::filesystem::path& new_layer, MemorySink& sink,
                 CaptureTurn& turn) override;
  Result<std::string> describe(const DomainId& id) override;
  Status restore(const DomainSpec& spec, const std::string& xml, MemorySource& source) override;
  Status resume(const DomainId& id) override;
  Status carry_on(const DomainId& id) override;
  Status flatten_disk(const DomainId& id) override;
  Result<std::vector<std::filesystem::path>> disk_chain(const DomainId& id) override;
  Status destroy(const DomainId& id) override;
  Result<Fd> open_guest_link(const DomainId& id) override;

 private:
  void ended(const std::string& name, int event, int detail);
  void stands_still(const std::string& name, const std::string& reason);
  // False: it was half a restore, and is gone.
  Result<bool> recover(virDomainPtr domain, const DomainId& id);
  // From now on the domain's end is reported; an error if it has ended already.
  Status report_end_of(virDomainPtr domain, const DomainId& id);
  std::shared_ptr<std::mutex> mutex_of(const std::string& name);
  Result<DomainFiles> files_of(const DomainId& id) const;

  const LibvirtSettings settings_;
  DriverProbe probe_;

  std::mutex mutex_;  // guards the four below; never held while libvirt is called
  std::function<void(DomainEvent)> handler_;
  std::set<std::string> live_;     // domains whose end is to be reported; known to be in order
  std::set<std::string> unclean_;  // domains whose last capture could not be cleaned up after
  // One operation at a time per domain. shared_ptr: destroy() forgets the entry while another call may wait on it.
  std::map<std::string, std::shared_ptr<std::mutex>> domain_mutexes_;

  std::unique_ptr<Hypervisor> hypervisor_;  // last: its thread calls ended()
};

Status LibvirtDriver::open() {
  std::error_code code;
  for (const char* directory : {"ch", "console"}) {
    std::filesystem::create_directories(settings_.root / directory, code);
    if (code) return errno_error("make directory", (settings_.root / directory).string(), code.value());
  }
  const Hypervisor::Handlers handler{
      .lifecycle = [this](const std::string& name, int event, int detail) { ended(name, event, detail); },
      .stopped = [this](const std::string& name, const std::string& reason) { stands_still(name, reason); }};
  auto opened = settings_.instance == LibvirtSettings::Instance::embed
                    ? Hypervisor::open_embedded(settings_.root, handler)
                    : Hypervisor::open_system(handler);
  if (!opened) return opened.error();
  hypervisor_ = std::move(*opened);

  const auto accelerator = choose_accelerator(read_cpu_facts(), settings_.accelerator);
  const QemuFacts qemu = ask_qemu(hypervisor_->connection(), accelerator.value);
  const auto mode = choose_capture_mode(qemu.background_snapshot, settings_.capture_mode);
  probe_ = {accelerator.value, accelerator.reason, mode.value, mode.reason, hypervisor_->libvirt_version(),
            qemu.version};
  return {};
}

void LibvirtDriver::on_event(std::function<void(DomainEvent)> handler) {
  const std::lock_guard lock(mutex_);
  handler_ = std::move(handler);
}

void LibvirtDriver::ended(const std::string& name, int event, int detail) {
  const bool crashed = event == VIR_DOMAIN_EVENT_CRASHED ||
                       (event == VIR_DOMAIN_EVENT_STOPPED &&
                        (detail == VIR_DOMAIN_EVENT_STOPPED_CRASHED || detail == VIR_DOMAIN_EVENT_STOPPED_FAILED));
  if (event != VIR_DOMAIN_EVENT_STOPPED && !crashed) return;
  const auto id = parse_domain_name(name);
  std::function<void(DomainEvent)> handler;
  {
    const std::lock_guard lock(mutex_);
    if (!id || live_.erase(name) == 0) return;
    handler = handler_;
  }
  if (!handler) return;
  if (crashed) handler({*id, DomainEvent::Kind::crashed, "QEMU ended unexpectedly"});
  else handler({*id, DomainEvent::Kind::stopped, "the guest powered off or panicked"});
}

void LibvirtDriver::stands_still(const std::string& name, const std::string& reason) {
  const auto id = parse_domain_name(name);
  std::function<void(DomainEvent)> handler;
  {
    const std::lock_guard lock(mutex_);
    if (!id || !live_.contains(name)) return;
    handler = handler_;
  }
  if (handler) handler({*id, DomainEvent::Kind::paused, reason});
}

Status LibvirtDriver::report_end_of(virDomainPtr domain, const DomainId& id) {
  const std::string name = domain_name(id);
  {
    const std::lock_guard lock(mutex_);
    live_.insert(name);
  }
  if (virDomainIsActive(domain) == 1) return {};
  const std::lock_guard lock(mutex_);
  live_.erase(name);
  return Error{ErrorKind::transient, "start", to_string(id), "it ended at once; its console log may say why"};
}

std::shared_ptr<std::mutex> LibvirtDriver::mutex_of(const std::string& name) {
  const std::lock_guard lock(mutex_);
  auto& entry = domain_mutexes_[name];
  if (!entry) entry = std::make_shared<std::mutex>();
  return entry;
}

Result<DomainFiles> LibvirtDriver::files_of(const DomainId& id) const {
  if (auto valid = check_domain_id(id); !valid) return valid.error();
  std::error_code code;
  const auto root = std::filesystem::absolute(settings_.root, code);
  DomainFiles files{(root / "ch" / domain_name(id)).string(), (root / "console" / (domain_name(id) + ".log")).string()};
  if (files.channel_socket.size() >= sizeof(sockaddr_un::sun_path))
    return Error{ErrorKind::refused, "name socket", files.channel_socket, "a socket's path holds 107 bytes"};
  return files;
}

Result<std::vector<DomainId>> LibvirtDriver::running() {
  virDomainPtr* list = nullptr;
  const int count = virConnectListAllDomains(hypervisor_->connection(), &list, VIR_CONNECT_LIST_DOMAINS_ACTIVE);
  if (count < 0) return libvirt_error("list domains", "libvirt");
  std::vector<DomainHandle> domains(list, list + count);
  std::free(list);

  std::vector<DomainId> ids;
  for (const auto& domain : domains) {
    const std::string name = virDomainGetName(domain.get());
    const auto id = parse_domain_name(name);
    if (!id) continue;
    bool known = false;
    {
      const std::lock_guard lock(mutex_);
      known = live_.contains(name);
    }
    if (!known) {
      // Also a start or restore of this process that is under way: its own call holds the mutex and will answer.
      const auto mutex = mutex_of(name);
      const std::unique_lock lock(*mutex, std::try_to_lock);
      if (!lock) continue;
      auto usable = recover(domain.get(), *id);
      if (usable && !*usable) continue;
      // Listed all the same: a machine that answers nothing must be known to be fenced. Tried again the next time.
      if (!usable) log_warn("a domain could not be taken up", {{"domain", name}, {"cause", usable.error().message()}});
    }
    ids.push_back(*id);
  }
  return ids;
}

// A daemon that died during a capture closed the stream: QEMU then fails the migration, and a machine that was
// suspended for it, or stopped by it in that very moment, stays paused. Paused and in phase "running" is only that
// (or somebody's virsh suspend, which a daemon's start ends); a restored machine that waits has the phase "restored".
Result<bool> LibvirtDriver::recover(virDomainPtr domain, const DomainId& id) {
  const VirString xml(virDomainGetXMLDesc(domain, 0));
  if (!xml) return libvirt_error("describe", to_string(id));
  auto facts = parse_domain_xml(xml.get());
  if (!facts) return facts.error();
  if (facts->phase == DomainPhase::loading) {
    if (virDomainDestroy(domain) < 0) return libvirt_error("destroy", to_string(id));
    log_info("a restore that was never finished is destroyed", {{"domain", to_string(id)}});
    return false;
  }
  if (auto cleaned = cancel_migration(domain, hypervisor_->events()); !cleaned) return cleaned.error();
  int state = 0;
  if (virDomainGetState(domain, &state, nullptr, 0) < 0) return libvirt_error("take up", to_string(id));
  if (state == VIR_DOMAIN_PAUSED && facts->phase == DomainPhase::running && virDomainResume(domain) < 0)
    return libvirt_error("resume", to_string(id));
  if (auto live = report_end_of(domain, id); !live) return live.error();
  log_info("domain taken up", {{"domain", to_string(id)}, {"phase", name(facts->phase)}});
  return true;
}

Status LibvirtDriver::start(const DomainSpec& spec) {
  auto files = files_of(spec.id);
  if (!files) return files.error();
  const auto mutex = mutex_of(domain_name(spec.id));
  const std::lock_guard lock(*mutex);
  prune_logs(settings_.root / "console");
  prune_logs(settings_.root / "log" / "qemu");
  Hardware hardware;
  hardware.cpu_model = settings_.cpu_model;
  hardware.accelerator = probe_.accelerator;
  const std::string xml = domain_xml(spec, hardware, *files, DomainPhase::running, is_qcow2(spec.base_image));
  const DomainHandle domain(virDomainCreateXML(hypervisor_->connection(), xml.c_str(), 0));
  if (!domain) return libvirt_error("start domain", to_string(spec.id));
  return report_end_of(domain.get(), spec.id);
}

Status LibvirtDriver::capture(const DomainId& id, const std::filesystem::path& new_layer, MemorySink& sink,
                              CaptureTurn& turn) {
  const auto mutex = mutex_of(domain_name(id));
  const std::lock_guard lock(*mutex);
  auto domain = hypervisor_->find(domain_name(id));
  if (!domain) return domain.error();
  const std::string name = domain_name(id);
  bool clean = true;
  {
    const std::lock_guard guard(mutex_);
    clean = !unclean_.contains(name);
  }
  if (!clean)
    if (auto cleaned = cancel_migration(domain->get(), hypervisor_->events()); !cleaned) return cleaned;
  // Who asks for a mode gets that one.
  const CapturePlan plan{!settings_.capture_mode.has_value(), probe_.capture_mode};
  const Status done = capture_domain(domain->get(), hypervisor_->events(), plan, new_layer, sink, turn, clean);
  {
    const std::lock_guard guard(mutex_);
    if (clean) unclean_.erase(name);
    else unclean_.insert(name);
  }
  int state = 0;
  if (virDomainGetState(domain->get(), &state, nullptr, 0) == 0 && state == VIR_DOMAIN_PAUSED)
    stands_still(name, "it could not be resumed after its capture");
  return done;
}

Result<std::string> LibvirtDriver::describe(const DomainId& id) {
  auto domain = hypervisor_->find(domain_name(id));
  if (!domain) return domain.error();
  const VirString xml(virDomainGetXMLDesc(domain->get(), 0));
  if (!xml) return libvirt_error("describe", to_string(id));
  return std::string(xml.get());
}

Status LibvirtDriver::restore(const DomainSpec& spec, const std::string& xml, MemorySource& source) {
  auto files = files_of(spec.id);
  if (!files) return files.error();
  auto captured = parse_domain_xml(xml);
  if (!captured) return captured.error();
  if (auto same = check_same_machine(*captured, spec, probe_.accelerator); !same) return same;
  const auto mutex = mutex_of(domain_name(spec.id));
  const std::lock_guard lock(*mutex);
  prune_logs(settings_.root / "console");
  prune_logs(settings_.root / "log" / "qemu");
  const std::string loading =
      domain_xml(spec, captured->hardware, *files, DomainPhase::loading, is_qcow2(spec.base_image));
  if (auto done = restore_domain(hypervisor_->connection(), hypervisor_->events(), spec.id, loading, source); !done)
    return done;
  auto domain = hypervisor_->find(domain_name(spec.id));
  if (!domain) return domain.error();
  return report_end_of(domain->get(), spec.id);
}

Status LibvirtDriver::resume(const DomainId& id) {
  const auto mutex = mutex_of(domain_name(id));
  const std::lock_guard lock(*mutex);
  auto domain = hypervisor_->find(domain_name(id));
  if (!domain) return domain.error();
  return resume_domain(domain->get(), id);
}

Status LibvirtDriver::carry_on(const DomainId& id) {
  const auto mutex = mutex_of(domain_name(id));
  const std::lock_guard lock(*mutex);
  auto domain = hypervisor_->find(domain_name(id));
  if (!domain) return domain.error();
  int state = 0;
  if (virDomainGetState(domain->get(), &state, nullptr, 0) < 0) return libvirt_error("carry on", to_string(id));
  if (state == VIR_DOMAIN_PAUSED && virDomainResume(domain->get()) < 0) return libvirt_error("carry on", to_string(id));
  return {};
}

Status LibvirtDriver::flatten_disk(const DomainId& id) {
  const auto mutex = mutex_of(domain_name(id));
  const std::lock_guard lock(*mutex);
  auto domain = hypervisor_->find(domain_name(id));
  if (!domain) return domain.error();
  return flatten_chain(domain->get(), hypervisor_->events());
}

Result<std::vector<std::filesystem::path>> LibvirtDriver::disk_chain(const DomainId& id) {
  auto domain = hypervisor_->find(domain_name(id));
  if (!domain) return domain.error();
  return disk_chain_of(domain->get());
}

// Takes no domain mutex: a fence must not wait for a capture. The capture's stream breaks, and it fails.
Status LibvirtDriver::destroy(const DomainId& id) {
  const std::string name = domain_name(id);
  {
    const std::lock_guard lock(mutex_);
    live_.erase(name);
    unclean_.erase(name);
    domain_mutexes_.erase(name);
  }
  auto domain = hypervisor_->find(name);
  if (!domain && domain.error().kind != ErrorKind::not_found) return domain.error();
  if (domain && virDomainDestroy(domain->get()) < 0) {
    const Error cause = libvirt_error("destroy", to_string(id));
    if (auto still = hypervisor_->find(name); still || still.error().kind != ErrorKind::not_found) return cause;
  }
  if (auto files = files_of(id)) {
    std::error_code code;
    std::filesystem::remove(files->channel_socket, code);
  }
  return {};
}

Result<Fd> LibvirtDriver::open_guest_link(const DomainId& id) {
  auto files = files_of(id);
  if (!files) return files.error();
  Fd link(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!link) return errno_error("open guest link", to_string(id), errno);
  // QEMU serves one client; while an earlier one is still being let go the connection waits in the queue.
  ::setsockopt(link.get(), SOL_SOCKET, SO_SNDTIMEO, &kLinkDeadline, sizeof kLinkDeadline);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, files->channel_socket.c_str(), files->channel_socket.size() + 1);
  int status = 0;
  do status = ::connect(link.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  while (status < 0 && errno == EINTR);
  if (status < 0 && (errno == ENOENT || errno == ECONNREFUSED))
    return Error{ErrorKind::not_found, "open guest link", to_string(id), "the domain does not run here"};
  if (status < 0 && errno == EAGAIN)
    return Error{ErrorKind::deadline, "open guest link", to_string(id), "another connection is held open"};
  if (status < 0) return errno_error("open guest link", to_string(id), errno);
  ::fcntl(link.get(), F_SETFL, O_NONBLOCK);
  return link;
}

}  // namespace

Status settings_from_environment(LibvirtSettings& settings) {
  const auto unknown = [](const char* variable, const char* value, const char* expected) {
    return Error{ErrorKind::refused, "read setting", variable,
                 std::string("is \"") + value + "\", expected " + expected};
  };
  if (const char* value = std::getenv("STILLPOINT_ACCELERATOR")) {
    if (value == name(Accelerator::kvm)) settings.accelerator = Accelerator::kvm;
    else if (value == name(Accelerator::tcg)) settings.accelerator = Accelerator::tcg;
    else return unknown("STILLPOINT_ACCELERATOR", value, "kvm or tcg");
  }
  if (const char* value = std::getenv("STILLPOINT_CAPTURE")) {
    if (value == name(CaptureMode::background_snapshot)) settings.capture_mode = CaptureMode::background_snapshot;
    else if (value == name(CaptureMode::paused_save)) settings.capture_mode = CaptureMode::paused_save;
    else return unknown("STILLPOINT_CAPTURE", value, "background-snapshot or paused-save");
  }
  if (const char* value = std::getenv("STILLPOINT_CPU_MODEL")) settings.cpu_model = value;
  return {};
}

Result<std::unique_ptr<DomainDriver>> open_libvirt_driver(const LibvirtSettings& settings) {
  auto driver = std::make_unique<LibvirtDriver>(settings);
  if (auto opened = driver->open(); !opened) return opened.error();
  return std::unique_ptr<DomainDriver>(std::move(driver));
}

}  // namespace stillpoint::node
