#include "node-daemon/store/remote/s3_client.h"

#include <algorithm>

#include "node-daemon/store/digest.h"
#include "node-daemon/store/remote/blob_name.h"
#include "node-daemon/store/remote/s3_credentials.h"
#include "node-daemon/store/seal.h"

namespace stillpoint::node {
namespace {

constexpr std::uint64_t kSmallestPart = 5u << 20;
constexpr std::size_t kHashPiece = 1u << 20;
constexpr std::size_t kWordsLimit = 64u << 10;  // an error's body may be so long, whatever was asked for

// What codes mean for us, and what to do. {file} is the credentials' file.
struct Meaning {
  std::string_view code;
  ErrorKind kind;
  std::string_view advice;
};
constexpr Meaning kMeanings[] = {
    {"NoSuchKey", ErrorKind::not_found, ""},
    {"NoSuchUpload", ErrorKind::not_found, "the upload was ended by somebody else"},
    {"PreconditionFailed", ErrorKind::not_found, "it was replaced since it was opened"},
    {"InvalidRange", ErrorKind::damaged, "it is shorter than when it was opened"},
    {"NoSuchBucket", ErrorKind::refused, "the bucket does not exist: create it, or correct its name"},
    {"InvalidAccessKeyId", ErrorKind::refused, "wrong credentials: see {file}"},
    {"SignatureDoesNotMatch", ErrorKind::refused, "wrong credentials: see {file}"},
    {"AccessDenied", ErrorKind::refused,
     "the credentials in {file} are wrong or may not do this: they need to read, write, list and delete"},
    {"RequestTimeTooSkewed", ErrorKind::refused, "this host's clock and the server's differ: set the right time"},
    {"PermanentRedirect", ErrorKind::refused, "the bucket is elsewhere: correct endpoint and region"},
    {"TemporaryRedirect", ErrorKind::transient, "the bucket is on its way to another place"},
    {"AuthorizationHeaderMalformed", ErrorKind::refused, "the bucket is in another region: correct the region"},
    {"XMinioStorageFull", ErrorKind::storage_full, "the store is full"},
    {"InsufficientCapacity", ErrorKind::storage_full, "the store is full"},
    {"QuotaExceeded", ErrorKind::storage_full, "the store's quota is used up"},
    {"QuotaExceededException", ErrorKind::storage_full, "the store's quota is used up"},
    {"XMinioAdminBucketQuotaExceeded", ErrorKind::storage_full, "the bucket's quota is used up"},
    {"SlowDown", ErrorKind::transient, "the server has too much to do"},
    {"ServiceUnavailable", ErrorKind::transient, "the server has too much to do, or is full"},
    {"RequestTimeout", ErrorKind::transient, ""},
    {"OperationAborted", ErrorKind::transient, ""},
    // What arrived is not what was sent.
    {"BadDigest", ErrorKind::transient, "the bytes were changed on their way"},
    {"XAmzContentSHA256Mismatch", ErrorKind::transient, "the bytes were changed on their way"},
};

ErrorKind kind_of_status(long status) {
  if (status == 404) return ErrorKind::not_found;
  if (status == 401 || status == 403) return ErrorKind::refused;
  if (status == 507) return ErrorKind::storage_full;
  return status == 408 || status == 429 || status >= 500 ? ErrorKind::transient : ErrorKind::permanent;
}

// Letters, digits and these.
bool of_characters(std::string_view text, std::string_view others) {
  return std::ranges::all_of(text, [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || others.find(c) != others.npos;
  });
}

// As SigV4 wants it, and as curl takes it over into what it signs.
std::string escaped(std::string_view text) {
  static constexpr char kDigits[] = "0123456789ABCDEF";
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (of_characters({&c, 1}, "-_.~")) out += c;
    else out += {'%', kDigits[byte >> 4], kDigits[byte & 15]};
  }
  return out;
}

Result<std::string> sha256_of(const ReadableFile& file, HttpRequest::Range range) {
  Sha256 digest;
  for (std::uint64_t done = 0; done < range.count;) {
    auto piece = file.read(range.offset + done, std::min<std::uint64_t>(kHashPiece, range.count - done));
    if (!piece) return piece.error();
    digest.add(*piece);
    done += piece->size();
  }
  return hex(digest.finish());
}

std::string sha256_of(std::string_view text) {
  Sha256 digest;
  digest.add(text);
  return hex(digest.finish());
}

Error bad_setting(std::string object, std::string cause) {
  return {ErrorKind::refused, "set up the object store", std::move(object), std::move(cause)};
}

// What may stand after "https://": a name, an address, a port.
Status check_endpoint(const std::string& endpoint) {
  const auto after = endpoint.find("://");
  const std::string scheme = endpoint.substr(0, after);
  const std::string host = after == endpoint.npos ? "" : endpoint.substr(after + 3);
  if ((scheme == "http" || scheme == "https") && !host.empty() && of_characters(host, ".-:[]")) return {};
  return bad_setting(endpoint, "an endpoint looks like https://s3.example.org or http://10.0.0.5:9000");
}

Status check(const S3Settings& settings) {
  if (auto good = check_endpoint(settings.endpoint); !good) return good;
  const std::string& bucket = settings.bucket;
  if (bucket.size() < 3 || bucket.size() > 63 || !of_characters(bucket, "-._") || bucket.front() == '.')
    return bad_setting(bucket, "a bucket's name has 3 to 63 letters, digits, \"-\" and \".\"");
  if (auto good = check_blob_directory("", settings.prefix); !good)
    return bad_setting(settings.prefix, "a prefix is plain names between slashes, with none at its ends");
  if (settings.region.empty() || !of_characters(settings.region, "-"))
    return bad_setting(settings.region, "a region looks like us-east-1");
  if (settings.part_bytes < kSmallestPart) return bad_setting("", "parts have at least 5 MiB");
  return {};
}

// What keys are appended to.
std::string url_of_bucket(const S3Settings& settings) {
  if (settings.path_style) return settings.endpoint + "/" + settings.bucket + "/";
  const auto host = settings.endpoint.find("://") + 3;
  return settings.endpoint.substr(0, host) + settings.bucket + "." + settings.endpoint.substr(host) + "/";
}

}  // namespace

