// What a request to a peer's server means. Text from outside; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace stillpoint::node {

struct PeerTarget {
  std::string host;  // whose store
  std::string name;  // below it: "packs", "packs/ID.pack", "images/j7", "images/j7/e12/guest-0.ram", "bad-blocks"
  bool is_directory = false;
};
// "/h1/packs/ID.pack"; a directory ends with '/'. Nothing: it is none of a store's, or leads out of it.
std::optional<PeerTarget> parse_peer_target(std::string_view target);

struct ByteRange {
  std::uint64_t begin = 0, end = 0;
  bool whole = true;  // none was asked
};
// header: "bytes=FIRST-LAST", or empty. Nothing: not within the file, or another form.
std::optional<ByteRange> parse_byte_range(std::string_view header, std::uint64_t size);

}  // namespace stillpoint::node
