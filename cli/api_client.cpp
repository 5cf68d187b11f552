#include "cli/api_client.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/beast/core/basic_stream.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <nlohmann/json.hpp>
#include <optional>

#include "common/file.h"

namespace stillpoint::cli {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using nlohmann::json;
using Stream = beast::basic_stream<asio::local::stream_protocol>;

constexpr std::uint64_t kMaxAnswer = 256u << 20;

Failure no_coordinator(const std::filesystem::path& socket, const std::string& cause) {
  return {{ErrorKind::transient, "connect", socket.string(),
           cause + "; start the coordinator (`stillpoint lab up` for a laboratory) or name its socket with --server"},
          kNoCoordinator};
}

// One question on one connection: connects, sends the request, reads the header, then the body as the caller wants.
class Exchange {
 public:
  Exchange(const std::filesystem::path& socket, std::chrono::milliseconds deadline)
      : socket_(socket), stream_(context_), end_(std::chrono::steady_clock::now() + deadline) {}

  Called<void> open() {
    if (socket_.string().size() >= sizeof(sockaddr_un::sun_path))
      return no_coordinator(socket_, "the path is too long for a socket");
    const auto failed =
        run([&](auto done) { stream_.async_connect(asio::local::stream_protocol::endpoint(socket_.string()), done); });
    if (failed) return no_coordinator(socket_, failed.message());
    return {};
  }

  template <class Body>
  Called<void> send(http::request<Body>& request) {
    request.version(11);
    request.set(http::field::host, "stillpoint");
    request.set(http::field::connection, "close");
    request.prepare_payload();
    http::request_serializer<Body> serializer(request);
    const auto failed = run([&](auto done) {
      http::async_write(stream_, serializer, [done](beast::error_code code, std::size_t) { done(code); });
    });
    // A coordinator that refuses an upload may answer and close before it has read it all: its answer counts.
    if (failed && failed != asio::error::broken_pipe && failed != asio::error::connection_reset) return gone(failed);
    return {};
  }

  template <class Parser>
  Called<void> read_header(Parser& parser) {
    parser.body_limit(kMaxAnswer);
    return read([&](auto done) {
      http::async_read_header(stream_, buffer_, parser, [done](beast::error_code code, std::size_t) { done(code); });
    });
  }

  template <class Parser>
  Called<void> read_body(Parser& parser) {
    return read([&](auto done) {
      http::async_read(stream_, buffer_, parser, [done](beast::error_code code, std::size_t) { done(code); });
    });
  }

 private:
  template <class Start>
  beast::error_code run(Start start) {
    beast::error_code result = asio::error::operation_aborted;
    stream_.expires_at(end_);
    start([&result](beast::error_code code) { result = code; });
    context_.restart();
    context_.run();
    return result;
  }

  template <class Start>
  Called<void> read(Start start) {
    if (const auto failed = run(start)) return gone(failed);
    return {};
  }

  Failure gone(beast::error_code code) const {
    if (code == beast::error::timeout) {
      return {{ErrorKind::deadline, "ask", socket_.string(),
               "the coordinator did not answer in time; it may still be at it"},
              kFailed};
    }
    return {{ErrorKind::transient, "ask", socket_.string(),
             fmt::format("the coordinator went away before it answered ({}); ask `stillpoint status` what became of it",
                         code.message())},
            kNoCoordinator};
  }

  std::filesystem::path socket_;
  asio::io_context context_;
  Stream stream_;
  std::chrono::steady_clock::time_point end_;
  beast::flat_buffer buffer_;
};

std::map<std::string, std::string> headers_of(const http::fields& fields) {
  std::map<std::string, std::string> headers;
  for (const auto& field : fields) {
    std::string name(field.name_string());
    for (auto& c : name) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    headers.emplace(std::move(name), std::string(field.value()));
  }
  return headers;
}

template <class Body>
Called<HttpAnswer> converse(const std::filesystem::path& socket, http::request<Body>& request,
                            std::chrono::milliseconds deadline) {
  Exchange exchange(socket, deadline);
  if (auto opened = exchange.open(); !opened) return opened.error();
  if (auto sent = exchange.send(request); !sent) return sent.error();
  http::response_parser<http::string_body> parser;
  if (auto read = exchange.read_header(parser); !read) return read.error();
  if (auto read = exchange.read_body(parser); !read) return read.error();
  auto& answer = parser.get();
  return HttpAnswer{answer.result_int(), std::move(answer.body()), headers_of(answer)};
}

bool good(unsigned status) { return status >= 200 && status < 300; }

Called<json> json_in(Called<HttpAnswer> answer, const std::string& target) {
  if (!answer) return answer.error();
  if (!good(answer->status)) return failure_in(*answer, target);
  if (answer->body.empty()) return json::object();
  auto document = json::parse(answer->body, nullptr, false);
  if (document.is_discarded()) {
    return Failure{{ErrorKind::permanent, "ask", target,
                    "the coordinator's answer is not JSON; do its version and this one agree?"},
                   kFailed};
  }
  return document;
}

ErrorKind kind_named(std::string_view text) {
  for (const auto kind : {ErrorKind::refused, ErrorKind::transient, ErrorKind::permanent, ErrorKind::storage_full,
                          ErrorKind::damaged, ErrorKind::deadline, ErrorKind::not_quiet, ErrorKind::not_found}) {
    if (name(kind) == text) return kind;
  }
  return ErrorKind::permanent;
}

}  // namespace

