// Any bytes where only a holder of the site's key can put them: as a block of a pack, as the frame of an image. Whoever
// stole the key, or a daemon with a bug, must not get further than to an error.
//   u8 what (even: a block, odd: an image), u64 slots of the block or length that the image claims, the zstd frame
#include <bit>
#include <cstdlib>

#include "node-daemon/store/bytes.h"
#include "node-daemon/store/memory_files.h"
#include "node-daemon/store/pack_file.h"
#include "node-daemon/store/store_test_data.h"

using namespace stillpoint::node;

namespace {

const SiteKeys& keys() {
  static const SiteKeys site = test::some_keys();
  return site;
}

void must(bool done) {
  if (!done) std::abort();
}

void read_block(std::uint64_t slots, std::string_view frame) {
  if (slots == 0) return;
  MemoryFiles files;
  files.make_directory("/p").value();
  auto writer = PackWriter::create(files, "/p", keys().active());
  const auto pages = static_cast<std::size_t>(std::popcount(slots));
  std::string sealed = std::string(frame) + std::string(kTagBytes, '\0');
  const std::vector<Fingerprint> fingerprints(pages);
  must((*writer)->append((*writer)->id(), 3, slots, {sealed.data(), frame.size()}, fingerprints).has_value());
  must((*writer)->publish().has_value());
  const auto file = *files.open(files.names().begin()->first);
  const auto content = read_pack(*file, keys());
  must(content.has_value());
  const auto read = BlockReader(file, keys().active(), *content).read(*content, content->blocks[0], 0);
  if (read) must(read->size() == pages * kPageBytes);
  else must(read.error().kind == stillpoint::ErrorKind::damaged);
}

void read_image(std::uint64_t length, std::string_view frame) {
  const Id id{1, 2, 3};
  std::string file = "stillimg";
  put_le(file, std::uint32_t{1});
  put_le(file, std::uint32_t{0});
  put_le(file, keys().active().id);
  file += as_text(id);
  put_le(file, length % (std::uint64_t{1} << 22));  // what more would do is a matter of memory alone
  put_le(file, std::uint64_t{frame.size() + kTagBytes});
  const std::string header = file;
  must(Sealer(derive(keys().active().key, "image", as_text(id))).seal(0, header, frame, file).has_value());
  const auto manifest = open_manifest(file, keys());
  if (!manifest) return;
  const auto sealed = seal_manifest(*manifest, keys().active());
  must(sealed && open_manifest(*sealed, keys()).has_value());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  ByteReader in({reinterpret_cast<const char*>(data), size});
  const auto what = in.number<std::uint8_t>();
  const auto number = in.number<std::uint64_t>();
  if (!in.ok()) return 0;
  const std::string_view frame = in.bytes(in.left());
  if (what % 2 == 0) read_block(number, frame);
  else read_image(number, frame);
  return 0;
}
