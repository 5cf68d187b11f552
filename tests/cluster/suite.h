// The programs of programs/ on the cluster: how they are started, what they compute by themselves, which processes they
// are. One thread; everything FAILs the test where it cannot be done.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "tests/cluster/cluster.h"

namespace stillpoint::cluster {

inline constexpr milliseconds kLong{60'000};

std::uint32_t number_from(const char* variable, std::uint32_t otherwise);

struct Program {
  std::string name;
  std::vector<std::string> arguments = {};
  // A checkpoint may meet a call that must be over first, and then gives up; the next one has better luck.
  bool defers = false;
  // What Open MPI itself says where it ends such a program now and then, checkpoints or not: then it is run again.
  std::string flaw = {};
  // What it does depends on which ranks share a guest.
  bool by_guest = false;
  // The command where it is not ./name ROUNDS ARGUMENTS; the rounds follow it.
  std::vector<std::string> command = {};
  std::vector<std::string> files = {};  // that it needs beside itself, of the build's tests/cluster
};

// Four ranks on two guests. rounds "0": until there is a file "stop" in rank 0's directory.
JobText job(const Program& program, const std::string& rounds);
// "rounds N checksum X", from what it printed.
std::string result(Cluster& cluster);
// The same without any checkpoint, on one guest where messages take less time: the program computes the same wherever
// its ranks are.
std::string undisturbed(const Program& program, const std::string& rounds);

std::string text_of(const std::filesystem::path& path);
// The processes of the program itself in a guest.
std::vector<pid_t> ranks_of(Cluster& cluster, unsigned guest, const std::string& program);
std::string rank_number(pid_t pid);

// A program under way on two guests: its first round is over when the constructor returns.
class Run {
 public:
  explicit Run(Program program);

  Cluster& cluster() { return *cluster_; }
  // A file of that name in every guest's directory; and until the program has printed the answer.
  void tell(const std::string& what);
  void tell_and_wait(const std::string& what, const std::string& answer);
  // A checkpoint now comes to its end.
  void is_quiet();
  // It stops, and has computed what it computes by itself. Nothing of it is left.
  void ends_as_undisturbed();

 private:
  Program program_;
  std::unique_ptr<Cluster> cluster_;
};

}  // namespace stillpoint::cluster
