// A hash table from addresses that is emptied at once, as each history begins with an empty one. Never shrinks; what it
// cannot hold is a mistake of the caller's.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <vector>

namespace stillpoint::hooks::explore {

template <typename Value>
class Table {
 public:
  void clear() noexcept { generation_++; }
  Value* find(std::uintptr_t key) noexcept {
    Slot& slot = slot_of(key);
    return slot.generation == generation_ ? &slot.value : nullptr;
  }
  Value& operator[](std::uintptr_t key) noexcept {
    Slot& slot = slot_of(key);
    if (slot.generation != generation_) slot = {key, generation_, Value{}};
    return slot.value;
  }

 private:
  static constexpr std::size_t kSlots = 1 << 13;
  struct Slot {
    std::uintptr_t key = 0;
    std::uint64_t generation = 0;
    Value value{};
  };
  Slot& slot_of(std::uintptr_t key) noexcept {
    std::size_t at = (key * 0x9E3779B97F4A7C15u) >> 51;
    for (std::size_t tried = 0; tried < kSlots; tried++, at = (at + 1) % kSlots)
      if (slots_[at].generation != generation_ || slots_[at].key == key) return slots_[at];
    abort();
  }
  std::vector<Slot> slots_{kSlots};
  std::uint64_t generation_ = 1;
};

}  // namespace stillpoint::hooks::explore
