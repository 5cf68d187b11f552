// The host's lease, watched over from inside the guest. The node daemon destroys its gangs when the lease of its host
// ends; one that is dead or stands still cannot, while the coordinator waits the lease out and brings the job back
// elsewhere. So each word of the daemon says how long the lease lasts at least, the agent counts from when the word
// came, and when nothing more was heard by the end the job's processes stand still; a moment later the guest is off.
// Pure: time is an argument, effects (freezer, power) are the agent's. One owner.
//
// What must never happen:
//  - A guest ends whose daemon is well. Time is the guest's CLOCK_MONOTONIC, which stands still while the machine does
//    (paused for a capture, for want of room on a disk), as the words do. What is frozen for a checkpoint harms nobody
//    and is left alone however long that takes. To stand still can be taken back, and only that is done at once: a word
//    that was late, of a host that had no time for its guests, has the job go on as if nothing had been.
//  - A restored guest counts what was said to the captured one. The words of before are forgotten when it takes its new
//    incarnation; until then its processes are frozen.
//  - A guest ends whose daemon does not know that it watches, and says nothing by itself: one that still makes the gang,
//    or was started again and has missed the hello. So a heartbeat of the lease begins it, which only daemons send that
//    know, or the adoption, which has a hello behind it; all else prolongs it. And when half of it is over without a
//    word, the agent says hello again.
#pragma once

#include "mpi-hooks/agent/clock.h"

namespace stillpoint::agent {

// Between the end of the lease and the end of the guest, for a word that is on its way. The job stands still by then;
// only what the guest's kernel still has to write to a network file system is written meanwhile.
inline constexpr Millis kLeaseGrace = 3'000;

class Lease {
 public:
  // A heartbeat of it: the lease lasts for so long. 0: it says nothing. True: the job's processes stood still for the
  // lease's end, and go on.
  bool word(Millis left, Millis now);
  // The same, said beside something else: no lease begins by it.
  bool prolong(Millis left, Millis now);
  // No lease until the next word. True as for word().
  bool forget();

  enum class Due { nothing, stand_still, power_off };
  // frozen: the job's processes stand still for a checkpoint anyway.
  Due due(bool frozen, Millis now);
  // When due() has something to say next.
  Millis deadline(bool frozen) const;
  bool ended() const { return off_at_ != kNever; }
  // From then on the agent asks for a word.
  Millis asks_at() const { return asks_at_; }

 private:
  bool go_on();

  Millis until_ = kNever;   // kNever: none
  Millis off_at_ = kNever;  // kNever: it has not ended
  Millis asks_at_ = kNever;
};

}  // namespace stillpoint::agent
