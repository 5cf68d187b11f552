#include "mpi-hooks/agent/proc.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace stillpoint::agent {

std::vector<std::string> Proc::mapped_files(pid_t pid) const {
  std::ifstream maps(of(pid) + "/maps");
  std::vector<std::string> files;
  for (std::string line; std::getline(maps, line);) {
    const std::size_t path = line.find('/');
    if (path == line.npos) continue;
    std::string file = line.substr(path);
    if (std::find(files.begin(), files.end(), file) == files.end()) files.push_back(std::move(file));
  }
  return files;
}

std::vector<std::string> Proc::open_files(pid_t pid) const {
  std::vector<std::string> files;
  std::error_code none;
  for (std::filesystem::directory_iterator at(of(pid) + "/fd", none), end; !none && at != end; at.increment(none)) {
    std::error_code gone;
    auto target = std::filesystem::read_symlink(at->path(), gone);
    if (!gone) files.push_back(target.string());
  }
  return files;
}

std::string Proc::name(pid_t pid) const {
  std::ifstream comm(of(pid) + "/comm");
  std::string name;
  std::getline(comm, name);
  return name;
}

char Proc::state(pid_t pid) const {
  std::ifstream stat(of(pid) + "/stat");
  std::string line;
  std::getline(stat, line);
  // The name before it is in brackets and may contain any of these.
  const std::size_t end = line.rfind(')');
  return end != line.npos && end + 2 < line.size() ? line[end + 2] : '\0';
}

}  // namespace stillpoint::agent
