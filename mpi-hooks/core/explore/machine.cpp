#include "mpi-hooks/core/explore/machine.h"

#include <limits.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

extern "C" const char __executable_start;  // the linker's: where this program begins

namespace stillpoint::hooks::explore {
namespace {

Machine* the_running = nullptr;
constexpr std::size_t kToldEvents = 150;

// The place of each of these in this program, as far as addr2line knows: of the calls that were inlined into one
// another the innermost that is ours.
std::map<const void*, std::string> places_of(const std::vector<const void*>& codes) {
  std::map<const void*, std::string> places;
  char self[PATH_MAX] = "", line[1024];
  if (readlink("/proc/self/exe", self, sizeof self - 1) <= 0) return places;
  std::string command = "addr2line -Csipfae '" + std::string(self) + "'";
  for (const void* code : codes) {
    // The call, not what follows it.
    snprintf(line, sizeof line, " 0x%tx", static_cast<const char*>(code) - &__executable_start - 1);
    command += line;
  }
  FILE* lines = popen((command + " 2>&1").c_str(), "r");
  if (lines == nullptr) return places;
  std::size_t next = 0;
  while (fgets(line, sizeof line, lines) != nullptr) {
    std::string place = line;
    if (place.starts_with("0x")) next++;
    if (next == 0 || next > codes.size()) continue;
    std::string& chosen = places[codes[next - 1]];
    if (!chosen.empty() && chosen.find(" at atomic") == chosen.npos) continue;
    place.erase(0, place.starts_with("0x") ? place.find(": ") + 2 : place.find("by) ") + 4);
    if (const std::size_t name = place.rfind("stillpoint::hooks::", place.find('(')); name == 0) place.erase(0, 19);
    place.erase(place.find_last_not_of('\n') + 1);
    chosen = place;
  }
  pclose(lines);
  return places;
}

}  // namespace

Machine::Machine() : memory([this](unsigned options) { return choices_->choose(options, Choice::oddity); }) {}
Machine::~Machine() = default;

Machine* Machine::of_caller() noexcept {
  return the_running != nullptr && !the_running->inside_ ? the_running : nullptr;
}
Machine* Machine::running() noexcept { return the_running; }

std::string Machine::run(Choices& choices, const std::function<void()>& first) {
  choices_ = &choices;
  memory.reset();
  used_ = current_ = 0;
  now_ns_ = 1'000'000'000;
  steps_ = 0;
  failure_.clear();
  events_.clear();
  inside_ = true;
  the_running = this;
  begin_thread("main", first);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&outside_fake_stack_, fibres_[0]->stack.get(), kStackSize);
#endif
  swapcontext(&outside_, &fibres_[0]->context);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(outside_fake_stack_, nullptr, nullptr);
#endif
  the_running = nullptr;
  all_steps_ += steps_;
  return failure_;
}

unsigned Machine::begin_thread(const char* name, std::function<void()> body) {
  const unsigned thread = used_++;
  if (used_ > kMostThreads) abort();
  if (fibres_.size() < used_) {
    fibres_.push_back(std::make_unique<Fibre>());
    fibres_.back()->stack = std::make_unique<char[]>(kStackSize);
  }
  Fibre& fibre = *fibres_[thread];
  fibre.name = name;
  fibre.body = std::move(body);
  fibre.ended = fibre.timed_out = false;
  fibre.must_end = true;
  fibre.waits_for = nullptr;
  fibre.condition = nullptr;
  fibre.deadline_ns = -1;
  fibre.at_end = {};
  getcontext(&fibre.context);
  fibre.context.uc_stack = {fibre.stack.get(), 0, kStackSize};
  fibre.context.uc_link = nullptr;
  makecontext(&fibre.context, &Machine::entry, 0);
  if (thread != 0) memory.begin_thread(thread, current_);
  return thread;
}

void Machine::entry() noexcept {
  Machine& machine = *the_running;
#ifdef __SANITIZE_ADDRESS__
  const void* from = nullptr;
  std::size_t size = 0;
  __sanitizer_finish_switch_fiber(nullptr, &from, &size);
  if (machine.outside_stack_ == nullptr) machine.outside_stack_ = from, machine.outside_stack_size_ = size;
#endif
  Fibre& me = *machine.fibres_[machine.current_];
  machine.inside_ = false;
  me.body();
  machine.inside_ = true;
  if (machine.memory.puts_off(machine.current_)) machine.point();
  machine.memory.commit(machine.current_);
  machine.memory.release(machine.current_, me.at_end);
  me.ended = true;
  machine.pick_any();
  abort();  // nobody comes back to a thread that has ended
}

