// Any bytes as a pack and as the index of one: read or refused; an index that is read is written the same way.
#include <cstdlib>

#include "node-daemon/store/pack_file.h"
#include "node-daemon/store/store_test_data.h"

using namespace stillpoint::node;

namespace {

class Bytes final : public ReadableFile {
 public:
  explicit Bytes(std::string_view bytes) : bytes_(bytes) {}
  stillpoint::Result<std::string> read(std::uint64_t offset, std::size_t count) const override {
    if (offset > bytes_.size() || count > bytes_.size() - offset)
      return stillpoint::Error{stillpoint::ErrorKind::damaged, "read", "", "it ends too early"};
    return std::string(bytes_.substr(offset, count));
  }
  std::uint64_t size() const override { return bytes_.size(); }

 private:
  const std::string_view bytes_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const SiteKeys keys = test::some_keys();
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  (void)read_pack(Bytes(bytes), keys);
  // The first eight bytes: where the blocks end.
  if (size < 8) return 0;
  std::uint64_t end = 0;
  for (std::size_t i = 8; i-- > 0;) end = end << 8 | data[i];
  const auto content = decode_pack_index(bytes.substr(8), end);
  if (content && encode_pack_index(*content) != bytes.substr(8)) std::abort();
  return 0;
}
