// The virtio-serial port of a given name. There is no udev in the guest that would link it under /dev/virtio-ports.
#pragma once

#include <string>

namespace stillpoint::agent {

inline constexpr char kPortName[] = "stillpoint.0";

// "/dev/vport1p1", or empty while the machine has no such port.
std::string find_port(const std::string& name);

}  // namespace stillpoint::agent
