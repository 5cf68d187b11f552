#include "coordinator/api/http.h"

#include <algorithm>
#include <optional>
#include <string_view>

namespace stillpoint::coordinator {
namespace {

std::optional<unsigned> hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return std::nullopt;
}

std::optional<std::string> decode(std::string_view text) {
  std::string decoded;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      decoded += text[i];
      continue;
    }
    if (i + 2 >= text.size()) return std::nullopt;
    const auto high = hex_digit(text[i + 1]), low = hex_digit(text[i + 2]);
    if (!high || !low || (*high == 0 && *low == 0)) return std::nullopt;
    decoded += static_cast<char>(*high << 4 | *low);
    i += 2;
  }
  return decoded;
}

// Calls take for each part between separators.
template <class Take>
bool split(std::string_view text, char separator, Take take) {
  for (std::size_t start = 0; start <= text.size();) {
    const std::size_t end = std::min(text.find(separator, start), text.size());
    if (!take(text.substr(start, end - start))) return false;
    start = end + 1;
  }
  return true;
}

}  // namespace

Result<HttpRequest> parse_target(std::string_view target) {
  const auto bad = [&](const char* cause) { return Error{ErrorKind::refused, "reading", "request target", cause}; };
  HttpRequest request;
  const std::size_t mark = std::min(target.find('?'), target.size());
  const std::string_view path = target.substr(0, mark);
  if (path.empty() || path.front() != '/') return bad("expected a path that begins with /");
  const bool path_ok = split(path.substr(1), '/', [&](std::string_view part) {
    auto decoded = decode(part);
    if (!decoded || decoded->empty()) return false;
    request.path.push_back(std::move(*decoded));
    return true;
  });
  if (!path_ok) return bad("an empty component or a broken %-escape");
  if (mark + 1 >= target.size()) return request;
  const bool query_ok = split(target.substr(mark + 1), '&', [&](std::string_view part) {
    const std::size_t equals = std::min(part.find('='), part.size());
    auto key = decode(part.substr(0, equals));
    auto value = decode(equals == part.size() ? std::string_view() : part.substr(equals + 1));
    return key && value && !key->empty() && request.query.emplace(std::move(*key), std::move(*value)).second;
  });
  if (!query_ok) return bad("a broken query: expected key=value, each key once");
  return request;
}

}  // namespace stillpoint::coordinator
