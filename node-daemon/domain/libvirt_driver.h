// The real DomainDriver: QEMU through libvirt. One per process (hypervisor.h says why). Threads as DomainDriver says.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>

#include "node-daemon/domain/domain_driver.h"

namespace stillpoint::node {

struct LibvirtSettings {
  enum class Instance { embed, system };
  Instance instance = Instance::embed;
  // embed: libvirt's own tree, the sockets and console logs; system: the sockets and logs alone. At most 51 bytes.
  std::filesystem::path root;
  std::optional<Accelerator> accelerator;   // instead of what the host's facts say
  std::optional<CaptureMode> capture_mode;  // instead of what the probe says
  std::string cpu_model = "Nehalem";        // of new machines; the common baseline of all hosts. TCG has all of it
};

// STILLPOINT_ACCELERATOR=kvm|tcg, STILLPOINT_CAPTURE=background-snapshot|paused-save, STILLPOINT_CPU_MODEL=NAME, where
// they are set. Another value is an error.
Status settings_from_environment(LibvirtSettings& settings);

Result<std::unique_ptr<DomainDriver>> open_libvirt_driver(const LibvirtSettings& settings);

}  // namespace stillpoint::node
