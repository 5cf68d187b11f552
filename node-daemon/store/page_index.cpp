#include "node-daemon/store/page_index.h"

namespace stillpoint::node {

PageIndex::PageIndex(std::size_t generation) : generation_(generation) {}

PageIndex::Slot* PageIndex::Table::at(const Fingerprint& key) {
  if (slots.empty()) return nullptr;
  const std::size_t mask = slots.size() - 1;
  for (std::size_t i = key.low & mask;; i = (i + 1) & mask)
    if (slots[i].ref == kAbsentPage || slots[i].key == key) return &slots[i];
}

void PageIndex::Table::grow(std::size_t size) {
  std::vector<Slot> before(size);
  before.swap(slots);
  for (const Slot& slot : before)
    if (slot.ref != kAbsentPage) *at(slot.key) = slot;
}

std::optional<PageRef> PageIndex::find(const Fingerprint& key) {
  if (const Slot* slot = young_.at(key); slot != nullptr && slot->ref != kAbsentPage) return slot->ref;
  const Slot* slot = old_.at(key);
  if (slot == nullptr || slot->ref == kAbsentPage) return std::nullopt;
  const PageRef ref = slot->ref;
  put(key, ref);  // asked for: it stays
  return ref;
}

void PageIndex::put(const Fingerprint& key, PageRef ref) {
  if (young_.used >= generation_) {
    old_ = std::move(young_);
    young_ = {};
    young_.grow(old_.slots.size());  // at once: while a table grows, both sizes of it are there
  }
  if (young_.used * 4 >= young_.slots.size() * 3) young_.grow(young_.slots.empty() ? 4096 : young_.slots.size() * 2);
  Slot* const slot = young_.at(key);
  if (slot->ref == kAbsentPage) ++young_.used;
  *slot = {key, ref};
}

}  // namespace stillpoint::node
