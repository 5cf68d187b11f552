#include "node-daemon/store/remote/http_client.h"

#include <curl/curl.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <mutex>

namespace stillpoint::node {
namespace {

constexpr std::size_t kHeaderLimit = 64u << 10;  // of all headers of a response
constexpr std::size_t kPiece = 512u << 10;       // read from the body's file at once
constexpr std::uint64_t kSlow = 1024;            // bytes/s; less is a stall
constexpr std::uint64_t kSlowest = 64;           // the same where our own caps hold us up
constexpr std::uint64_t kShares = 1024;          // of the cap: many send side by side, and what is stored waits as well

struct HandleCloser {
  void operator()(CURL* handle) const { curl_easy_cleanup(handle); }
};
using Handle = std::unique_ptr<CURL, HandleCloser>;

struct ListFreer {
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};
using List = std::unique_ptr<curl_slist, ListFreer>;

void append(List& list, const std::string& line) {
  curl_slist* const longer = curl_slist_append(list.get(), line.c_str());
  if (longer == nullptr) throw std::bad_alloc();
  (void)list.release();
  list.reset(longer);
}

const char* name_of(HttpMethod method) {
  switch (method) {
    case HttpMethod::get: return "GET";
    case HttpMethod::head: return "HEAD";
    case HttpMethod::put: return "PUT";
    case HttpMethod::post: return "POST";
    case HttpMethod::remove: return "DELETE";
  }
  return "?";
}

std::string lower_case(std::string_view text) {
  std::string lower(text);
  for (char& c : lower)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return lower;
}

std::string_view trimmed(std::string_view text) {
  const auto space = [](char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; };
  while (!text.empty() && space(text.front())) text.remove_prefix(1);
  while (!text.empty() && space(text.back())) text.remove_suffix(1);
  return text;
}

// One request on its way. libcurl's callbacks have this as their argument; none lets an exception through.
class Transfer {
 public:
  Transfer(const HttpSettings& settings, const HttpRequest& request) : settings_(settings), request_(request) {}

  Result<HttpResponse> run(CURL* handle) {
    handle_ = handle;
    set_up();
    if (bad_option_ != 0)
      return error(ErrorKind::permanent, "this libcurl does not take option " + std::to_string(bad_option_));
    if (request_.stop.stop_requested()) return stopped();
    const CURLcode code = curl_easy_perform(handle_);
    if (code != CURLE_OK) return failure(code);
    curl_easy_getinfo(handle_, CURLINFO_RESPONSE_CODE, &response_.status);
    return std::move(response_);
  }

 private:
  template <class T>
  void set(CURLoption option, T value) {
    if (curl_easy_setopt(handle_, option, value) != CURLE_OK && bad_option_ == 0) bad_option_ = option;
  }
  void set_text(CURLoption option, const std::string& value) { set(option, value.c_str()); }

  void set_up() {
    curl_easy_reset(handle_);  // keeps connections
    set(CURLOPT_NOSIGNAL, 1L);
    set(CURLOPT_ERRORBUFFER, words_.data());
    set_text(CURLOPT_URL, request_.url);
    set_text(CURLOPT_PROTOCOLS_STR, "http,https");
    set(CURLOPT_HTTP_VERSION, long{CURL_HTTP_VERSION_1_1});
    set_text(CURLOPT_USERAGENT, "stillpoint/" STILLPOINT_VERSION);
    set_text(CURLOPT_PROXY, settings_.proxy);
    if (!settings_.connect_to.empty()) {
      append(connect_to_, "::" + settings_.connect_to);
      set(CURLOPT_CONNECT_TO, connect_to_.get());
    }
    set_limits();
    set_identity();
    set_method();
    for (const std::string& line : request_.headers) append(headers_, line);
    set(CURLOPT_HTTPHEADER, headers_.get());
    set(CURLOPT_WRITEFUNCTION, &Transfer::take_body);
    set(CURLOPT_WRITEDATA, this);
    set(CURLOPT_HEADERFUNCTION, &Transfer::take_header);
    set(CURLOPT_HEADERDATA, this);
  }

  void set_limits() {
    set(CURLOPT_TCP_KEEPALIVE, 1L);
    set(CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(settings_.connect_timeout.count()));
    set(CURLOPT_LOW_SPEED_LIMIT, static_cast<long>(slow()));
    set(CURLOPT_LOW_SPEED_TIME, static_cast<long>(stall_timeout().count()));
    set(CURLOPT_NOPROGRESS, 0L);
    set(CURLOPT_XFERINFOFUNCTION, &Transfer::shall_stop);
    set(CURLOPT_XFERINFODATA, this);
  }

