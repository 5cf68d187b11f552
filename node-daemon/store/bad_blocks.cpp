#include "node-daemon/store/bad_blocks.h"

#include <algorithm>
#include <charconv>

#include "node-daemon/store/digest.h"

namespace stillpoint::node {
namespace {

constexpr std::string_view kHead = "stillpoint-bad-blocks 1\n", kEnd = "sha256 ";
constexpr std::size_t kIdDigits = 2 * sizeof(Id);

std::string end_of(std::string_view lines) {
  Sha256 digest;
  digest.add(lines);
  return std::string(kEnd) + hex(digest.finish()) + "\n";
}

bool take_hex(std::string_view text, Id& id) {
  for (std::size_t i = 0; i < id.size(); ++i) {
    const auto read = std::from_chars(text.data() + 2 * i, text.data() + 2 * i + 2, id[i], 16);
    if (read.ec != std::errc{} || read.ptr != text.data() + 2 * i + 2) return false;
  }
  return true;
}

}  // namespace

std::string encode_bad_blocks(const BadBlocks& blocks) {
  std::string lines(kHead);
  std::size_t left = kMaxBadBlocks;
  for (const auto& [pack, block] : blocks)
    if (left-- > 0) lines += hex(as_text(pack)) + " " + std::to_string(block) + "\n";
    else break;
  return lines + end_of(lines);
}

Result<BadBlocks> decode_bad_blocks(std::string_view file) {
  const Error damaged{ErrorKind::damaged, "read bad blocks", "", "it is not what was written"};
  const std::size_t end = file.rfind(kEnd);
  if (!file.starts_with(kHead) || end == file.npos || file.substr(end) != end_of(file.substr(0, end))) return damaged;
  BadBlocks blocks;
  std::string_view lines = file.substr(kHead.size(), end - kHead.size());
  while (!lines.empty()) {
    const std::string_view line = lines.substr(0, lines.find('\n'));
    Id pack{};
    std::uint32_t block = 0;
    if (line.size() < kIdDigits + 2 || line[kIdDigits] != ' ' || !take_hex(line, pack)) return damaged;
    const auto read = std::from_chars(line.data() + kIdDigits + 1, line.data() + line.size(), block);
    if (read.ec != std::errc{} || read.ptr != line.data() + line.size()) return damaged;
    blocks.emplace(pack, block);
    lines.remove_prefix(std::min(lines.size(), line.size() + 1));
  }
  return blocks;
}

}  // namespace stillpoint::node
