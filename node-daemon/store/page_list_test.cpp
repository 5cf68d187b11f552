#include "node-daemon/store/page_list.h"

#include <doctest/doctest.h>

#include <random>

namespace stillpoint::node {
namespace {

bool same(const PageList& list, const std::vector<PageRef>& expected) {
  return list.size() == expected.size() && std::equal(list.begin(), list.end(), expected.begin());
}

PageRef any(std::mt19937& random) {
  switch (random() % 4) {
    case 0: return kZeroPage;
    case 1: return kAbsentPage;
    default: return {static_cast<std::uint32_t>(random() % 3), static_cast<std::uint32_t>(random() % 1000)};
  }
}

TEST_CASE("a page list gives back what was put into it, in order or out of it, in rows or scattered") {
  for (std::uint32_t seed = 1; seed <= 200; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    std::vector<PageRef> expected(random() % 3000, kAbsentPage);
    PageList list(expected.size());
    for (int step = 0; step < 60; ++step) {
      std::size_t count = random() % 2 == 0 ? 1 : random() % 1200;
      PageRef ref = any(random);
      if (random() % 3 == 0) {
        list.append_row(count, ref);
        for (; count > 0; --count, ref.page += is_stored(ref) ? 1 : 0) expected.push_back(ref);
        continue;
      }
      std::size_t at = random() % (expected.size() + 1);
      for (; count > 0; --count, ++at, ref.page += is_stored(ref) ? 1 : 0) {
        list.put(at, ref);
        if (at < expected.size()) expected[at] = ref;
        else expected.push_back(ref);
      }
    }
    CHECK(same(list, expected));
    CHECK(same(PageList(list), expected));
    const auto change = [](PageRef ref) {
      if (ref.origin == 1) return kAbsentPage;
      return is_stored(ref) ? PageRef{ref.origin + ref.page % 2, ref.page} : ref;
    };
    list.transform(change);
    for (PageRef& ref : expected) ref = change(ref);
    CHECK(same(list, expected));
  }
}

TEST_CASE("rows take next to nothing, however long they are; scattered pages 8 bytes each at most") {
  constexpr std::size_t kPages = std::size_t{1} << 22;  // of 16 GiB
  PageList zeros(kPages), stored;
  for (std::size_t i = 0; i < kPages; ++i) zeros.put(i, kZeroPage);
  for (std::size_t i = 0; i < kPages; ++i) stored.put(i, {3, static_cast<std::uint32_t>(i)});
  CHECK(zeros.bytes() < 512u << 10);
  CHECK(stored.bytes() < 512u << 10);
  PageList scattered, mixed;
  for (std::size_t i = 0; i < kPages; ++i) scattered.put(i, {3, static_cast<std::uint32_t>(i * 2'654'435'761u)});
  CHECK(scattered.bytes() < kPages * 9);
  for (std::size_t i = 0; i < kPages; ++i)
    mixed.put(i, i % 5 != 0 ? kZeroPage : PageRef{3, static_cast<std::uint32_t>(i / 5)});
  CHECK(mixed.bytes() < kPages * 2);
}

}  // namespace
}  // namespace stillpoint::node
