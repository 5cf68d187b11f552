// What the endpoints read of a request. Pure functions; any thread.
#pragma once

#include <charconv>
#include <nlohmann/json.hpp>
#include <string>

#include "coordinator/api/http.h"

namespace stillpoint::coordinator {

inline Result<std::uint64_t> number_in(const std::string& text, const std::string& what, int base = 10) {
  std::uint64_t value = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (text.empty() || parsed.ec != std::errc{} || parsed.ptr != text.data() + text.size())
    return Error{ErrorKind::refused, "reading", what, "expected a whole number, not \"" + text.substr(0, 40) + "\""};
  return value;
}

inline Result<std::uint64_t> query_number(const HttpRequest& request, const char* key, std::uint64_t otherwise) {
  const auto found = request.query.find(key);
  if (found == request.query.end()) return otherwise;
  return number_in(found->second, key);
}

// An empty body is an empty document.
inline Result<nlohmann::json> document_of(const HttpRequest& request) {
  if (request.body.empty()) return nlohmann::json::object();
  nlohmann::json document = nlohmann::json::parse(request.body, nullptr, false);
  if (document.is_discarded())
    return Error{ErrorKind::refused, "reading", "request body", "not well-formed JSON in UTF-8"};
  return document;
}

}  // namespace stillpoint::coordinator
