// HTTP requests with libcurl, one call one request: what the S3 store and the store of a partner host are built on. It
// transfers, and nothing else: every answer with a status is a response, whatever the status; whether to try again is
// the caller's choice. Redirects are not followed.
//
// Errors: transient when there was no answer, or none in time; refused when the other side is not who it should be, our
// own certificate does not do, or the caller asked to stop; damaged when the answer is longer than it may be; what the
// body's file said when it could not be read. Their step is the method, their object the URL without its query.
// Credentials are in no error, and nothing is logged.
// Threads: any number of calls side by side, each with a connection of its own; connections are kept for later calls.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "common/result.h"
#include "node-daemon/store/files.h"
#include "node-daemon/store/upload_caps.h"

namespace stillpoint::node {

// Mutual TLS of a site: 1.3 only, and no CA but this file's. The other side's certificate must be for the URL's host: a
// DNS name in it or, where it has none, its common name.
struct SiteIdentity {
  std::filesystem::path ca, certificate, key;
};

// AWS Signature Version 4 for service "s3".
struct SigV4 {
  std::string user, secret, region;
};

struct HttpSettings {
  std::optional<SiteIdentity> identity;  // none: TLS 1.2 or later, no own certificate
  std::filesystem::path ca;              // without an identity: the CAs that count; empty: the system's
  std::optional<SigV4> sigv4;
  std::string connect_to;                             // "ADDR:PORT" instead of the URL's host and port, if not empty
  std::string proxy;                                  // URL; empty: none, whatever the environment says
  std::chrono::milliseconds connect_timeout{10'000};  // name, TCP and TLS
  // So long under a KiB/s, and the transfer is given up; libcurl's measure is some seconds behind.
  std::chrono::seconds stall_timeout{30};
  std::shared_ptr<UploadCaps> caps;  // of what is sent; may be null
  std::size_t idle_connections = 8;  // as many are kept
};

enum class HttpMethod { get, head, put, post, remove };

struct HttpRequest {
  HttpMethod method = HttpMethod::get;
  std::string url;                   // http: or https:, escaped; with sigv4 its query is "NAME=VALUE" sorted by names
  std::vector<std::string> headers;  // "Name: value"
  struct Range {
    std::uint64_t offset = 0, count = 0;  // bytes; count > 0
  };
  std::optional<Range> range;  // asked of a GET: the response may be 206 or, from a server that knows no ranges, 200
  // PUT sends these bytes of a file, piece by piece; none: an empty body. The file must outlive the call.
  const ReadableFile* body = nullptr;
  Range body_range;
  std::string text;                                   // POST's body
  std::size_t body_limit = 1u << 20;                  // of the response
  std::optional<std::chrono::seconds> stall_timeout;  // another than the client's
  std::stop_token stop = {};                          // requested from any thread: the call ends within about a second
};

struct HttpResponse {
  long status = 0;
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;

  // Empty if there is none.
  std::string header(const std::string& lower_case_name) const;
  // Of Content-Length; after HEAD, of the body that GET would give.
  std::optional<std::uint64_t> content_length() const;
};

class HttpClient {
 public:
  explicit HttpClient(HttpSettings settings);
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  Result<HttpResponse> run(const HttpRequest& request);
  const HttpSettings& settings() const { return settings_; }

 private:
  class Handles;
  const HttpSettings settings_;
  const std::unique_ptr<Handles> handles_;
};

}  // namespace stillpoint::node
