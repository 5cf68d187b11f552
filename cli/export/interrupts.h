// While it lives, SIGINT, SIGTERM and SIGHUP are only noted, so that what was begun can be taken back. One at a time.
#pragma once

#include <signal.h>

#include <array>
#include <optional>

#include "common/result.h"

namespace stillpoint::cli {

class Interrupts {
 public:
  Interrupts();
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;
  ~Interrupts();

  // refused once a signal has come.
  Status check() const;

 private:
  std::array<struct sigaction, 3> before_{};
};

}  // namespace stillpoint::cli
