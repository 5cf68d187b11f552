// Requests and responses of the API without the transport: what http_server reads and writes, and api answers. Values.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/fd.h"
#include "common/result.h"

namespace stillpoint::coordinator {

struct HttpRequest {
  std::string method;                        // "GET"
  std::vector<std::string> path;             // percent-decoded components
  std::map<std::string, std::string> query;  // percent-decoded
  std::string mode_header;                   // X-Mode
  std::string body;
};

struct HttpResponse {
  unsigned status = 200;
  std::string content_type = "application/json";
  std::vector<std::pair<std::string, std::string>> headers;
  std::string body;
  Fd file;  // when it is there: the body is its first file_bytes bytes
  std::uint64_t file_bytes = 0;
};

// One request on its way through the API.
struct HttpCall {
  HttpRequest request;
  std::function<void(HttpResponse)> respond;             // once; any thread
  std::function<void(std::function<void()>)> on_worker;  // runs what blocks
  std::shared_ptr<std::atomic<bool>> gone;               // shared with the connection: the client has left
};

// Splits a request target. Refused: broken escapes, an empty component, NUL, a key twice.
Result<HttpRequest> parse_target(std::string_view target);

}  // namespace stillpoint::coordinator
