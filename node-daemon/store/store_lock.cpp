#include "node-daemon/store/store_lock.h"

#include <fcntl.h>
#include <sys/file.h>

#include <algorithm>
#include <cerrno>
#include <thread>

namespace stillpoint::node {

Result<Fd> lock_store(const std::filesystem::path& directory, std::chrono::milliseconds patience) {
  const std::filesystem::path path = directory / "lock";
  Fd lock(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!lock) return errno_error("lock store", path.string(), errno);
  const auto end = std::chrono::steady_clock::now() + patience;
  // flock() has no deadline, and nothing tells when a lock of another machine becomes free: it is asked for again.
  for (;;) {
    if (::flock(lock.get(), LOCK_EX | LOCK_NB) == 0) return lock;
    if (errno != EWOULDBLOCK && errno != EINTR) return errno_error("lock store", path.string(), errno);
    const auto left = end - std::chrono::steady_clock::now();
    if (left <= std::chrono::milliseconds(0))
      return Error{ErrorKind::transient, "lock store", path.string(), "another process writes to this store"};
    std::this_thread::sleep_for(std::min<std::chrono::nanoseconds>(left, std::chrono::milliseconds(50)));
  }
}

}  // namespace stillpoint::node