void Machine::wait_for_end(unsigned thread) {
  memory.commit(current_);
  wait("the end of another thread", -1, [this, thread] { return fibres_[thread]->ended; });
  memory.acquire(current_, fibres_[thread]->at_end);
}

void Machine::point() {
  if (++steps_ > kMostSteps) fail("it does not come to an end");
  unsigned others[kMostThreads], options = 0;
  others[options++] = current_;
  for (unsigned thread = 0; thread < used_; thread++)
    if (thread != current_ && can_go_on(*fibres_[thread])) others[options++] = thread;
  if (options > 1) switch_to(others[choices_->choose(options, Choice::preemption)]);
}

bool Machine::wait(const char* what, std::int64_t deadline_ns, const std::function<bool()>& condition) {
  if (++steps_ > kMostSteps) fail("it does not come to an end");
  Fibre& me = *fibres_[current_];
  if (condition()) return true;
  if (deadline_ns >= 0 && odd()) {
    now_ns_ = std::max(now_ns_, deadline_ns);
    return false;
  }
  me.waits_for = what;
  me.condition = &condition;
  me.deadline_ns = deadline_ns;
  me.timed_out = false;
  do pick_any();
  while (!me.timed_out && !condition());
  me.condition = nullptr;
  me.waits_for = nullptr;
  return !me.timed_out;
}

// The current thread cannot go on.
void Machine::pick_any() {
  for (;;) {
    unsigned ready[kMostThreads], options = 0;
    for (unsigned thread = 0; thread < used_; thread++)
      if (can_go_on(*fibres_[thread])) ready[options++] = thread;
    if (options != 0) return switch_to(ready[options > 1 ? choices_->choose(options, Choice::next) : 0]);
    if (std::all_of(fibres_.begin(), fibres_.begin() + used_, [](const auto& f) { return f->ended || !f->must_end; }))
      leave_for_good();
    if (pass_time()) return;
    fail("nobody can go on");
  }
}

// Everybody waits: the first deadline comes. False: there is none.
bool Machine::pass_time() {
  if (++steps_ > kMostSteps) fail("it does not come to an end");
  unsigned first = kMostThreads;
  for (unsigned thread = 0; thread < used_; thread++)
    if (const Fibre& fibre = *fibres_[thread];
        !fibre.ended && fibre.deadline_ns >= 0 && fibre.condition != nullptr &&
        (first == kMostThreads || fibre.deadline_ns < fibres_[first]->deadline_ns))
      first = thread;
  if (first == kMostThreads) return false;
  now_ns_ = std::max(now_ns_, fibres_[first]->deadline_ns);
  fibres_[first]->timed_out = true;
  switch_to(first);
  return true;
}

void Machine::switch_to(unsigned thread) {
  if (thread == current_) return;
  Fibre &from = *fibres_[current_], &to = *fibres_[thread];
  current_ = thread;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(from.ended ? nullptr : &from.fake_stack, to.stack.get(), kStackSize);
#endif
  swapcontext(&from.context, &to.context);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
  inside_ = true;
}

void Machine::leave_for_good() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(nullptr, outside_stack_, outside_stack_size_);
#endif
  setcontext(&outside_);
}

void Machine::fail(const char* why) {
  inside_ = true;
  failure_ = told(why);
  leave_for_good();
  abort();
}

void Machine::note(unsigned thread, const char* what, const void* at, std::uint64_t value, const void* code) {
  events_.push_back({thread, what, at, value, code});
}

std::string Machine::told(const std::string& why) const {
  std::string text = why + "\n";
  for (unsigned thread = 0; thread < used_; thread++) {
    const Fibre& fibre = *fibres_[thread];
    text += std::string("  ") + fibre.name +
            (fibre.ended       ? " has ended"
             : fibre.waits_for ? " waits for "
                               : " runs") +
            (fibre.waits_for != nullptr ? fibre.waits_for : "") + "\n";
  }
  const std::size_t first = events_.size() > kToldEvents ? events_.size() - kToldEvents : 0;
  std::vector<const void*> codes;
  for (std::size_t i = first; i < events_.size(); i++) codes.push_back(events_[i].code);
  std::sort(codes.begin(), codes.end());
  codes.erase(std::unique(codes.begin(), codes.end()), codes.end());
  auto places = places_of(codes);
  for (std::size_t i = first; i < events_.size(); i++) {
    const Event& event = events_[i];
    char line[600];
    snprintf(line, sizeof line, "  %-8s %-9s …%04zx %-18llx %s\n", fibres_[event.thread]->name, event.what,
             reinterpret_cast<std::uintptr_t>(event.at) & 0xffff, static_cast<unsigned long long>(event.value),
             places[event.code].c_str());
    text += line;
  }
  return text;
}

}  // namespace stillpoint::hooks::explore
