#include "node-daemon/domain/hypervisor.h"

#include <fmt/format.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "common/file.h"
#include "common/log.h"

namespace stillpoint::node {
namespace {

// "/lib/qemu/domain-99999-", 20 bytes of the domain's name and "/monitor.sock" are what libvirt puts below its root,
// and a socket's path holds 107 bytes.
constexpr std::size_t kLongestRoot = 51;

// The guests' QEMU runs as root in an embedded laboratory: whoever starts it is root and owns every file. libvirt
// still drops all capabilities and keeps the system call filter.
constexpr std::string_view kQemuConf = R"(# Written by stillpoint-node at each start.
stdio_handler = "file"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
cgroup_controllers = []
namespaces = []
)";

void ignore_error(void*, virErrorPtr) {}  // errors are taken from the call that failed; nothing on stderr

Status initialise_libvirt() {
  static const int status = [] {
    virSetErrorFunc(nullptr, ignore_error);
    if (virEventRegisterDefaultImpl() < 0) return -1;
    return virInitialize();
  }();
  if (status < 0) return libvirt_error("initialise libvirt", "event loop");
  return {};
}

void stop_now(int timer, void*) { virEventRemoveTimeout(timer); }

}  // namespace

Hypervisor::Hypervisor(Handlers handlers) : handlers_(std::move(handlers)) {}

Result<std::unique_ptr<Hypervisor>> Hypervisor::open_embedded(const std::filesystem::path& root, Handlers handlers) {
  std::error_code code;
  const auto absolute = std::filesystem::absolute(root, code);
  if (absolute.string().size() > kLongestRoot)
    return Error{ErrorKind::refused, "open libvirt", absolute.string(),
                 fmt::format("the path must not be longer than {} bytes", kLongestRoot)};
  std::filesystem::create_directories(absolute / "etc", code);
  if (code) return errno_error("make directory", (absolute / "etc").string(), code.value());
  std::filesystem::permissions(absolute, std::filesystem::perms::owner_all, code);
  if (auto written = publish_file(absolute / "etc" / "qemu.conf", kQemuConf); !written) return written.error();
  std::unique_ptr<Hypervisor> hypervisor(new Hypervisor(std::move(handlers)));
  hypervisor->reaper_ = std::make_unique<OrphanReaper>();
  // Only before libvirt is first used in the process, and only where nobody asked for something else: what it says
  // about its own doings goes to a file, not among the daemon's log lines.
  ::setenv("LIBVIRT_LOG_OUTPUTS", ("3:file:" + (absolute / "libvirt.log").string()).c_str(), 0);
  if (auto done = hypervisor->connect("qemu:///embed?root=" + absolute.string()); !done) return done.error();
  return hypervisor;
}

Result<std::unique_ptr<Hypervisor>> Hypervisor::open_system(Handlers handlers) {
  std::unique_ptr<Hypervisor> hypervisor(new Hypervisor(std::move(handlers)));
  if (auto done = hypervisor->connect("qemu:///system"); !done) return done.error();
  return hypervisor;
}

Status Hypervisor::connect(const std::string& uri) {
  if (auto ready = initialise_libvirt(); !ready) return ready;
  loop_ = std::thread([this] {
    while (!stop_)
      if (virEventRunDefaultImpl() < 0) {
        log_error("libvirt's event loop ended", {{"cause", libvirt_error("run", "event loop").cause}});
        return;
      }
  });
  connection_.reset(virConnectOpen(uri.c_str()));
  if (!connection_) return libvirt_error("open libvirt", uri);
  return subscribe();
}

Hypervisor::~Hypervisor() {
  if (connection_) {
    for (int id : event_callbacks_) virConnectDomainEventDeregisterAny(connection_.get(), id);
    if (monitor_callback_ >= 0) virConnectDomainQemuMonitorEventDeregister(connection_.get(), monitor_callback_);
    connection_.reset();  // while the loop still runs: libvirt ends its own threads through it
  }
  if (loop_.joinable()) {
    stop_ = true;
    virEventAddTimeout(0, stop_now, nullptr, nullptr);  // wakes the loop
    loop_.join();
  }
}

Status Hypervisor::subscribe() {
  const auto add = [this](int event, virConnectDomainEventGenericCallback callback) {
    const int id = virConnectDomainEventRegisterAny(connection_.get(), nullptr, event, callback, this, nullptr);
    if (id >= 0) event_callbacks_.push_back(id);
    return id >= 0;
  };
  if (!add(VIR_DOMAIN_EVENT_ID_LIFECYCLE, VIR_DOMAIN_EVENT_CALLBACK(&Hypervisor::on_lifecycle)) ||
      !add(VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON, VIR_DOMAIN_EVENT_CALLBACK(&Hypervisor::on_io_error)) ||
      !add(VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2, VIR_DOMAIN_EVENT_CALLBACK(&Hypervisor::on_block_job)))
    return libvirt_error("register events", "libvirt");
  monitor_callback_ = virConnectDomainQemuMonitorEventRegister(connection_.get(), nullptr, "^(STOP|RESUME|MIGRATION)$",
                                                               &Hypervisor::on_monitor, this, nullptr,
                                                               VIR_CONNECT_DOMAIN_QEMU_MONITOR_EVENT_REGISTER_REGEX);
  if (monitor_callback_ < 0) return libvirt_error("register monitor events", "libvirt");
  return {};
}

void Hypervisor::on_lifecycle(virConnectPtr, virDomainPtr domain, int event, int detail, void* self) {
  static_cast<Hypervisor*>(self)->handlers_.lifecycle(virDomainGetName(domain), event, detail);
}

void Hypervisor::on_io_error(virConnectPtr, virDomainPtr domain, const char* file, const char*, int action,
                             const char* reason, void* self) {
  const std::string where = file && *file ? file : "its disk";
  if (action != VIR_DOMAIN_EVENT_IO_ERROR_PAUSE) {
    log_error("I/O error of a guest's disk", {{"domain", virDomainGetName(domain)}, {"file", where}});
    return;
  }
  const bool full = reason && std::string_view(reason) == "enospc";
  static_cast<Hypervisor*>(self)->handlers_.stopped(
      virDomainGetName(domain), full ? "no space on the host's state disk for " + where : "an I/O error of " + where);
}

void Hypervisor::on_block_job(virConnectPtr, virDomainPtr domain, const char* disk, int, int status, void* self) {
  static_cast<Hypervisor*>(self)->events_.publish(virDomainGetName(domain), {"block job", disk, status, 0});
}

void Hypervisor::on_monitor(virConnectPtr, virDomainPtr domain, const char* event, long long seconds, unsigned micros,
                            const char* details, void* self) {
  MonitorEvent out{event, "", 0, seconds * 1'000'000 + micros};
  const auto json = nlohmann::json::parse(details ? details : "", nullptr, false);
  if (json.is_object()) out.detail = json.value("status", "");
  static_cast<Hypervisor*>(self)->events_.publish(virDomainGetName(domain), std::move(out));
}

Result<DomainHandle> Hypervisor::find(const std::string& name) const {
  DomainHandle domain(virDomainLookupByName(connection_.get(), name.c_str()));
  if (!domain) return libvirt_error("find domain", name);
  return domain;
}

std::string Hypervisor::libvirt_version() const {
  unsigned long version = 0;
  if (virConnectGetLibVersion(connection_.get(), &version) < 0) return "unknown";
  return fmt::format("{}.{}.{}", version / 1'000'000, version / 1000 % 1000, version % 1000);
}

}  // namespace stillpoint::node
