// What keeps a job from being checkpointed, found before its gates shut: each check looks at one process of the job.
//
// A check says what is wrong and what to do about it, or nothing. Table-driven: checks.cpp has the rows, each in a file
// of its own. Pure but for what they read through Proc, so they are tested against made-up process trees.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "mpi-hooks/agent/proc.h"
#include "mpi-hooks/agent/sockets.h"

namespace stillpoint::agent {

// One process of the job.
struct Subject {
  const Proc& proc;
  pid_t pid = 0;
  bool linked = false;              // its hook library speaks with the agent
  std::string transport;            // as the library said; empty: not known
  std::vector<std::string> mapped;  // not read of linked processes, which have libmpi and the library
  std::vector<std::string> open;
  const OutsideSockets& outside;
};

using Finding = std::optional<std::string>;
Finding static_mpi(const Subject& process);
Finding other_mpi(const Subject& process);
Finding hooks_missing(const Subject& process);
Finding transport(const Subject& process);
Finding rdma_device(const Subject& process);
Finding outside_connection(const Subject& process);

// The first finding of the table's rows.
Finding examine(const Subject& process);

// Whether a file of the list has this name, up to its version: libmpi.so.40 for "libmpi.so".
const std::string* find_library(const std::vector<std::string>& files, std::string_view name);

}  // namespace stillpoint::agent
