// The connection to libvirt's QEMU driver, the thread that its events come from, and who hears them.
//
// At most one Hypervisor in a process: libvirt's event loop is process-wide, and so is the root of an embedded driver.
// Machines outlive it; one that opens the same root later finds them running.
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "node-daemon/domain/monitor.h"
#include "node-daemon/domain/orphan_reaper.h"
#include "node-daemon/domain/virt.h"

namespace stillpoint::node {

class Hypervisor {
 public:
  // From the event loop's thread: must not call libvirt, must not block.
  struct Handlers {
    // virDomainEventType and its detail.
    std::function<void(const std::string& domain, int event, int detail)> lifecycle;
    // QEMU has stopped the machine because of an I/O error.
    std::function<void(const std::string& domain, const std::string& reason)> stopped;
  };

  // qemu:///embed?root=ROOT; ROOT is made, and its etc/qemu.conf written. ROOT must be short: QEMU's monitor sockets
  // lie below it, and a socket's path holds 107 bytes.
  static Result<std::unique_ptr<Hypervisor>> open_embedded(const std::filesystem::path& root, Handlers handlers);
  static Result<std::unique_ptr<Hypervisor>> open_system(Handlers handlers);
  ~Hypervisor();

  virConnectPtr connection() const { return connection_.get(); }
  EventHub& events() { return events_; }
  Result<DomainHandle> find(const std::string& name) const;
  std::string libvirt_version() const;

 private:
  explicit Hypervisor(Handlers handlers);
  Status connect(const std::string& uri);
  Status subscribe();
  static void on_lifecycle(virConnectPtr, virDomainPtr domain, int event, int detail, void* self);
  static void on_io_error(virConnectPtr, virDomainPtr domain, const char* file, const char* device, int action,
                          const char* reason, void* self);
  static void on_block_job(virConnectPtr, virDomainPtr domain, const char* disk, int type, int status, void* self);
  static void on_monitor(virConnectPtr, virDomainPtr domain, const char* event, long long seconds, unsigned micros,
                         const char* details, void* self);

  Handlers handlers_;
  std::unique_ptr<OrphanReaper> reaper_;  // embedded only: elsewhere QEMU's are libvirtd's
  EventHub events_;
  std::atomic<bool> stop_{false};
  Connection connection_;
  std::vector<int> event_callbacks_;
  int monitor_callback_ = -1;
  std::thread loop_;  // last: it runs while the rest stands
};

}  // namespace stillpoint::node
