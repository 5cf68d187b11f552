// libvirt starts each QEMU as a daemon, whose parent is then the machine's init, and takes it as gone only when that
// parent has reaped it. An init that is slow at that (2 s were seen), or in a container none at all, makes every
// destroy slow or fail. So this process becomes the parent of its orphans (a subreaper) and reaps them at once. Its
// own children, which somebody waits for, it leaves alone. When this process ends, its QEMUs go to init as ever.
//
// Takes the process's SIGCHLD handler; one per process, from construction to destruction. Own thread.
#pragma once

#include <signal.h>

#include <atomic>
#include <thread>

namespace stillpoint::node {

class OrphanReaper {
 public:
  OrphanReaper();
  ~OrphanReaper();
  OrphanReaper(const OrphanReaper&) = delete;
  OrphanReaper& operator=(const OrphanReaper&) = delete;

 private:
  void run();
  struct sigaction previous_ {};
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace stillpoint::node
