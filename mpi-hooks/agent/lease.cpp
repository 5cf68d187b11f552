#include "mpi-hooks/agent/lease.h"

#include <utility>

namespace stillpoint::agent {

bool Lease::go_on() { return std::exchange(off_at_, kNever) != kNever; }

bool Lease::word(Millis left, Millis now) {
  if (left <= 0) return false;
  until_ = now + left;
  asks_at_ = now + left / 2;
  return go_on();
}

bool Lease::prolong(Millis left, Millis now) { return until_ != kNever && word(left, now); }

bool Lease::forget() {
  until_ = asks_at_ = kNever;
  return go_on();
}

Lease::Due Lease::due(bool frozen, Millis now) {
  if (now < deadline(frozen)) return Due::nothing;
  if (ended()) return Due::power_off;
  off_at_ = now + kLeaseGrace;
  return Due::stand_still;
}

Millis Lease::deadline(bool frozen) const {
  if (frozen) return kNever;
  return ended() ? off_at_ : until_;
}

}  // namespace stillpoint::agent
