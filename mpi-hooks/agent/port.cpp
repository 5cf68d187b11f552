#include "mpi-hooks/agent/port.h"

#include <filesystem>
#include <fstream>

namespace stillpoint::agent {

std::string find_port(const std::string& name) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/sys/class/virtio-ports", error)) {
    std::ifstream file(entry.path() / "name");
    std::string its_name;
    if (std::getline(file, its_name) && its_name == name) return "/dev/" + entry.path().filename().string();
  }
  return {};
}

}  // namespace stillpoint::agent