  void set_identity() {
    set(CURLOPT_SSL_VERIFYPEER, 1L);
    set(CURLOPT_SSL_VERIFYHOST, 2L);
    set(CURLOPT_SSLVERSION, long{settings_.identity ? CURL_SSLVERSION_TLSv1_3 : CURL_SSLVERSION_TLSv1_2});
    if (settings_.identity) {
      set_text(CURLOPT_SSLCERT, settings_.identity->certificate);
      set_text(CURLOPT_SSLKEY, settings_.identity->key);
    }
    const auto& ca = settings_.identity ? settings_.identity->ca : settings_.ca;
    if (!ca.empty()) {
      set_text(CURLOPT_CAINFO, ca);
      set(CURLOPT_CAPATH, static_cast<const char*>(nullptr));  // the system's directory would count beside it
    }
    if (settings_.sigv4) {
      set_text(CURLOPT_AWS_SIGV4, "aws:amz:" + settings_.sigv4->region + ":s3");
      set_text(CURLOPT_USERNAME, settings_.sigv4->user);
      set_text(CURLOPT_PASSWORD, settings_.sigv4->secret);
    }
  }

  void set_method() {
    switch (request_.method) {
      case HttpMethod::get: set(CURLOPT_HTTPGET, 1L); break;
      case HttpMethod::head: set(CURLOPT_NOBODY, 1L); break;
      case HttpMethod::remove: set_text(CURLOPT_CUSTOMREQUEST, "DELETE"); break;
      case HttpMethod::post:
        set(CURLOPT_POST, 1L);
        set(CURLOPT_POSTFIELDS, request_.text.data());
        set(CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(request_.text.size()));
        break;
      case HttpMethod::put:
        set(CURLOPT_UPLOAD, 1L);
        set(CURLOPT_INFILESIZE_LARGE, static_cast<curl_off_t>(to_send()));
        set(CURLOPT_UPLOAD_BUFFERSIZE, long{kPiece});
        set(CURLOPT_READFUNCTION, &Transfer::give_body);
        set(CURLOPT_READDATA, this);
        set(CURLOPT_SEEKFUNCTION, &Transfer::seek_body);
        set(CURLOPT_SEEKDATA, this);
        break;
    }
    if (request_.range) {
      const auto [offset, count] = *request_.range;
      set_text(CURLOPT_RANGE, std::to_string(offset) + "-" + std::to_string(offset + count - 1));
    }
  }

  // Caps of our own must not look like a stall; only sending waits for them.
  std::uint64_t slow() const {
    if (!settings_.caps || request_.body == nullptr) return kSlow;
    return std::clamp(settings_.caps->bytes_per_second() / kShares, kSlowest, kSlow);
  }
  std::uint64_t to_send() const { return request_.body == nullptr ? 0 : request_.body_range.count; }
  std::chrono::seconds stall_timeout() const { return request_.stall_timeout.value_or(settings_.stall_timeout); }

  static int shall_stop(void* self, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
    return static_cast<Transfer*>(self)->request_.stop.stop_requested() ? 1 : 0;
  }

  static std::size_t give_body(char* out, std::size_t size, std::size_t count, void* self) noexcept {
    return static_cast<Transfer*>(self)->give(out, size * count);
  }
  std::size_t give(char* out, std::size_t room) {
    std::size_t count = std::min<std::uint64_t>(room, to_send() - sent_);
    if (count == 0) return 0;
    if (settings_.caps) {
      count = std::min(count, settings_.caps->piece_bytes());
      settings_.caps->pause(request_.stop);
      settings_.caps->sending(count, request_.stop);
    }
    auto bytes = request_.body->read(request_.body_range.offset + sent_, count);
    if (!bytes) {
      broken_ = bytes.error();
      return CURL_READFUNC_ABORT;
    }
    std::ranges::copy(*bytes, out);
    sent_ += count;
    return count;
  }
  // libcurl sends again from the start when a kept connection turns out to be closed.
  static int seek_body(void* self, curl_off_t offset, int origin) noexcept {
    auto& transfer = *static_cast<Transfer*>(self);
    if (origin != SEEK_SET || offset < 0 || static_cast<std::uint64_t>(offset) > transfer.to_send())
      return CURL_SEEKFUNC_CANTSEEK;
    transfer.sent_ = static_cast<std::uint64_t>(offset);
    return CURL_SEEKFUNC_OK;
  }

  static std::size_t take_body(char* bytes, std::size_t size, std::size_t count, void* self) noexcept {
    auto& transfer = *static_cast<Transfer*>(self);
    const std::size_t more = size * count;
    if (more > transfer.request_.body_limit - transfer.response_.body.size()) {
      transfer.broken_ = transfer.error(
          ErrorKind::damaged, "the answer is longer than " + std::to_string(transfer.request_.body_limit) + " bytes");
      return CURL_WRITEFUNC_ERROR;
    }
    transfer.response_.body.append(bytes, more);
    return more;
  }

