#include "cli/test_server.h"

#include <stdlib.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <stdexcept>

namespace stillpoint::cli {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::local::stream_protocol;

std::filesystem::path make_directory() {
  std::string name = (std::filesystem::temp_directory_path() / "stillpoint-cli-XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
  return name;
}

TestRequest request_of(const http::request<http::string_body>& message) {
  TestRequest request{std::string(message.method_string()), std::string(message.target()), message.body(), {}};
  for (const auto& field : message) {
    std::string name(field.name_string());
    for (auto& c : name) c = static_cast<char>(::tolower(c));
    request.headers[name] = std::string(field.value());
  }
  return request;
}

}  // namespace

struct TestServer::Listener {
  explicit Listener(const std::string& socket) : acceptor(context, stream_protocol::endpoint(socket)) {}
  asio::io_context context;
  stream_protocol::acceptor acceptor;
};

TestServer::TestServer(Handler handler) : directory_(make_directory()), handler_(std::move(handler)) {
  listener_ = std::make_unique<Listener>(socket());
  thread_ = std::thread([this] { serve(); });
}

TestServer::~TestServer() {
  // A last connection with nothing on it ends the loop.
  asio::io_context context;
  stream_protocol::socket last(context);
  boost::system::error_code ignored;
  last.connect(stream_protocol::endpoint(socket()), ignored);
  last.close(ignored);
  thread_.join();
  std::error_code code;
  std::filesystem::remove_all(directory_, code);
}

std::vector<TestRequest> TestServer::requests() const {
  const std::lock_guard lock(mutex_);
  return requests_;
}

void TestServer::serve() {
  while (true) {
    auto client = listener_->acceptor.accept();
    boost::beast::flat_buffer buffer;
    http::request_parser<http::string_body> parser;
    parser.body_limit(boost::none);
    boost::system::error_code code;
    http::read(client, buffer, parser, code);
    if (code) return;  // nothing on it: the end
    const auto request = request_of(parser.get());
    {
      const std::lock_guard lock(mutex_);
      requests_.push_back(request);
    }
    const auto answer = handler_(request);
    if (answer.hang_up) continue;
    http::response<http::string_body> message(http::status(answer.status), 11);
    for (const auto& [name, value] : answer.headers) message.set(name, value);
    message.body() = answer.body;
    message.keep_alive(false);
    message.prepare_payload();
    http::write(client, message, code);
  }
}

}  // namespace stillpoint::cli
