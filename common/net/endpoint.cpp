#include "common/net/endpoint.h"

#include <charconv>
#include <cstdint>

namespace stillpoint::net {

Result<HostPort> split_endpoint(const std::string& endpoint) {
  const auto colon = endpoint.rfind(':');
  auto bad = [&] { return Error{ErrorKind::permanent, "reading", endpoint, "expected ADDRESS:PORT"}; };
  if (colon == std::string::npos || colon == 0) return bad();
  HostPort split{endpoint.substr(0, colon), endpoint.substr(colon + 1)};
  if (split.host.front() == '[' && split.host.back() == ']') split.host = split.host.substr(1, split.host.size() - 2);
  std::uint16_t number = 0;
  const char* end = split.port.data() + split.port.size();
  if (auto parsed = std::from_chars(split.port.data(), end, number); parsed.ec != std::errc{} || parsed.ptr != end)
    return bad();
  if (split.host.empty()) return bad();
  return split;
}

}  // namespace stillpoint::net
