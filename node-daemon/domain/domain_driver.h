// Runs, captures and restores the VMs of one host. The libvirt driver is the real one; the fake one, for tests, does
// what a script says.
//
// Threads: calls block (libvirt, QEMU, disks) and come from workers, at most one at a time per domain; different
// domains run side by side. The event handler is called from a thread of the driver's own and must only post.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/fd.h"
#include "common/ids.h"
#include "common/result.h"

namespace stillpoint::node {

// Which VM: one guest of one incarnation of a job.
struct DomainId {
  JobId job;
  Incarnation incarnation;
  GuestIndex guest;
  auto operator<=>(const DomainId&) const = default;
};
std::string to_string(const DomainId& id);  // "j7/2/guest-0", for people

struct DomainSpec {
  DomainId id;
  std::uint32_t vcpus = 1;
  std::uint64_t memory_bytes = 0;
  std::string kernel, initramfs;  // direct kernel boot
  std::string base_image;         // read-only squashfs or user's image, shared by the host's guests
  std::filesystem::path disk;     // the active writable layer (qcow2)
  std::string mac;
  std::string bridge;  // where its tap goes
  JobId known_as;      // of a restore: the job that the captured machine was first made for; empty: id's
};

enum class Accelerator { kvm, tcg };
// For machines that pre-copy, which is tried first, does not suit (capture.h); where a setting forces it, for all.
enum class CaptureMode { background_snapshot, paused_save };
// "kvm", "tcg"; "background-snapshot", "paused-save": as in HostHello.
std::string_view name(Accelerator accelerator);
std::string_view name(CaptureMode mode);

// What the driver found out about this host when it started, with the reasons for doctor and hosts.
struct DriverProbe {
  Accelerator accelerator = Accelerator::tcg;
  std::string accelerator_reason;
  CaptureMode capture_mode = CaptureMode::paused_save;
  std::string capture_reason;
  std::string libvirt_version, qemu_version;
};

// Takes the memory stream while QEMU writes it. write() blocks; an error ends the capture with that error.
class MemorySink {
 public:
  virtual ~MemorySink() = default;
  virtual Status write(std::string_view bytes) = 0;
  // What came so far does not count: the stream begins anew. Errors as write()'s.
  virtual Status restart() = 0;
};
// Gives the memory stream to a restore. An empty result is the end.
class MemorySource {
 public:
  virtual ~MemorySource() = default;
  virtual Result<std::string> read() = 0;
};

struct CaptureTimes {
  double pause_ms = 0;    // QEMU's STOP to RESUME
  double capture_ms = 0;  // the instant's permission to state captured
};

// How a capture meets its instant. Called from the capturing thread; must not call the driver.
class CaptureTurn {
 public:
  virtual ~CaptureTurn() = default;
  // All that can be done while the machine works is done. Blocks until the instant may come; an error gives the capture
  // up, which then fails with it.
  virtual Status await_instant() = 0;
  // The instant has passed: the machine's state is captured, and it may go on. Once.
  virtual void captured(CaptureTimes times) = 0;
};
// The instant may come at any time.
class CaptureNow : public CaptureTurn {
 public:
  explicit CaptureNow(std::function<void(CaptureTimes)> captured = {}) : captured_(std::move(captured)) {}
  Status await_instant() override { return {}; }
  void captured(CaptureTimes times) override {
    if (captured_) captured_(times);
  }

 private:
  const std::function<void(CaptureTimes)> captured_;
};

struct DomainEvent {
  DomainId id;
  // paused: it stands still and does not go on by itself, carry_on() excepted; the others: it is gone.
  enum class Kind { stopped, crashed, paused } kind = Kind::stopped;
  std::string reason;
};

class DomainDriver {
 public:
  virtual ~DomainDriver() = default;

  virtual const DriverProbe& probe() const = 0;
  // Before anything else; the domains' ends are reported through it, those that destroy() made excepted, and those that
  // QEMU stopped because a disk's file could not be written, or that a capture left paused.
  virtual void on_event(std::function<void(DomainEvent)> handler) = 0;

  // Domains of Stillpoint that run here, whoever started them; a capture that an earlier daemon left half done has
  // been cancelled and QEMU's capability is off.
  virtual Result<std::vector<DomainId>> running() = 0;

  virtual Status start(const DomainSpec& spec) = 0;

  // At one instant, after turn.await_instant(): memory and devices into sink, and the disk goes on in new_layer (made
  // by this call, backed by the layer that was active, which is immutable from here on). Memory may be read before the
  // instant, and the sink told to begin anew. The stream goes on until this call returns, with everything written and
  // sink still the caller's. On failure the domain runs on as if nothing had happened; a new layer that was taken up
  // stays. Whatever happens, QEMU's background-snapshot capability is off when this returns.
  virtual Status capture(const DomainId& id, const std::filesystem::path& new_layer, MemorySink& sink,
                         CaptureTurn& turn) = 0;

  // The description that a restored domain must match (name, UUID, machine type, MAC, CPU model).
  virtual Result<std::string> describe(const DomainId& id) = 0;

  // A domain from an image: loaded completely, paused. spec names the new incarnation, disk and bridge; domain_xml is
  // describe()'s of the captured one. On failure nothing is left of it. damaged: the source said so, or QEMU refused
  // the stream; a QEMU that died meanwhile condemns no image.
  virtual Status restore(const DomainSpec& spec, const std::string& domain_xml, MemorySource& source) = 0;
  // A paused, restored domain goes on, and announces its addresses. One that runs already only announces them.
  virtual Status resume(const DomainId& id) = 0;

  // A domain that was reported as paused goes on, and does again what failed. One that runs is left alone.
  virtual Status carry_on(const DomainId& id) = 0;

  // Shortens the chain below the active layer to one file while the domain runs; never during a capture. The files
  // that are no longer used are deleted.
  virtual Status flatten_disk(const DomainId& id) = 0;
  // The chain of files that the active layer rests on, active first.
  virtual Result<std::vector<std::filesystem::path>> disk_chain(const DomainId& id) = 0;

  // Gone when it returns; no event. A domain that is not there is done already.
  virtual Status destroy(const DomainId& id) = 0;

  // Connected stream to the guest's agent (the host side of its virtio-serial port), non-blocking.
  virtual Result<Fd> open_guest_link(const DomainId& id) = 0;
};

}  // namespace stillpoint::node
