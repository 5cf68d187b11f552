// Any bytes as an exported checkpoint: read or refused, with nothing allocated that is not there. The digests of a
// plain file are made right first, as somebody who means harm would do, so that what stands behind them is reached,
// too.
#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "cli/export/export_file.h"

using namespace stillpoint;
using namespace stillpoint::cli;

namespace {

// Heads, tags and the digest at the end, as a writer of a plain file makes them.
void make_right(std::string& file) {
  if (file.size() < kHeadBytes) return;
  file.replace(56, 8, sha256(file.substr(0, 56)).substr(0, 8));
  const std::string head = file.substr(0, kHeadBytes);
  std::size_t at = kHeadBytes;
  for (std::uint64_t number = 0; file.size() - at >= 12 + kTagBytes; ++number) {
    std::uint32_t kind = 0, stored = 0;
    std::memcpy(&kind, file.data() + at, 4);
    std::memcpy(&stored, file.data() + at + 8, 4);
    if (stored < kTagBytes || stored > file.size() - at - 12) return;
    const std::string record = file.substr(at, 12);
    std::string made;
    if (!Sealing().seal(number, head + record, file.substr(at + 12, stored - kTagBytes), made)) std::abort();
    file.replace(at + 12, stored, made);
    at += 12 + stored;
    if (kind == static_cast<std::uint32_t>(RecordKind::end)) break;
  }
  file.replace(at, std::string::npos, sha256(file.substr(0, at)));
}

void read(std::string_view file, std::size_t piece) {
  const auto source = [&](char* buffer, std::size_t most) -> Result<std::size_t> {
    const std::size_t count = std::min({file.size(), most, piece});
    file.copy(buffer, count);
    file.remove_prefix(count);
    return count;
  };
  // scrypt takes its time: a sealed file's key is asked for, and not made.
  auto reader = ExportReader::begin(source, []() -> Result<std::string> {
    return Error{ErrorKind::refused, "import", "", "no passphrase"};
  });
  if (!reader) return;
  for (bool first = true;; first = false) {
    auto record = reader->next();
    if (!record || record->kind == RecordKind::end) return;
    if (first != (record->kind == RecordKind::description)) std::abort();
    if (record->kind == RecordKind::data && record->bytes.size() > kMaxData) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::string file(reinterpret_cast<const char*>(data), size);
  read(file, 7);
  make_right(file);
  read(file, 1u << 16);
  return 0;
}
