#include "mpi-hooks/agent/paths.h"

namespace stillpoint::agent {

bool is_plain_relative_path(std::string_view path) {
  if (path.empty() || path.size() >= 4096 || path.find('\0') != path.npos) return false;
  for (;;) {
    const std::size_t slash = path.find('/');
    const std::string_view part = path.substr(0, slash);
    if (part.empty() || part == "." || part == ".." || part.size() > 255) return false;
    if (slash == path.npos) return true;
    path.remove_prefix(slash + 1);
  }
}

}  // namespace stillpoint::agent
