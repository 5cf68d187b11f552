#include "mpi-hooks/agent/filesystem_freeze.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace stillpoint::agent {

FilesystemFreeze::FilesystemFreeze(const std::string& mount_point)
    : layer_(::open(mount_point.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {}

Done FilesystemFreeze::freeze() {
  if (frozen_ || !layer_) return Nothing{};
  if (::ioctl(layer_.get(), FIFREEZE, 0) != 0 && errno != EBUSY)
    return errno_failure("freeze", "the guest's file system");
  frozen_ = true;
  return Nothing{};
}

Done FilesystemFreeze::thaw() {
  if (!frozen_) return Nothing{};
  if (::ioctl(layer_.get(), FITHAW, 0) != 0 && errno != EINVAL) return errno_failure("thaw", "the guest's file system");
  frozen_ = false;
  return Nothing{};
}

void FilesystemFreeze::begin_sync() const {
  if (!layer_ || frozen_ || ::fork() != 0) return;
  ::syncfs(layer_.get());
  ::_exit(0);
}

}  // namespace stillpoint::agent
