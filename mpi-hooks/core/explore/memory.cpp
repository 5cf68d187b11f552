#include "mpi-hooks/core/explore/memory.h"

#include <algorithm>
#include <atomic>
#include <cstring>

namespace stillpoint::hooks::explore {
namespace {

// Of the values that a load may return, no more than this many are tried: the newest ones.
constexpr unsigned kMostOld = 4;

std::uint64_t in_memory(const void* at, unsigned size) noexcept {
  std::uint64_t value = 0;
  memcpy(&value, at, size);
  return value;
}

}  // namespace

void Clock::join(const Clock& other) noexcept {
  for (unsigned i = 0; i < kMostThreads; i++) of[i] = std::max(of[i], other.of[i]);
}

void View::join(const View& other) noexcept {
  for (unsigned i = 0; i < kMostVariables; i++) of[i] = std::max(of[i], other.of[i]);
}

// consume counts as acquire, as for compilers.
Order Order::of(int memory_order) noexcept {
  const auto order = static_cast<std::memory_order>(memory_order);
  const bool total = order == std::memory_order_seq_cst, both = total || order == std::memory_order_acq_rel;
  return {.acquire = both || order == std::memory_order_acquire || order == std::memory_order_consume,
          .release = both || order == std::memory_order_release,
          .total = total};
}

void Memory::reset() {
  index_.clear();
  words_.clear();
  used_ = 0;
  alone_ = true;
  total_ = {};
  for (Thread& thread : threads_) thread = {};
  threads_[0].clock.of[0] = 1;
}

void Memory::begin_thread(unsigned thread, unsigned parent) {
  alone_ = false;
  Sync sync;
  release(parent, sync);
  threads_[thread] = {sync.view, sync.clock, {}};
  threads_[thread].clock.of[thread] = 1;
}

unsigned Memory::index_of(void* at, unsigned size) {
  std::uint16_t& number = index_[reinterpret_cast<std::uintptr_t>(at)];
  if (number == 0) {
    if (used_ == kMostVariables) abort();
    number = static_cast<std::uint16_t>(++used_);
    Variable& fresh = variables_[used_ - 1];
    fresh.at = at;
    fresh.size = size;
    fresh.changed_plainly = false;
    fresh.values.clear();
    fresh.values.push_back({in_memory(at, size), false, {}});
  }
  Variable& variable = variables_[number - 1u];
  if (variable.changed_plainly) {  // made anew: everybody who may look at it sees that
    variable.changed_plainly = false;
    variable.values.push_back({in_memory(at, size), false, {}});
    for (Thread& thread : threads_)
      thread.view.of[number - 1u] = static_cast<std::uint16_t>(variable.values.size() - 1);
  }
  return number - 1u;
}

std::uint64_t Memory::load(unsigned thread, void* at, unsigned size, Order order) {
  Thread& me = threads_[thread];
  if (me.put_off.pending && me.put_off.at == at) commit(thread);
  const unsigned index = index_of(at, size);
  const std::vector<Value>& values = variables_[index].values;
  std::uint16_t& seen = me.view.of[index];
  const unsigned oldest = order.total ? std::max(seen, total_.of[index]) : seen;
  const auto newest = static_cast<unsigned>(values.size() - 1);
  const unsigned options = std::min(newest - oldest + 1, kMostOld);
  const unsigned chosen = newest - (options > 1 ? choose_(options) : 0);
  seen = static_cast<std::uint16_t>(chosen);
  const Value& value = values[chosen];
  if (order.acquire && value.released) acquire(thread, value.sync);
  return value.value;
}

std::uint64_t Memory::newest(unsigned thread, void* at, unsigned size, Order order) {
  commit(thread);
  const unsigned index = index_of(at, size);
  const Value& value = variables_[index].values.back();
  threads_[thread].view.of[index] = static_cast<std::uint16_t>(variables_[index].values.size() - 1);
  if (order.acquire && value.released) acquire(thread, value.sync);
  return value.value;
}

void Memory::store(unsigned thread, void* at, unsigned size, std::uint64_t value, Order order) {
  PutOff& put_off = threads_[thread].put_off;
  if (order.release || put_off.at == at) commit(thread);
  if (order.total || put_off.pending || choose_(2) == 0) return put(thread, at, size, value, order, false);
  index_of(at, size);
  put_off = {true, at, size, value, order, {}};
  if (order.release) release(thread, put_off.sync);
}

void Memory::put(unsigned thread, void* at, unsigned size, std::uint64_t value, Order order, bool modifies) {
  const unsigned index = index_of(at, size);
  Variable& variable = variables_[index];
  const auto number = static_cast<std::uint16_t>(variable.values.size());
  threads_[thread].view.of[index] = number;
  Value next{value, order.release, {}};
  if (order.release) release(thread, next.sync);
  // A read-modify-write passes on what the value before it did.
  if (const Value& before = variable.values.back(); modifies && before.released) {
    next.released = true;
    next.sync.view.join(before.sync.view);
    next.sync.clock.join(before.sync.clock);
  }
  variable.values.push_back(next);
  if (order.total) total_.of[index] = number;
  memcpy(at, &value, size);
}

void Memory::commit(unsigned thread) {
  PutOff& put_off = threads_[thread].put_off;
  if (!put_off.pending) return;
  put_off.pending = false;
  put(thread, put_off.at, put_off.size, put_off.value, {}, false);
  if (!put_off.order.release) return;
  Value& value = variables_[index_of(put_off.at, put_off.size)].values.back();
  value.released = true;
  value.sync = put_off.sync;
}

void Memory::fence(unsigned thread) {
  Thread& me = threads_[thread];
  me.view.join(total_);
  total_ = me.view;
}

void Memory::release(unsigned thread, Sync& sync) {
  Thread& me = threads_[thread];
  sync.view.join(me.view);
  sync.clock.join(me.clock);
  me.clock.of[thread]++;
}

void Memory::acquire(unsigned thread, const Sync& sync) {
  threads_[thread].view.join(sync.view);
  threads_[thread].clock.join(sync.clock);
}

bool Memory::plain(unsigned thread, const void* at, std::size_t size, bool writes, const void* code) {
  auto first = reinterpret_cast<std::uintptr_t>(at);
  const std::uintptr_t end = first + size;
  while (first < end) {
    const std::uintptr_t word = first & ~std::uintptr_t{7}, last = std::min(word + 8, end);
    const auto bytes = static_cast<std::uint8_t>((0xffu << (first - word)) & (0xffu >> (word + 8 - last)));
    if (writes && used_ != 0)
      for (std::uintptr_t byte = first; byte < last; byte++)
        if (const std::uint16_t* number = index_.find(byte)) variables_[*number - 1u].changed_plainly = true;
    if (!alone_ && !plain_word(thread, word, bytes, writes, code)) return false;
    first = last;
  }
  return true;
}

bool Memory::conflicts(unsigned thread, const Access* accesses, std::uint8_t bytes, unsigned& other) const noexcept {
  for (other = 0; other < kMostThreads; other++)
    if (other != thread && (accesses[other].bytes & bytes) != 0 &&
        accesses[other].clock > threads_[thread].clock.of[other])
      return true;
  return false;
}

bool Memory::plain_word(unsigned thread, std::uintptr_t at, std::uint8_t bytes, bool writes, const void* code) {
  Word& word = words_[at];
  unsigned other = 0;
  const bool after_write = conflicts(thread, word.writes, bytes, other);
  if (after_write || (writes && conflicts(thread, word.reads, bytes, other))) {
    const Access& first = after_write ? word.writes[other] : word.reads[other];
    race = {other, thread, reinterpret_cast<const void*>(at), first.code, code, after_write, writes};
    return false;
  }
  remember((writes ? word.writes : word.reads)[thread], threads_[thread].clock.of[thread], bytes, code);
  return true;
}

void Memory::remember(Access& access, std::uint32_t clock, std::uint8_t bytes, const void* code) noexcept {
  if (access.clock != clock) access.bytes = 0;
  access = {clock, static_cast<std::uint8_t>(access.bytes | bytes), code};
}

bool Memory::atomic(unsigned thread, const void* at, unsigned size, const void* code) {
  if (alone_) return true;
  const auto first = reinterpret_cast<std::uintptr_t>(at), word = first & ~std::uintptr_t{7};
  const auto bytes = static_cast<std::uint8_t>((0xffu >> (8 - size)) << (first - word));
  Word& that = words_[word];
  if (unsigned other = 0; conflicts(thread, that.writes, bytes, other)) {
    race = {other, thread, at, that.writes[other].code, code, true, true};
    return false;
  }
  remember(that.reads[thread], threads_[thread].clock.of[thread], bytes, code);
  return true;
}

}  // namespace stillpoint::hooks::explore
