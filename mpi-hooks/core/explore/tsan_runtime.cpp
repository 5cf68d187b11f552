// What code compiled with -fsanitize=thread calls at each access, given to the exploring machine. Stands in for the
// sanitizer's own library, so a program that has this is not linked with -fsanitize=thread. Code outside a history
// does what it would do without any of it.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "mpi-hooks/core/explore/machine.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

using namespace stillpoint::hooks::explore;

namespace {

#define CODE __builtin_return_address(0)

// The explored code cannot be compiled with both sanitizers: its accesses are put to AddressSanitizer here.
inline void check_address([[maybe_unused]] const void* at, [[maybe_unused]] std::size_t size) {
#ifdef __SANITIZE_ADDRESS__
  if (void* bad = __asan_region_is_poisoned(const_cast<void*>(at), size)) *static_cast<volatile char*>(bad);  // reports
#endif
}

void tell_race(Machine& machine) {
  const Memory::Race& race = machine.memory.race;
  machine.note(race.first, race.first_writes ? "WROTE" : "READ", race.at, 0, race.first_code);
  machine.note(race.second, race.second_writes ? "WRITES" : "READS", race.at, 0, race.second_code);
  machine.fail("a data race: the accesses are the last two lines of the record, the first of them from earlier");
}

void plain(const void* at, std::size_t size, bool writes, const void* code) {
  check_address(at, size);
  Machine* machine = Machine::of_caller();
  if (machine == nullptr || machine->on_own_stack(at)) return;
  Machine::Inside inside(*machine);
  if (!machine->memory.plain(machine->current(), at, size, writes, code)) tell_race(*machine);
}

// Before an atomic access of an explored thread: others may go on first.
void begin_atomic(Machine& machine, const volatile void* at, unsigned size, const void* code) {
  machine.point();
  if (!machine.memory.atomic(machine.current(), const_cast<const void*>(at), size, code)) tell_race(machine);
}

template <typename T>
T load(volatile T* at, int order, const void* code) {
  check_address(const_cast<T*>(at), sizeof(T));
  Machine* machine = Machine::of_caller();
  if (machine == nullptr) return __atomic_load_n(at, __ATOMIC_SEQ_CST);
  Machine::Inside inside(*machine);
  begin_atomic(*machine, at, sizeof(T), code);
  const auto value =
      static_cast<T>(machine->memory.load(machine->current(), const_cast<T*>(at), sizeof(T), Order::of(order)));
  machine->note("load", const_cast<T*>(at), value, code);
  return value;
}

template <typename T>
void store(volatile T* at, T value, int order, const void* code) {
  check_address(const_cast<T*>(at), sizeof(T));
  Machine* machine = Machine::of_caller();
  if (machine == nullptr) return __atomic_store_n(at, value, __ATOMIC_SEQ_CST);
  Machine::Inside inside(*machine);
  begin_atomic(*machine, at, sizeof(T), code);
  machine->note("store", const_cast<T*>(at), value, code);
  machine->memory.store(machine->current(), const_cast<T*>(at), sizeof(T), value, Order::of(order));
}

template <typename T, typename Change>
T modify(volatile T* at, int order, const void* code, Change change) {
  check_address(const_cast<T*>(at), sizeof(T));
  const auto changed = [&](std::uint64_t before) -> std::uint64_t { return change(static_cast<T>(before)); };
  Machine* machine = Machine::of_caller();
  if (machine == nullptr) {
    T before = __atomic_load_n(at, __ATOMIC_SEQ_CST);
    while (!__atomic_compare_exchange_n(at, &before, change(before), false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {}
    return before;
  }
  Machine::Inside inside(*machine);
  begin_atomic(*machine, at, sizeof(T), code);
  const auto before = static_cast<T>(
      machine->memory.modify(machine->current(), const_cast<T*>(at), sizeof(T), Order::of(order), changed));
  machine->note("modify", const_cast<T*>(at), change(before), code);
  return before;
}

template <typename T>
int compare_exchange(volatile T* at, T* expected, T desired, int order, bool weak, const void* code) {
  Machine* machine = Machine::of_caller();
  if (machine == nullptr)
    return __atomic_compare_exchange_n(at, expected, desired, weak, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
  Machine::Inside inside(*machine);
  begin_atomic(*machine, at, sizeof(T), code);
  Memory& memory = machine->memory;
  auto* const plain_at = const_cast<T*>(at);
  const auto now = static_cast<T>(memory.newest(machine->current(), plain_at, sizeof(T), {}));
  if (now != *expected || (weak && machine->odd())) {
    machine->note("differs", plain_at, now, code);
    *expected = static_cast<T>(memory.newest(machine->current(), plain_at, sizeof(T), Order::of(order)));
    return 0;
  }
  memory.modify(machine->current(), plain_at, sizeof(T), Order::of(order), [&](std::uint64_t) { return desired; });
  machine->note("modify", plain_at, desired, code);
  return 1;
}

}  // namespace

extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_read(void** at) { plain(at, sizeof *at, false, CODE); }
void __tsan_vptr_update(void** at, void*) { plain(at, sizeof *at, true, CODE); }
void __tsan_read_range(void* at, std::size_t size) { plain(at, size, false, CODE); }
void __tsan_write_range(void* at, std::size_t size) { plain(at, size, true, CODE); }

#define PLAIN(size)                                                            \
  void __tsan_read##size(void* at) { plain(at, size, false, CODE); }           \
  void __tsan_write##size(void* at) { plain(at, size, true, CODE); }           \
  void __tsan_unaligned_read##size(void* at) { plain(at, size, false, CODE); } \
  void __tsan_unaligned_write##size(void* at) { plain(at, size, true, CODE); }
PLAIN(1)
PLAIN(2)
PLAIN(4)
PLAIN(8)
PLAIN(16)

#define CHANGE(bits, name, expression)                                                                      \
  std::uint##bits##_t __tsan_atomic##bits##_##name(volatile std::uint##bits##_t* at, std::uint##bits##_t v, \
                                                   int order) {                                             \
    return modify(at, order, CODE, [v](std::uint##bits##_t before) {                                        \
      (void)before;                                                                                         \
      return static_cast<std::uint##bits##_t>(expression);                                                  \
    });                                                                                                     \
  }
#define ATOMIC(bits)                                                                                                 \
  std::uint##bits##_t __tsan_atomic##bits##_load(volatile std::uint##bits##_t* at, int order) {                      \
    return load(at, order, CODE);                                                                                    \
  }                                                                                                                  \
  void __tsan_atomic##bits##_store(volatile std::uint##bits##_t* at, std::uint##bits##_t value, int order) {         \
    store(at, value, order, CODE);                                                                                   \
  }                                                                                                                  \
  CHANGE(bits, exchange, v)                                                                                          \
  CHANGE(bits, fetch_add, before + v)                                                                                \
  CHANGE(bits, fetch_sub, before - v)                                                                                \
  CHANGE(bits, fetch_and, before& v)                                                                                 \
  CHANGE(bits, fetch_or, before | v)                                                                                 \
  CHANGE(bits, fetch_xor, before ^ v)                                                                                \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile std::uint##bits##_t* at, std::uint##bits##_t* expected, \
                                                    std::uint##bits##_t desired, int order, int) {                   \
    return compare_exchange(at, expected, desired, order, false, CODE);                                              \
  }                                                                                                                  \
  int __tsan_atomic##bits##_compare_exchange_weak(volatile std::uint##bits##_t* at, std::uint##bits##_t* expected,   \
                                                  std::uint##bits##_t desired, int order, int) {                     \
    return compare_exchange(at, expected, desired, order, true, CODE);                                               \
  }
ATOMIC(8)
ATOMIC(16)
ATOMIC(32)
ATOMIC(64)

void __tsan_atomic_signal_fence(int) {
  if (Machine* machine = Machine::of_caller()) {
    Machine::Inside inside(*machine);
    machine->memory.commit(machine->current());
  }
}
// Weaker fences than the full one are not used; this makes each of them one, which would hide mistakes in them.
void __tsan_atomic_thread_fence(int order) {
  if (Machine* machine = Machine::of_caller()) {
    Machine::Inside inside(*machine);
    if (!Order::of(order).total)
      machine->fail("a fence that the exploring machine does not know: see tsan_runtime.cpp");
    machine->point();
    machine->memory.commit(machine->current());
    machine->memory.fence(machine->current());
  }
}

}  // extern "C"
