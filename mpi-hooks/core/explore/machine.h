// One processor that runs the threads of an explored history in turns: fibres, switched at each access to an atomic
// variable and each system call, as a Choices says. With it the Memory that they share, a clock that moves when
// everybody waits, and a record of what was done.
//
// Code is explored by being compiled with -fsanitize=thread and linked with tsan_runtime.cpp instead of the
// sanitizer's own library: the compiler then reports each access, atomic or plain, to this machine. The product's
// sources and headers need no change for it. System calls come here by the linker's --wrap (system.cpp).
#pragma once

#include <ucontext.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "mpi-hooks/core/explore/choices.h"
#include "mpi-hooks/core/explore/memory.h"

namespace stillpoint::hooks::explore {

class Machine {
 public:
  Machine();
  ~Machine();

  // Runs one history; empty, or what went wrong in it, told at length. After a failure the fibres are left as they
  // stand: the process had better end soon.
  std::string run(Choices& choices, const std::function<void()>& first);
  std::uint64_t steps() const noexcept { return all_steps_; }

  // The machine whose history is being run, when the caller is part of it; null elsewhere, as in the machine itself.
  static Machine* of_caller() noexcept;
  static Machine* running() noexcept;

  // --- for the fibres ---

  // While one of these lives the caller is in the machine, and what it does is not explored.
  struct Inside {
    explicit Inside(Machine& m) noexcept : machine(m) { machine.inside_ = true; }
    ~Inside() { machine.inside_ = false; }
    Machine& machine;
  };
  unsigned current() const noexcept { return current_; }
  unsigned begin_thread(const char* name, std::function<void()> body);
  // The history is over when all others have ended.
  void need_not_end(unsigned thread) noexcept { fibres_[thread]->must_end = false; }
  void wait_for_end(unsigned thread);
  // Another thread may go on before what the caller does next.
  void point();
  // Until condition(), which must have no effects. deadline_ns < 0: none. False: the time has come first.
  bool wait(const char* what, std::int64_t deadline_ns, const std::function<bool()>& condition);
  bool odd() { return choices_->choose(2, Choice::oddity) != 0; }
  [[noreturn]] void fail(const char* why);
  // Of the caller's last step, or of another thread's.
  void note(const char* what, const void* at, std::uint64_t value, const void* code) {
    note(current_, what, at, value, code);
  }
  void note(unsigned thread, const char* what, const void* at, std::uint64_t value, const void* code);
  std::int64_t now_ns() noexcept { return now_ns_ += 1000; }

  Memory memory;
  unsigned threads() const noexcept { return used_; }

 private:
  struct Fibre {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    void* fake_stack = nullptr;  // AddressSanitizer's
    const char* name = "";
    std::function<void()> body;
    bool ended = false, must_end = true;
    const char* waits_for = nullptr;
    const std::function<bool()>* condition = nullptr;
    std::int64_t deadline_ns = -1;
    bool timed_out = false;
    Sync at_end;
  };
  struct Event {
    unsigned thread;
    const char* what;
    const void* at;
    std::uint64_t value;
    const void* code;
  };
  static constexpr std::size_t kStackSize = 256 * 1024;
  static constexpr std::size_t kMostSteps = 20'000;

  static void entry() noexcept;
  bool can_go_on(const Fibre& fibre) const { return !fibre.ended && (!fibre.condition || (*fibre.condition)()); }
  void pick_any();
  bool pass_time();
  void switch_to(unsigned thread);
  void leave_for_good();
  std::string told(const std::string& why) const;

  Choices* choices_ = nullptr;
  std::vector<std::unique_ptr<Fibre>> fibres_;
  unsigned used_ = 0, current_ = 0;
  bool inside_ = true;
  ucontext_t outside_;
  void* outside_fake_stack_ = nullptr;
  const void* outside_stack_ = nullptr;
  std::size_t outside_stack_size_ = 0;
  std::int64_t now_ns_ = 0;
  std::size_t steps_ = 0;
  std::uint64_t all_steps_ = 0;
  std::string failure_;
  std::vector<Event> events_;

 public:
  // Whether this is on the caller's own stack: nobody else's business.
  bool on_own_stack(const void* at) const noexcept {
    const char* stack = fibres_[current_]->stack.get();
    return at >= stack && at < stack + kStackSize;
  }
};

}  // namespace stillpoint::hooks::explore
