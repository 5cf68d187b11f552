// Rules of the hold: the time between the shutting of the gates for an epoch and the job's going on. Pure: time is an
// argument, effects (gates, freezer) are the agent's. One owner.
//
// What must never happen:
//  - A guest lets go, and the coordinator believes that the cut still stands. So an epoch that was let go before its
//    release is *lost* for good: every later request about it is answered with EPOCH_LOST, its release with held=false.
//  - A restored guest runs on by itself, as the incarnation that was captured, because its hold ran out. The deadline
//    is on the guest's monotonic clock, which stands still while the state lies in an image, so it may run out soon
//    after a restore. A frozen guest therefore lets go by itself only if it can tell that it is the one that was
//    frozen: the host's real-time clock has not run ahead of the guest's monotonic one since (it has, by the time that
//    the image was stored), and the link to the node daemon has not been opened anew. Otherwise it stays frozen and
//    says hello each second: there is, or will be, a daemon that adopts, releases or destroys it.
//  - An order that was overtaken opens what a later one has shut. The orders of an epoch are numbered (GuestRequest's
//    step), and one that comes behind a later one is refused. What has no number passes: older coordinators give none.
#pragma once

#include <cstdint>
#include <optional>

#include "mpi-hooks/agent/clock.h"
#include "mpi-hooks/agent/outcome.h"

namespace stillpoint::agent {

// Seconds by which the host's clock may drift from the guest's during a hold without a restore behind it. A pause of
// this length is a capture that stopped the machine: its daemon is there and will speak.
inline constexpr std::int64_t kMaxClockSkewSeconds = 2;

class Hold {
 public:
  bool held() const { return epoch_ != 0; }
  std::uint64_t epoch() const { return epoch_; }
  bool frozen() const { return frozen_; }
  Millis deadline() const { return held() ? deadline_ : kNever; }

  // First, of every request: whether it was overtaken. step 0: not numbered.
  std::optional<wire::Failure> overtaken(std::uint64_t epoch, std::uint64_t step);
  // CloseGates, or the FreezeRanks of the control: the hold of epoch begins, or goes on. A newer epoch takes over from
  // an older one, which is lost by that.
  std::optional<wire::Failure> begin(std::uint64_t epoch, Millis hold_ms, Millis now);
  // Any later request of the hold: it must be held at this epoch. Puts the deadline off.
  std::optional<wire::Failure> require(std::uint64_t epoch, Millis now);
  // skew: seconds that the host's clock is ahead of the guest's monotonic clock, where it can be read.
  void froze(std::optional<std::int64_t> skew);
  void thawed() { frozen_ = false; }
  void link_opened() { link_reopened_ = true; }
  void extend(Millis now) { deadline_ = now + hold_ms_; }

  // The deadline has passed: whether to let go (true), or to stay (false; the deadline is put off).
  bool lets_go(std::optional<std::int64_t> skew, Millis now);
  // The agent let go by itself: the epoch is lost.
  void lost();
  // ReleaseRanks of epoch: whether the cut stood until now. Asked again, it answers the same.
  bool release(std::uint64_t epoch);

 private:
  std::uint64_t epoch_ = 0;  // 0: not held
  Millis hold_ms_ = 0;
  Millis deadline_ = kNever;
  bool frozen_ = false;
  bool link_reopened_ = false;  // since it froze
  std::optional<std::int64_t> skew_;
  std::uint64_t lost_up_to_ = 0;
  std::uint64_t released_ = 0;  // the last epoch that was released while held
  std::uint64_t stepped_ = 0;   // the newest epoch of which an order was numbered
  std::uint64_t step_ = 0;      // the highest of its numbers
};

}  // namespace stillpoint::agent
