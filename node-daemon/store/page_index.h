// Where pages that are already stored lie, by fingerprint. Of bounded size: when it is full, what was neither put in
// nor asked for since it last filled up is forgotten, and would be stored again. So it is never asked whether a page is
// there, only whether one is known.
//
// Threads: belongs to one at a time.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "node-daemon/store/seal.h"

namespace stillpoint::node {

// A page's place: origin is the store's number of the pack that it was first written into; page counts in that pack,
// kPagesPerBlock to a block. It stays the same when compaction moves the page to another file.
struct PageRef {
  std::uint32_t origin = 0xffffffff, page = 0;
  bool operator==(const PageRef&) const = default;
};
inline constexpr PageRef kAbsentPage{0xffffffff, 0}, kZeroPage{0xfffffffe, 0};
inline bool is_stored(const PageRef& ref) { return ref.origin < kZeroPage.origin; }

inline constexpr std::uint32_t kPagesPerBlock = 64;  // one bit each in a block's slots

class PageIndex {
 public:
  // Twice so many entries at most; 24 bytes each in tables that are filled up to three quarters.
  explicit PageIndex(std::size_t generation = std::size_t{3} << 19);
  std::optional<PageRef> find(const Fingerprint& key);
  // In the place of what was known of this fingerprint.
  void put(const Fingerprint& key, PageRef ref);
  std::size_t bytes() const { return (young_.slots.capacity() + old_.slots.capacity()) * sizeof(Slot); }

 private:
  struct Slot {
    Fingerprint key;
    PageRef ref;
  };
  struct Table {
    std::vector<Slot> slots;  // a power of two; kAbsentPage: free
    std::size_t used = 0;
    Slot* at(const Fingerprint& key);  // its slot, or the free one where it belongs; nullptr: no table yet
    void grow(std::size_t size);
  };
  const std::size_t generation_;
  Table young_, old_;
};

}  // namespace stillpoint::node
