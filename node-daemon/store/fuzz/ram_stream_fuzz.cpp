// Any bytes as a migration stream: the parser ends with an answer that does not depend on the pieces, and a stream that
// it takes apart is, put together again, the same machine.
#include <cstdlib>

#include "node-daemon/store/store_test_data.h"

using namespace stillpoint::node;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view stream(reinterpret_cast<const char*>(data), size);
  test::Machine whole, pieces;
  const auto shape = test::parse(stream, whole, size + 1);
  const auto other = test::parse(stream, pieces, 1 + size % 97);
  if (shape.has_value() != other.has_value()) std::abort();
  if (!shape) return 0;
  if (!(*shape == *other) || !(whole == pieces)) std::abort();
  test::Machine again;
  const auto same = test::parse(test::write_again(whole, *shape), again, 1000);
  if (!same || !(again == whole) || same->head_bytes != shape->head_bytes) std::abort();
  return 0;
}
