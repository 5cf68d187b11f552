// What comparing page by page would take up as new: the measure that the store's recognition of pages is held against.
// One thread.
#pragma once

#include <map>
#include <unordered_set>

#include "node-daemon/store/ram_stream.h"
#include "node-daemon/store/seal.h"

namespace stillpoint::bench {

// The guests of one host, whose images come one after the other.
class PageComparison {
 public:
  struct New {
    // Pages that are not zeros, not what the same page was in this guest's image before, and in no other guest's last
    // image: each counts, also where several of one image are alike.
    std::uint64_t bytes = 0;
    // Of these, what was in no image at all before, each content once: no store of whole pages could take up less.
    std::uint64_t distinct_bytes = 0;
  };
  New add(std::size_t guest, std::string_view stream);

 private:
  // 64 bits of a keyed hash: enough to count by.
  using Image = std::map<std::pair<std::uint32_t, std::uint64_t>, std::uint64_t>;
  class Reader;
  node::PageHasher hasher_{node::Key{}};
  std::map<std::size_t, Image> last_;
  std::unordered_set<std::uint64_t> ever_;
};

}  // namespace stillpoint::bench
