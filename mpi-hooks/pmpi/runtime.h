// What every wrapper of the hook library is made of: the process's gate, the calling thread's record, and the function
// of libmpi to forward to.
#pragma once

#include <atomic>
#include <type_traits>

#include "mpi-hooks/core/gate.h"
#include "mpi-hooks/core/helper.h"
#include "mpi-hooks/core/partitioned_sends.h"

// Set before mpi.h: functions that MPI-3 removed are still exported, so they are wrapped too.
#define OMPI_OMIT_MPI1_COMPAT_DECLS 0
// mpi-ext.h needs mpi.h before it.
// clang-format off
#include <mpi.h>
#include <mpi-ext.h>
// clang-format on

// Visible to the program; everything else in the library is hidden.
#define STILLPOINT_EXPORT extern "C" __attribute__((visibility("default")))

namespace stillpoint::hooks {

extern Gate gate;
extern Communicators communicators;
extern PartitionedSends partitioned_sends;
extern Helper helper;
extern constinit thread_local Thread self;

// The function behind ours: the next one of that name after this library, else in a libmpi that was loaded privately
// (a Python extension, say). Looked up once each; the pointer is the same whoever stores it, so relaxed will do.
template <typename Function>
struct Next {
  std::atomic<Function*> function{nullptr};
};
void* look_up(const char* symbol) noexcept;
// A variable of libmpi. Not the next one: a program may hold the one copy of it that all use (copy relocation).
void* look_up_data(const char* symbol) noexcept;
// A function of the PMIx library that libmpi uses; null where there is none.
void* find_pmix(const char* symbol) noexcept;
// Whether the MPI library that the process has is an Open MPI: this library's constants and handles are of no other.
bool is_open_mpi() noexcept;

template <typename Function>
Function* resolve(const char* symbol, Next<Function>& next) noexcept {
  Function* function = next.function.load(std::memory_order_relaxed);
  if (function == nullptr) [[unlikely]] {
    function = reinterpret_cast<Function*>(look_up(symbol));
    next.function.store(function, std::memory_order_relaxed);
  }
  return function;
}

// The thread's first call: true when it is one of the program's threads and takes part from now on.
bool join_program(Thread& thread) noexcept;
// Whether this call is the thread's outermost one, and so the gate's business.
[[gnu::always_inline]] inline bool outermost(Thread& thread) noexcept {
  const Call* inside = thread.call.load(std::memory_order_relaxed);
  return inside == nullptr || (inside == &kStranger && join_program(thread));
}

// What the library notes about a call, inside it: with its result, and where it has a before(), also before it.
struct Nothing {
  void operator()(int) const noexcept {}
};
struct Remember {
  const MPI_Comm* made;
  void operator()(int result) const noexcept {
    if (result == MPI_SUCCESS) note(*made);
  }
  static void note(MPI_Comm communicator) noexcept;
};
struct Named {
  MPI_Comm named;
  void operator()(int result) const noexcept {
    if (result == MPI_SUCCESS) Remember::note(named);
  }
};
struct Forget {
  MPI_Comm freed;
  void operator()(int result) const noexcept {
    if (result == MPI_SUCCESS) communicators.forget(freed);
  }
};

// A wrapper is described by a type W with static members: `call`, `next`, and communicator(…) and note(…) of the call's
// own parameters.

// The call itself, when the thread has entered.
template <typename W, typename... Parameters>
[[gnu::always_inline]] inline auto inside(Thread& thread, Parameters... parameters) {
  const auto note = W::note(parameters...);
  if constexpr (requires { note.before(); }) note.before();
  const auto result = W::next.function.load(std::memory_order_relaxed)(parameters...);
  if constexpr (!std::is_same_v<decltype(note), const Nothing>) note(result);
  gate.leave(thread);
  return result;
}

// A thread's first call, a function's first, a call inside a call.
template <typename W, typename... Parameters>
[[gnu::noinline, gnu::cold]] auto through_slowly(Parameters... parameters) {
  auto* const function = resolve(W::call.symbol, W::next);
  Thread& thread = self;
  if (!outermost(thread)) return function(parameters...);
  gate.enter(thread, W::call, W::communicator(parameters...));
  return inside<W>(thread, parameters...);
}

template <typename W, typename... Parameters>
[[gnu::noinline, gnu::cold]] auto through_shut_gate(Parameters... parameters) {
  Thread& thread = self;
  gate.wait_at_gate(thread, W::call);
  return inside<W>(thread, parameters...);
}

// Before libmpi's function the common way calls nothing, so the parameters stay in the registers that they came in;
// the other ways are taken as tail calls. This is most of what the library costs a short call.
template <typename W, typename... Parameters>
[[gnu::always_inline]] inline auto through(Parameters... parameters) {
  Thread& thread = self;
  if (W::next.function.load(std::memory_order_relaxed) == nullptr ||
      thread.call.load(std::memory_order_relaxed) != nullptr) [[unlikely]]
    return through_slowly<W>(parameters...);
  if (!gate.try_enter(thread, W::call, W::communicator(parameters...))) [[unlikely]]
    return through_shut_gate<W>(parameters...);
  return inside<W>(thread, parameters...);
}

}  // namespace stillpoint::hooks
