#include "cli/follow.h"

#include <thread>

namespace stillpoint::cli {

bool is_over(std::string_view state) { return state == "completed" || state == "failed" || state == "stopped"; }

void Patience::answered() {
  if (away_) note(context_, "the coordinator is back");
  answered_ = true;
  away_ = false;
}

bool Patience::try_again(const Failure& failure) {
  if (!answered_ || failure.exit_code != kNoCoordinator) return false;
  const auto now = std::chrono::steady_clock::now();
  if (!away_) {
    note(context_, "the coordinator went away; waiting for it to come back");
    away_ = true;
    since_ = now;
  }
  if (now - since_ >= limit_) return false;
  // A pause between tries, bounded by limit_; nothing would tell that the socket is answered again.
  std::this_thread::sleep_for(std::chrono::milliseconds(250));
  return true;
}

}  // namespace stillpoint::cli