  static std::size_t take_header(char* bytes, std::size_t size, std::size_t count, void* self) noexcept {
    auto& transfer = *static_cast<Transfer*>(self);
    const std::string_view line(bytes, size * count);
    transfer.header_bytes_ += line.size();
    if (transfer.header_bytes_ > kHeaderLimit) {
      transfer.broken_ = transfer.error(ErrorKind::damaged, "the answer has too many headers");
      return CURL_WRITEFUNC_ERROR;
    }
    if (line.starts_with("HTTP/")) transfer.response_.headers.clear();  // of a "100 Continue" before
    if (const auto colon = line.find(':'); colon != line.npos)
      transfer.response_.headers[lower_case(line.substr(0, colon))] = trimmed(line.substr(colon + 1));
    return line.size();
  }

  Error error(ErrorKind kind, std::string cause) const {
    return {kind, name_of(request_.method), request_.url.substr(0, request_.url.find('?')), std::move(cause)};
  }
  Error stopped() const { return error(ErrorKind::refused, "stopped as asked"); }

  Error failure(CURLcode code) const {
    if (broken_) return *broken_;
    const std::string words = words_[0] != '\0' ? words_.data() : curl_easy_strerror(code);
    long verified = 0;  // X509_V_OK; otherwise the handshake failed with some code or other
    curl_easy_getinfo(handle_, CURLINFO_SSL_VERIFYRESULT, &verified);
    if (verified != 0) return error(ErrorKind::refused, "the server is not who it should be: " + words);
    switch (code) {
      case CURLE_ABORTED_BY_CALLBACK: return stopped();
      case CURLE_OPERATION_TIMEDOUT: return error(ErrorKind::transient, timeout_words(words));
      case CURLE_PEER_FAILED_VERIFICATION:
        return error(ErrorKind::refused, "the server is not who it should be: " + words);
      case CURLE_SSL_CERTPROBLEM:
      case CURLE_SSL_CACERT_BADFILE: return error(ErrorKind::refused, "own key, certificate or CA file: " + words);
      case CURLE_URL_MALFORMAT:
      case CURLE_UNSUPPORTED_PROTOCOL: return error(ErrorKind::permanent, words);
      default: return error(ErrorKind::transient, words);
    }
  }
  std::string timeout_words(const std::string& words) const {
    curl_off_t connected = 0;
    curl_easy_getinfo(handle_, CURLINFO_PRETRANSFER_TIME_T, &connected);
    if (connected == 0) return "no connection in time: " + words;
    return "under " + std::to_string(slow()) + " bytes/s for " + std::to_string(stall_timeout().count()) +
           " s: the server or the way to it is stuck";
  }

  const HttpSettings& settings_;
  const HttpRequest& request_;
  CURL* handle_ = nullptr;
  std::array<char, CURL_ERROR_SIZE> words_{};
  List headers_, connect_to_;
  HttpResponse response_;
  std::optional<Error> broken_;  // why a callback ended the transfer
  std::uint64_t sent_ = 0;
  std::size_t header_bytes_ = 0;
  int bad_option_ = 0;
};

}  // namespace

// What is not in use; each handle has its own connections.
class HttpClient::Handles {
 public:
  explicit Handles(std::size_t most) : most_(most) {}
  Handle take() {
    const std::lock_guard lock(mutex_);
    if (idle_.empty()) return Handle(curl_easy_init());
    Handle handle = std::move(idle_.back());
    idle_.pop_back();
    return handle;
  }
  void give_back(Handle handle) {
    const std::lock_guard lock(mutex_);
    if (idle_.size() < most_) idle_.push_back(std::move(handle));
  }

 private:
  const std::size_t most_;
  std::mutex mutex_;
  std::vector<Handle> idle_;
};

std::string HttpResponse::header(const std::string& lower_case_name) const {
  const auto found = headers.find(lower_case_name);
  return found == headers.end() ? std::string() : found->second;
}

std::optional<std::uint64_t> HttpResponse::content_length() const {
  const std::string text = header("content-length");
  std::uint64_t length = 0;
  const auto read = std::from_chars(text.data(), text.data() + text.size(), length);
  if (text.empty() || read.ec != std::errc() || read.ptr != text.data() + text.size()) return std::nullopt;
  return length;
}

HttpClient::HttpClient(HttpSettings settings)
    : settings_(std::move(settings)), handles_(std::make_unique<Handles>(settings_.idle_connections)) {
  static std::once_flag once;
  std::call_once(once, [] { curl_global_init(CURL_GLOBAL_DEFAULT); });
}

HttpClient::~HttpClient() = default;

Result<HttpResponse> HttpClient::run(const HttpRequest& request) {
  Handle handle = handles_->take();
  if (!handle) return Error{ErrorKind::transient, name_of(request.method), request.url, "no memory for a connection"};
  auto response = Transfer(settings_, request).run(handle.get());
  handles_->give_back(std::move(handle));
  return response;
}

}  // namespace stillpoint::node
