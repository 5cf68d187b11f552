#include "node-daemon/peer/peer_target.h"

#include <charconv>
#include <vector>

#include "node-daemon/store/chunk_store.h"

namespace stillpoint::node {

std::optional<PeerTarget> parse_peer_target(std::string_view target) {
  if (!target.starts_with('/')) return std::nullopt;
  target.remove_prefix(1);
  PeerTarget found;
  found.is_directory = target.ends_with('/');
  if (found.is_directory) target.remove_suffix(1);
  std::vector<std::string_view> parts;
  for (std::size_t from = 0; from <= target.size();) {
    const std::size_t slash = std::min(target.find('/', from), target.size());
    parts.push_back(target.substr(from, slash - from));
    if (!is_host_directory(parts.back())) return std::nullopt;  // a plain name
    from = slash + 1;
  }
  if (parts.size() < 2) return std::nullopt;
  const bool packs = parts[1] == "packs";
  const bool bad_blocks = parts[1] == "bad-blocks";
  if (!bad_blocks && !packs && parts[1] != "images") return std::nullopt;
  const std::size_t depth = bad_blocks ? 2 : packs ? 3 : 5;  // of a file
  if (found.is_directory ? parts.size() >= depth : parts.size() != depth) return std::nullopt;
  found.host = parts[0];
  found.name = target.substr(parts[0].size() + 1);
  return found;
}

std::optional<ByteRange> parse_byte_range(std::string_view header, std::uint64_t size) {
  if (header.empty()) return ByteRange{0, size, true};
  constexpr std::string_view kBytes = "bytes=";
  if (!header.starts_with(kBytes)) return std::nullopt;
  header.remove_prefix(kBytes.size());
  std::uint64_t first = 0, last = 0;
  const char* const end = header.data() + header.size();
  const auto one = std::from_chars(header.data(), end, first);
  if (one.ec != std::errc() || one.ptr == end || *one.ptr != '-') return std::nullopt;
  const auto two = std::from_chars(one.ptr + 1, end, last);
  if (two.ec != std::errc() || two.ptr != end || last < first || last >= size) return std::nullopt;
  return ByteRange{first, last + 1, false};
}

}  // namespace stillpoint::node
