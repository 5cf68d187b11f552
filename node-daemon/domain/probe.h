// What this host can do, found out once when the driver starts. The rules are pure; the facts come from the host.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "node-daemon/domain/domain_driver.h"
#include "node-daemon/domain/virt.h"

namespace stillpoint::node {

struct CpuFacts {
  bool kvm_device = false;   // /dev/kvm is there
  bool virtualises = false;  // the CPU's flags have vmx or svm
};
CpuFacts read_cpu_facts(const std::filesystem::path& cpuinfo = "/proc/cpuinfo",
                        const std::filesystem::path& kvm = "/dev/kvm");

template <class T>
struct Choice {
  T value;
  std::string reason;
};
// /dev/kvm alone proves nothing, and neither does libvirt's list: where the CPU itself does not virtualise, guests
// hang in their first instructions under KVM.
Choice<Accelerator> choose_accelerator(const CpuFacts& facts, std::optional<Accelerator> forced);

// What is done with machines that pre-copy does not suit; with all, where it is forced. usable:
// QemuFacts::background_snapshot.
Choice<CaptureMode> choose_capture_mode(const Status& usable, std::optional<CaptureMode> forced);

// What a machine without disks, started paused and gone when this returns, says: which QEMU it is, and whether it takes
// the background-snapshot capability. QEMU tries userfaultfd for that, with exactly the rights that it will have later.
struct QemuFacts {
  std::string version = "unknown";
  Status background_snapshot;
};
QemuFacts ask_qemu(virConnectPtr connection, Accelerator accelerator);
inline constexpr const char* kProbeDomain = "stillpoint-probe";

}  // namespace stillpoint::node
