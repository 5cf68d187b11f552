// Requests to one bucket of an S3 server: signed, tried again with growing pauses when that may help, and errors in
// words that say what to do.
//
// Tried again: no answer, an answer with 429 or 5xx, or one that says SlowDown, RequestTimeout and the like. Not what
// is about the request itself: 400, 403, 404. Threads: any number of calls side by side; they block.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "node-daemon/store/remote/backoff.h"
#include "node-daemon/store/remote/http_client.h"
#include "node-daemon/store/remote/s3_answers.h"

namespace stillpoint::node {

struct S3Settings {
  std::string endpoint;  // "https://s3.example.org", a port after it if it is not the usual one
  std::string bucket;
  std::string prefix;  // of all names: "site-a" or "backup/site-a"; empty: none
  std::string region = "us-east-1";
  bool path_style = true;             // https://HOST/BUCKET/KEY; otherwise https://BUCKET.HOST/KEY
  std::filesystem::path credentials;  // s3_credentials.h
  std::filesystem::path ca;           // the CAs that count; empty: the system's
  std::string proxy;                  // URL; empty: none
  std::uint64_t part_bytes =
      16u << 20;                     // what is larger goes in parts of this size; at least 5 MiB, most servers ask that
  std::shared_ptr<UploadCaps> caps;  // of puts; may be null
  std::chrono::milliseconds connect_timeout{10'000};
  std::chrono::seconds stall_timeout{30};
  RetrySettings retries;
};

struct S3Request {
  const char* step = "";  // for errors: "store"
  HttpMethod method = HttpMethod::get;
  std::string key;                           // whole, with the prefix; empty: the bucket itself
  std::map<std::string, std::string> query;  // not escaped
  std::vector<std::string> headers;
  std::optional<HttpRequest::Range> range;
  const ReadableFile* body = nullptr;
  HttpRequest::Range body_range;
  std::string text;
  std::size_t body_limit = 8u << 20;
  bool once = false;                                  // no further attempts
  std::optional<std::chrono::seconds> stall_timeout;  // another than the settings'
  std::stop_token stop = {};
};

struct S3Answer {
  HttpResponse response;
  std::optional<Error> failure;  // none: done
  std::string code;              // the server's, of the failure
};

class S3Client {
 public:
  // refused: settings or credentials that cannot be. Asks the server nothing.
  static Result<std::shared_ptr<S3Client>> make(const S3Settings& settings);

  // An error when no attempt brought an answer that says yes or no; otherwise the answer.
  Result<S3Answer> ask(const S3Request& request);
  // The same; what the server refused is an error, too.
  Result<HttpResponse> run(const S3Request& request);

  const S3Settings& settings() const { return settings_; }
  const std::string& where() const { return where_; }  // "s3://BUCKET/PREFIX"
  std::string key_of(const std::string& name) const;   // with the prefix
  std::string object(const std::string& key) const;    // for errors: "s3://BUCKET/KEY"

 private:
  S3Client(S3Settings settings, HttpSettings http);
  Result<HttpRequest> http_request(const S3Request& request) const;
  S3Answer judge(const S3Request& request, HttpResponse response) const;
  Error failure_of(const S3Request& request, const HttpResponse& response, const S3Failure& failure) const;

  const S3Settings settings_;
  const std::string where_;
  std::string base_;  // URL of the bucket
  HttpClient http_;
};

}  // namespace stillpoint::node
