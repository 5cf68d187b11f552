// Blocks of packs that were found damaged, as a small file beside the packs (docs/store-format.md). Values; any thread.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "common/result.h"
#include "node-daemon/store/seal.h"

namespace stillpoint::node {

using BadBlocks = std::set<std::pair<Id, std::uint32_t>>;  // pack, and the block's number in the file

inline constexpr std::size_t kMaxBadBlocks = 100'000;  // more are not written down
inline constexpr std::size_t kMaxBadBlocksFile = 8u << 20;

std::string encode_bad_blocks(const BadBlocks& blocks);
// damaged unless every bit of it is what was written.
Result<BadBlocks> decode_bad_blocks(std::string_view file);

}  // namespace stillpoint::node