Failure failure_in(const HttpAnswer& answer, const std::string& target) {
  const auto document = json::parse(answer.body, nullptr, false);
  if (document.is_object() && document.contains("error") && document["error"].is_object()) {
    const auto& error = document["error"];
    const auto kind = kind_named(error.value("kind", ""));
    return {{kind, "", "", error.value("message", "no reason given")},
            kind == ErrorKind::not_found ? kNotFound : kFailed};
  }
  return {
      {ErrorKind::permanent, "ask", target, fmt::format("the coordinator answered {} without a reason", answer.status)},
      kFailed};
}

Called<HttpAnswer> ApiClient::ask(const std::string& method, const std::string& target, const std::string& body,
                                  std::chrono::milliseconds deadline) const {
  http::request<http::string_body> request(http::string_to_verb(method), target, 11);
  if (!body.empty()) request.set(http::field::content_type, "application/json");
  request.body() = body;
  return converse(socket_, request, deadline);
}

Called<json> ApiClient::get(const std::string& target, std::chrono::milliseconds deadline) const {
  return json_in(ask("GET", target, "", deadline), target);
}

Called<json> ApiClient::post(const std::string& target, const json& body, std::chrono::milliseconds deadline) const {
  return json_in(ask("POST", target, body.dump(), deadline), target);
}

Called<json> ApiClient::remove(const std::string& target, std::chrono::milliseconds deadline) const {
  return json_in(ask("DELETE", target, "", deadline), target);
}

Called<void> ApiClient::upload(const std::string& target, const std::filesystem::path& file, unsigned mode) const {
  http::request<http::file_body> request(http::verb::put, target, 11);
  request.set("X-Mode", fmt::format("{:04o}", mode & 07777u));
  request.set(http::field::content_type, "application/octet-stream");
  beast::error_code code;
  request.body().open(file.c_str(), beast::file_mode::scan, code);
  if (code) return Failure{{ErrorKind::permanent, "read", file.string(), code.message()}, kFailed};
  const auto answer = converse(socket_, request, kLong);
  if (!answer) return answer.error();
  if (!good(answer->status)) return failure_in(*answer, target);
  return {};
}

Called<void> ApiClient::download(const std::string& target, const std::filesystem::path& file) const {
  Exchange exchange(socket_, kLong);
  if (auto opened = exchange.open(); !opened) return opened.error();
  http::request<http::empty_body> request(http::verb::get, target, 11);
  if (auto sent = exchange.send(request); !sent) return sent.error();
  http::response_parser<http::empty_body> header;
  if (auto read = exchange.read_header(header); !read) return read.error();
  if (!good(header.get().result_int())) {
    http::response_parser<http::string_body> refusal(std::move(header));
    if (auto read = exchange.read_body(refusal); !read) return read.error();
    return failure_in({refusal.get().result_int(), refusal.get().body(), {}}, target);
  }
  http::response_parser<http::file_body> parser(std::move(header));
  parser.body_limit(boost::none);
  beast::error_code code;
  parser.get().body().open(file.c_str(), beast::file_mode::write_new, code);
  if (code) return Failure{{ErrorKind::permanent, "write", file.string(), code.message()}, kFailed};
  if (auto read = exchange.read_body(parser); !read) {
    std::error_code ignored;
    std::filesystem::remove(file, ignored);
    return read.error();
  }
  return {};
}

std::string url_segment(std::string_view text) {
  std::string encoded;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
                       c == '_' || c == '.' || c == '~';
    if (plain) encoded += c;
    else encoded += fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return encoded;
}

std::string url_path(std::string_view text) {
  std::string encoded;
  while (true) {
    const auto slash = text.find('/');
    encoded += url_segment(text.substr(0, slash));
    if (slash == std::string_view::npos) return encoded;
    encoded += '/';
    text.remove_prefix(slash + 1);
  }
}

Called<std::filesystem::path> find_server(const std::string& server) {
  constexpr const char* kLocal = "/run/stillpoint/api.sock";
  constexpr const char* kLaboratory = "/run/stillpoint/lab";
  if (!server.empty()) {
    if (server.find("://") != std::string::npos) {
      return Failure{{ErrorKind::refused, "connect", server, "expected the path of a unix socket"}, kWrongUsage};
    }
    return std::filesystem::path(server.starts_with("unix:") ? server.substr(5) : server);
  }
  struct stat figures {};
  if (::stat(kLocal, &figures) == 0) return std::filesystem::path(kLocal);
  if (auto text = read_file(kLaboratory, 4096)) {
    while (!text->empty() && (text->back() == '\n' || text->back() == ' ')) text->pop_back();
    if (!text->empty()) return std::filesystem::path(*text);
  }
  return no_coordinator(kLocal, "there is no coordinator on this machine");
}

Called<ApiClient> connect(const CommandContext& context) {
  auto socket = find_server(context.server);
  if (!socket) return socket.error();
  return ApiClient(std::move(*socket));
}

}  // namespace stillpoint::cli
