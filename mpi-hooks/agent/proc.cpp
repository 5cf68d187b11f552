#include "mpi-hooks/agent/proc.h"

#include <dirent.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string_view>

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

// Calls each(descriptor, what it refers to) for every open file.
template <class Each>
void Proc::for_open_files(pid_t pid, Each each) const {
  const std::string directory = of(pid) + "/fd";
  const std::unique_ptr<DIR, int (*)(DIR*)> listing(::opendir(directory.c_str()), &::closedir);
  std::array<char, 4096> target;
  while (const dirent* entry = listing ? ::readdir(listing.get()) : nullptr) {
    const ssize_t length = ::readlinkat(::dirfd(listing.get()), entry->d_name, target.data(), target.size());
    if (length > 0) each(std::atoi(entry->d_name), std::string_view(target.data(), static_cast<std::size_t>(length)));
  }
}

std::vector<std::string> Proc::open_files(pid_t pid) const {
  std::vector<std::string> files;
  for_open_files(pid, [&](int, std::string_view target) { files.emplace_back(target); });
  return files;
}

std::vector<std::pair<int, std::uint64_t>> Proc::sockets(pid_t pid) const {
  constexpr std::string_view kSocket = "socket:[";
  std::vector<std::pair<int, std::uint64_t>> sockets;
  for_open_files(pid, [&](int fd, std::string_view target) {
    if (!target.starts_with(kSocket)) return;
    target.remove_prefix(kSocket.size());
    std::uint64_t inode = 0;
    std::from_chars(target.begin(), target.end(), inode);
    sockets.emplace_back(fd, inode);
  });
  return sockets;
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

std::optional<unsigned> Proc::rank(pid_t pid) const {
  constexpr std::string_view kName = "PMIX_RANK=";
  std::ifstream environment(of(pid) + "/environ");
  for (std::string variable; std::getline(environment, variable, '\0');) {
    unsigned number = 0;
    if (variable.starts_with(kName) &&
        std::from_chars(variable.data() + kName.size(), variable.data() + variable.size(), number).ec == std::errc())
      return number;
  }
  return std::nullopt;
}

}  // namespace stillpoint::agent