Result<std::shared_ptr<S3Client>> S3Client::make(const S3Settings& given) {
  S3Settings settings = given;
  while (settings.endpoint.ends_with('/')) settings.endpoint.pop_back();
  if (auto good = check(settings); !good) return good.error();
  auto credentials = load_s3_credentials(settings.credentials);
  if (!credentials) return credentials.error();
  HttpSettings http;
  http.ca = settings.ca;
  http.proxy = settings.proxy;
  http.sigv4 = SigV4{credentials->access_key, credentials->secret_key, settings.region};
  http.connect_timeout = settings.connect_timeout;
  http.stall_timeout = settings.stall_timeout;
  http.caps = settings.caps;
  return std::shared_ptr<S3Client>(new S3Client(std::move(settings), std::move(http)));
}

S3Client::S3Client(S3Settings settings, HttpSettings http)
    : settings_(std::move(settings)),
      where_("s3://" + settings_.bucket + (settings_.prefix.empty() ? "" : "/" + settings_.prefix)),
      base_(url_of_bucket(settings_)),
      http_(std::move(http)) {}

std::string S3Client::key_of(const std::string& name) const {
  return settings_.prefix.empty() ? name : settings_.prefix + "/" + name;
}

std::string S3Client::object(const std::string& key) const {
  return "s3://" + settings_.bucket + (key.empty() ? "" : "/" + key);
}

Result<HttpRequest> S3Client::http_request(const S3Request& request) const {
  HttpRequest http;
  http.method = request.method;
  http.url = base_ + request.key;  // plain names: nothing to escape
  char separator = '?';
  for (const auto& [name, value] : request.query) {
    http.url += separator + escaped(name) + "=" + escaped(value);
    separator = '&';
  }
  http.headers = request.headers;
  http.range = request.range;
  http.body = request.body;
  http.body_range = request.body_range;
  http.text = request.text;
  http.body_limit = std::max(request.body_limit, kWordsLimit);
  http.stop = request.stop;
  http.stall_timeout = request.stall_timeout;
  auto digest = request.body == nullptr ? sha256_of(request.text) : sha256_of(*request.body, request.body_range);
  if (!digest) return digest.error();
  // Signed, and compared by the server with what arrived.
  http.headers.push_back("x-amz-content-sha256: " + *digest);
  return http;
}

Result<S3Answer> S3Client::ask(const S3Request& request) {
  auto http = http_request(request);
  if (!http) return http.error();
  for (Backoff pauses(settings_.retries);;) {
    auto response = http_.run(*http);
    std::optional<Error> failed;
    if (response) {
      S3Answer answer = judge(request, std::move(*response));
      if (!answer.failure || answer.failure->kind != ErrorKind::transient) return answer;
      failed = answer.failure;
    } else {
      const Error& error = response.error();
      failed =
          Error{error.kind, request.step, object(request.key), error.step + " " + error.object + ": " + error.cause};
    }
    if (failed->kind != ErrorKind::transient || request.once) return *failed;
    if (pauses.wait(request.stop)) continue;
    if (request.stop.stop_requested())
      return Error{ErrorKind::refused, request.step, object(request.key), "stopped as asked"};
    failed->cause += " (" + std::to_string(pauses.attempts()) + " attempts)";
    return *failed;
  }
}

Result<HttpResponse> S3Client::run(const S3Request& request) {
  auto answer = ask(request);
  if (!answer) return answer.error();
  if (answer->failure) return *answer->failure;
  return std::move(answer->response);
}

S3Answer S3Client::judge(const S3Request& request, HttpResponse response) const {
  const bool done = response.status >= 200 && response.status < 300;
  // A server that has to work for long says 200 first and may still fail.
  auto failure = done && request.method != HttpMethod::post ? std::nullopt : parse_s3_failure(response.body);
  if (done && !failure) return {std::move(response), std::nullopt, ""};
  if (!failure) failure.emplace();
  Error error = failure_of(request, response, *failure);
  return {std::move(response), std::move(error), failure->code};
}

Error S3Client::failure_of(const S3Request& request, const HttpResponse& response, const S3Failure& failure) const {
  const bool done = response.status < 300;
  Error error{done ? ErrorKind::transient : kind_of_status(response.status), request.step, object(request.key), ""};
  std::string said = "the server says " + std::to_string(response.status);
  if (!failure.code.empty()) said += " " + failure.code;
  if (!failure.message.empty()) said += ", \"" + failure.message + "\"";
  const auto meaning = std::ranges::find(kMeanings, failure.code, &Meaning::code);
  if (meaning == std::end(kMeanings)) {
    error.cause = said;
    return error;
  }
  error.kind = meaning->kind;
  std::string advice(meaning->advice);
  if (const auto at = advice.find("{file}"); at != advice.npos) advice.replace(at, 6, settings_.credentials.string());
  if (!failure.region.empty()) advice += " (region " + failure.region + ")";
  if (!failure.endpoint.empty()) advice += " (endpoint " + failure.endpoint + ")";
  error.cause = advice.empty() ? said : advice + "; " + said;
  return error;
}

}  // namespace stillpoint::node
