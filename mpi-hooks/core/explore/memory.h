// The memory of the explored program, as C++ promises it and no better: a load that is not ordered by anything may
// return an older value than the newest. Whatever a processor's store buffer can do shows as such a load: the store is
// there, and the other thread does not see it yet.
//
// Each atomic variable keeps the values that were stored in it, in order. Each thread has a view: for each variable the
// oldest value that it may still read. Reading or writing moves the view; acquiring what another thread released takes
// over that thread's view; a sequentially consistent fence, and membarrier, which is one in every thread, exchange
// views with all that came before. What the compiler may do is in here too: a store may be put off past the loads that
// follow it in the program, up to the next fence, signal fence or ordering access.
//
// Beside it stand vector clocks, which know what happened before what. An access to plain memory that is not ordered
// against another thread's access to it (one of them a write) is a data race and ends the history.
//
// Not modelled: loads that are moved before earlier loads, except where the result is the same as an older value; a
// store that takes its place in a variable's order before one that was executed earlier. Neither happens on x86.
//
// One thread at a time; knows nothing of the scheduler.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "mpi-hooks/core/explore/table.h"

namespace stillpoint::hooks::explore {

inline constexpr unsigned kMostThreads = 8, kMostVariables = 96;

// For each thread, how much of its past is known.
struct Clock {
  std::uint32_t of[kMostThreads] = {};
  void join(const Clock& other) noexcept;
};

// For each variable, the number of the oldest value that may still be read.
struct View {
  std::uint16_t of[kMostVariables] = {};
  void join(const View& other) noexcept;
};

// What a lock, a descriptor or a thread's end passes on.
struct Sync {
  View view;
  Clock clock;
};

struct Order {
  bool acquire = false, release = false, total = false;  // total: memory_order_seq_cst
  static Order of(int memory_order) noexcept;
};

class Memory {
 public:
  // Which of several things that may happen does; 0 is what mostly does. Asked where a load could be older, and where a
  // store could be put off.
  using Choose = std::function<unsigned(unsigned options)>;
  explicit Memory(Choose choose) : choose_(std::move(choose)), variables_(kMostVariables) {}

  void reset();
  void begin_thread(unsigned thread, unsigned parent);

  // `size` bytes at `at`, which also hold the newest value for code that is not explored.
  std::uint64_t load(unsigned thread, void* at, unsigned size, Order order);
  void store(unsigned thread, void* at, unsigned size, std::uint64_t value, Order order);
  // The newest value becomes change(value): a read-modify-write. Returns the value before.
  template <typename Change>
  std::uint64_t modify(unsigned thread, void* at, unsigned size, Order order, Change change) {
    const std::uint64_t before = newest(thread, at, size, order);
    put(thread, at, size, change(before), order, true);
    return before;
  }
  // As a read-modify-write that changes nothing, and as a compare-exchange that fails.
  std::uint64_t newest(unsigned thread, void* at, unsigned size, Order order);

  void fence(unsigned thread);   // sequentially consistent: a fence of the processor
  void commit(unsigned thread);  // the compiler keeps stores before this point
  bool puts_off(unsigned thread) const noexcept { return threads_[thread].put_off.pending; }
  void release(unsigned thread, Sync& sync);
  void acquire(unsigned thread, const Sync& sync);

  // False: a data race, told in `race`.
  bool plain(unsigned thread, const void* at, std::size_t size, bool writes, const void* code);
  // Before an atomic access, which may race with a plain one that writes.
  bool atomic(unsigned thread, const void* at, unsigned size, const void* code);
  struct Race {
    unsigned first = 0, second = 0;
    const void *at = nullptr, *first_code = nullptr, *second_code = nullptr;
    bool first_writes = false, second_writes = false;
  } race;

 private:
  struct Value {
    std::uint64_t value = 0;
    bool released = false;
    Sync sync;
  };
  struct Variable {
    void* at = nullptr;
    unsigned size = 0;
    bool changed_plainly = false;
    std::vector<Value> values;
  };
  struct PutOff {  // a store that the compiler has moved down
    bool pending = false;
    void* at = nullptr;
    unsigned size = 0;
    std::uint64_t value = 0;
    Order order;
    Sync sync;
  };
  struct Thread {
    View view;
    Clock clock;
    PutOff put_off;
  };
  struct Access {
    std::uint32_t clock = 0;
    std::uint8_t bytes = 0;
    const void* code = nullptr;
  };
  struct Word {
    Access reads[kMostThreads], writes[kMostThreads];
  };

  unsigned index_of(void* at, unsigned size);
  void put(unsigned thread, void* at, unsigned size, std::uint64_t value, Order order, bool modifies);
  bool conflicts(unsigned thread, const Access* accesses, std::uint8_t bytes, unsigned& other) const noexcept;
  static void remember(Access& access, std::uint32_t clock, std::uint8_t bytes, const void* code) noexcept;
  bool plain_word(unsigned thread, std::uintptr_t word, std::uint8_t bytes, bool writes, const void* code);

  Choose choose_;
  std::vector<Variable> variables_;
  unsigned used_ = 0;
  bool alone_ = true;           // with one thread there are no races
  Table<std::uint16_t> index_;  // address → number of the variable, plus one
  Table<Word> words_;
  View total_;  // what sequentially consistent accesses and fences have passed on
  Thread threads_[kMostThreads];
};

}  // namespace stillpoint::hooks::explore
