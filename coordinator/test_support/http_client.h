// One HTTP request over a unix socket, with blocking sockets and as little else as possible: what the API does is seen
// byte by byte. Tests only; any thread.
#pragma once

#include <chrono>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "common/fd.h"

namespace stillpoint::coordinator {

struct HttpReply {
  int status = 0;  // 0: no answer
  std::map<std::string, std::string> headers;
  std::string body;
  nlohmann::json json() const { return nlohmann::json::parse(body, nullptr, false); }
  std::string error_kind() const;
};

class HttpClient {
 public:
  explicit HttpClient(std::filesystem::path socket) : socket_(std::move(socket)) {}

  HttpReply get(const std::string& target) const { return request("GET", target, ""); }
  HttpReply post(const std::string& target, const std::string& body = "") const {
    return request("POST", target, body);
  }
  HttpReply request(const std::string& method, const std::string& target, const std::string& body,
                    const std::string& extra_headers = "") const;
  // Sends these bytes as they are and reads until the answer is whole or the connection ends.
  HttpReply raw(const std::string& bytes, std::chrono::milliseconds deadline = std::chrono::seconds(30)) const;
  Fd connect() const;

 private:
  std::filesystem::path socket_;
};

}  // namespace stillpoint::coordinator
