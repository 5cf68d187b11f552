#include "mpi-hooks/core/explore/explore.h"

#include <chrono>

#include "mpi-hooks/core/explore/machine.h"

namespace stillpoint::hooks::explore {

void reset_system();  // system.cpp

namespace {

Machine& machine() {
  static Machine one;
  return one;
}

Outcome run_all(void (*scenario)(), Choices& choices, Limits limits, const std::function<std::string()>& which) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point began = Clock::now();
  const std::uint64_t steps_before = machine().steps();
  Outcome outcome;
  const auto seconds = [&] { return std::chrono::duration<double>(Clock::now() - began).count(); };
  do {
    reset_system();
    outcome.failure = machine().run(choices, scenario);
    outcome.histories++;
    if (!outcome.failure.empty()) outcome.failure = which() + ": " + outcome.failure;
    else if (!choices.again()) outcome.all = true;
  } while (outcome.failure.empty() && !outcome.all && outcome.histories < limits.histories &&
           ((outcome.histories & 63) != 0 || seconds() < limits.seconds));
  outcome.steps = machine().steps() - steps_before;
  outcome.seconds = seconds();
  return outcome;
}

}  // namespace

Outcome explore_all(void (*scenario)(), unsigned preemptions, unsigned oddities, Limits limits) {
  Every choices(preemptions, oddities);
  return run_all(scenario, choices, limits, [] { return std::string("in order"); });
}

Outcome explore_seeds(void (*scenario)(), std::uint64_t seed, Limits limits) {
  Seeded choices(seed);
  return run_all(scenario, choices, limits, [&] { return "seed " + std::to_string(choices.seed()); });
}

unsigned begin(const char* name, std::function<void()> body) {
  Machine& m = machine();
  Machine::Inside inside(m);
  m.memory.commit(m.current());
  return m.begin_thread(name, std::move(body));
}

unsigned begin_for_ever(const char* name, std::function<void()> body) {
  const unsigned thread = begin(name, std::move(body));
  machine().need_not_end(thread);
  return thread;
}

void wait_for(unsigned thread) {
  Machine::Inside inside(machine());
  machine().wait_for_end(thread);
}

void require(bool holds, const char* what) {
  if (holds) return;
  Machine::Inside inside(machine());
  machine().fail(what);
}

void pause() {
  Machine::Inside inside(machine());
  machine().point();
}

void sleep_ns(std::int64_t duration) {
  Machine::Inside inside(machine());
  machine().memory.commit(machine().current());
  machine().wait("time to pass", machine().now_ns() + duration, [] { return false; });
}

void wait_until(const char* what, const std::function<bool()>& condition) {
  Machine::Inside inside(machine());
  machine().memory.commit(machine().current());
  machine().wait(what, -1, condition);
}

int Ghost::get() const noexcept { return value_; }
void Ghost::set(int value) noexcept { value_ = value; }
int Ghost::add(int value) noexcept { return value_ += value; }

}  // namespace stillpoint::hooks::explore
