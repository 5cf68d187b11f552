// Freezes the guest's writable file system at the cut: what it holds on disk is then complete without a journal replay.
#pragma once

#include <string>

#include "common/fd.h"
#include "mpi-hooks/agent/outcome.h"

namespace stillpoint::agent {

class FilesystemFreeze {
 public:
  // The mount point of the writable layer; where it is none, nothing is ever frozen.
  explicit FilesystemFreeze(const std::string& mount_point);

  Done freeze();  // idempotent; blocks until everything written is on the disk
  Done thaw();    // idempotent
  bool frozen() const { return frozen_; }
  // Begins writing back what is dirty, in a process of its own, so that freeze() finds little to do.
  void begin_sync() const;

 private:
  Fd layer_;
  bool frozen_ = false;
};

}  // namespace stillpoint::agent
