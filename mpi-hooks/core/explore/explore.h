// What scenarios are written with, and what runs them.
//
// A scenario is a function; while it runs it may begin threads, and all of them are explored: who goes on when, what a
// load returns, when a time-out comes. It ends by waiting for them. What its threads share lives on the heap or in
// static storage (a thread's own stack is not watched for races). What it only looks at from above, without taking
// part, is a Ghost. Scenarios and what they include are compiled for the machine (machine.h); this header too.
//
// A scenario must do the same whenever it is run with the same choices: no real time, no real descriptor, no random
// number, nothing that stays from the history before.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "mpi-hooks/core/rank_link.h"

namespace stillpoint::hooks::explore {

// --- inside a scenario ---

// A thread of the program; it has begun when this returns, and its number is returned.
unsigned begin(const char* name, std::function<void()> body);
// One that may still be waiting when all others have ended: it is left where it stands.
unsigned begin_for_ever(const char* name, std::function<void()> body);
void wait_for(unsigned thread);
// Ends the history as a failed one.
void require(bool holds, const char* what);
// Another thread may go on here: for the inside of something long, such as a call of MPI.
void pause();
// Time passes when everybody waits: all that can happen without this thread mostly happens before this is over.
void sleep_ns(std::int64_t duration);
// Waits for a state of the scenario's own, which must be made of Ghosts.
void wait_until(const char* what, const std::function<bool()>& condition);

// A number that tells what is so, exactly and at once, whoever asks: the machine does not see it.
class Ghost {
 public:
  [[gnu::noinline]] int get() const noexcept;
  [[gnu::noinline]] void set(int value) noexcept;
  [[gnu::noinline]] int add(int value) noexcept;  // the new value

 private:
  int value_ = 0;
};

// The other end of a helper's link, and the place where it is found. One at a time; empty at the beginning of a
// history.
class Agent {
 public:
  static constexpr char kPath[] = "/agent";
  Agent();
  ~Agent();
  Agent(const Agent&) = delete;
  Agent& operator=(const Agent&) = delete;
  void accept();  // waits for the helper to connect
  void send(const RankPacket& packet);
  void send(RankMessage message, std::uint64_t epoch);
  RankPacket receive();  // waits; the helper must not have hung up
  // Until one of this kind: what came before it is passed over.
  RankPacket await(RankMessage message);
  void hang_up();
  void go_away();  // and nobody listens any more
};

// --- outside ---

struct Outcome {
  std::uint64_t histories = 0, steps = 0;
  double seconds = 0;
  bool all = false;     // every history within the bounds was seen
  std::string failure;  // empty: none
};

struct Limits {
  std::uint64_t histories = ~std::uint64_t{0};
  double seconds = 1e9;
};

// Every history with at most so many preemptions and oddities (choices.h), up to the limits.
Outcome explore_all(void (*scenario)(), unsigned preemptions, unsigned oddities, Limits limits);
// Histories of the seeds from this one on. A failure names its seed.
Outcome explore_seeds(void (*scenario)(), std::uint64_t seed, Limits limits);

}  // namespace stillpoint::hooks::explore
