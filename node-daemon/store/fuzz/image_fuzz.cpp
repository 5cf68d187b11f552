// Any bytes as an image's file, as what is sealed in one, as a file of keys, and as one of keys' ids: read or refused;
// an image that is read is the same when it is written and read again.
#include <cstdlib>

#include "node-daemon/store/image_manifest.h"
#include "node-daemon/store/store_test_data.h"

using namespace stillpoint::node;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const SiteKeys keys = test::some_keys();
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  (void)open_manifest(bytes, keys);
  (void)parse_site_keys(bytes);
  (void)parse_key_ids(bytes);
  const auto manifest = decode_manifest(bytes, 1u << 16);
  if (!manifest) return 0;
  const std::string written = encode_manifest(*manifest);
  const auto again = decode_manifest(written, 1u << 16);
  if (!again || encode_manifest(*again) != written) std::abort();
  return 0;
}
