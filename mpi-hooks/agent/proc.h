// What the kernel tells about a process in /proc. A process that is gone, or that may not be looked into, has nothing.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace stillpoint::agent {

class Proc {
 public:
  explicit Proc(std::string root = "/proc") : root_(std::move(root)) {}

  // Of the files mapped into it, each once, in the order of their addresses.
  std::vector<std::string> mapped_files(pid_t pid) const;
  // What its descriptors refer to: "/dev/null", "socket:[4711]".
  std::vector<std::string> open_files(pid_t pid) const;
  // Its sockets: descriptor and inode.
  std::vector<std::pair<int, std::uint64_t>> sockets(pid_t pid) const;
  std::string name(pid_t pid) const;
  // The state's letter: R, S, D, T (stopped by a signal), …; 0: no such process.
  char state(pid_t pid) const;
  // The number that mpirun gave to the rank that this process is, or comes from; nothing: none.
  std::optional<unsigned> rank(pid_t pid) const;
  // To be opened: the program's file, also when its name is gone.
  std::string executable(pid_t pid) const { return of(pid) + "/exe"; }

 private:
  template <class Each>
  void for_open_files(pid_t pid, Each each) const;
  std::string of(pid_t pid) const { return root_ + "/" + std::to_string(pid); }
  std::string root_;
};

}  // namespace stillpoint::agent
