#include "coordinator/api/http_server.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/beast/core/basic_stream.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <optional>
#include <set>

#include "common/log.h"
#include "coordinator/files/below.h"

namespace stillpoint::coordinator {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using asio::local::stream_protocol;
using boost::system::error_code;

constexpr std::size_t kDiscardBytes = 64u << 20;  // read and forgotten so that a refused client sees its answer
constexpr std::chrono::milliseconds kDiscardTime{5'000};
constexpr std::chrono::milliseconds kAcceptRetry{100};

}  // namespace

struct HttpServer::Impl : std::enable_shared_from_this<Impl> {
  Impl(const asio::any_io_executor& ex, Api& a, std::filesystem::path path, const HttpLimits& l)
      : executor(ex), api(a), socket(std::move(path)), limits(l), acceptor(ex), retry(ex) {}

  Status listen();
  void next();

  const asio::any_io_executor executor;
  Api& api;
  const std::filesystem::path socket;
  const HttpLimits limits;
  stream_protocol::acceptor acceptor;
  asio::steady_timer retry;
  asio::thread_pool workers{2};
  std::set<std::shared_ptr<Connection>> connections;  // open ones; each takes itself out when it closes
  bool stopped = false;
};

// One client. Reads a request, has it answered, writes the answer, begins again. All on the executor, but for what
// is handed to a worker; that touches only the upload or the file, one piece at a time.
class HttpServer::Connection : public std::enable_shared_from_this<HttpServer::Connection> {
 public:
  Connection(stream_protocol::socket socket, std::shared_ptr<HttpServer::Impl> server)
      : server_(std::move(server)), stream_(std::move(socket)) {}
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  void start() {
    server_->connections.insert(shared_from_this());
    read_header();
  }
  void close() {
    *gone_ = true;
    stream_.close();
    server_->connections.erase(shared_from_this());
  }

 private:
  using Parser = http::request_parser<http::buffer_body>;
  using Self = std::shared_ptr<Connection>;

  void read_header();
  void took_header(error_code failed);
  void go_on_with_body();
  void read_body();
  void took_body(error_code failed);
  void body_complete();
  void start_upload();
  void store_piece(bool last);
  void dispatch();
  void watch_for_hangup();

  void answer(HttpResponse response);
  void write_answer();
  void write_file_piece();
  void wrote(error_code failed);
  void discard();

  // Runs blocking work on a worker, then then(its result) here.
  template <class Work, class Then>
  void on_worker(Work work, Then then) {
    asio::post(server_->workers, [self = shared_from_this(), work = std::move(work), then = std::move(then)]() mutable {
      auto result = std::make_shared<decltype(work())>(work());
      asio::post(self->server_->executor,
                 [self, result, then = std::move(then)]() mutable { then(std::move(*result)); });
    });
  }

  const std::shared_ptr<HttpServer::Impl> server_;
  beast::basic_stream<stream_protocol> stream_;
  beast::flat_buffer buffer_;
  std::shared_ptr<std::atomic<bool>> gone_ = std::make_shared<std::atomic<bool>>(false);  // shared with calls under way

  // Of the request under way.
  std::optional<Parser> parser_;
  HttpRequest request_;
  std::string piece_;                      // where the body's next bytes go
  std::optional<Api::Incoming> incoming_;  // an upload
  bool answering_ = false;

  // Of the answer under way.
  HttpResponse response_;
  http::response<http::buffer_body> out_;
  std::optional<http::response_serializer<http::buffer_body>> serializer_;
  std::uint64_t file_at_ = 0;
  std::size_t discarded_ = 0;
};

// ---- a request

void HttpServer::Connection::read_header() {
  parser_.emplace();
  parser_->header_limit(server_->limits.header_bytes);
  parser_->body_limit(boost::none);  // counted below, by the kind of request
  request_ = {};
  incoming_.reset();
  answering_ = false;
  stream_.expires_after(server_->limits.idle);
  http::async_read_header(stream_, buffer_, *parser_,
                          [self = shared_from_this()](error_code failed, std::size_t) { self->took_header(failed); });
}

void HttpServer::Connection::took_header(error_code failed) {
  if (failed == http::error::end_of_stream) return close();
  if (failed == http::error::header_limit || failed == http::error::buffer_overflow)
    return answer(Api::error_response(431, "the request's header is too large"));
  if (failed.category() == http::make_error_code(http::error::bad_method).category())
    return answer(Api::error_response(400, "not an HTTP/1.1 request: " + failed.message()));
  if (failed) return close();

  const auto& message = parser_->get();
  auto parsed = parse_target(std::string_view(message.target().data(), message.target().size()));
  if (!parsed) return answer(Api::error_response(400, parsed.error().message()));
  request_ = std::move(*parsed);
  request_.method = std::string(message.method_string());
  request_.mode_header = std::string(message["X-Mode"]);
  const std::uint64_t length = parser_->content_length() ? *parser_->content_length() : 0;
  if (!Api::is_upload(request_) && length > server_->api.body_limit(request_))
    return answer(Api::error_response(
        413, "the body may have at most " + std::to_string(server_->api.body_limit(request_)) + " bytes"));
  if (!beast::iequals(message[http::field::expect], "100-continue")) return go_on_with_body();
  auto go_on = std::make_shared<http::response<http::empty_body>>(http::status::continue_, 11);
  stream_.expires_after(server_->limits.progress);
  http::async_write(stream_, *go_on, [self = shared_from_this(), go_on](error_code broken, std::size_t) {
    if (broken) return self->close();
    self->go_on_with_body();
  });
}

void HttpServer::Connection::go_on_with_body() {
  if (Api::is_upload(request_)) return start_upload();
  piece_.resize(server_->limits.piece_bytes);
  read_body();
}

void HttpServer::Connection::start_upload() {
  on_worker([this] { return server_->api.begin_upload(request_); },
            [this](Result<Api::Incoming> begun) {
              if (!begun) return answer(Api::error_response(begun.error()));
              incoming_ = std::move(*begun);
              piece_.resize(server_->limits.piece_bytes);
              read_body();
            });
}

void HttpServer::Connection::read_body() {
  if (parser_->is_done()) return body_complete();
  parser_->get().body().data = piece_.data();
  parser_->get().body().size = piece_.size();
  stream_.expires_after(server_->limits.progress);
  http::async_read(stream_, buffer_, *parser_,
                   [self = shared_from_this()](error_code failed, std::size_t) { self->took_body(failed); });
}

void HttpServer::Connection::took_body(error_code failed) {
  if (failed == http::error::need_buffer) failed = {};
  if (failed.category() == http::make_error_code(http::error::bad_method).category() &&
      failed != http::error::partial_message && failed != http::error::end_of_stream && failed)
    return answer(Api::error_response(400, "the body cannot be read: " + failed.message()));
  if (failed) return close();
  const std::size_t got = piece_.size() - parser_->get().body().size;
  if (incoming_) {
    piece_.resize(got);
    return store_piece(parser_->is_done());
  }
  request_.body.append(piece_, 0, got);
  if (request_.body.size() > server_->api.body_limit(request_))
    return answer(Api::error_response(
        413, "the body may have at most " + std::to_string(server_->api.body_limit(request_)) + " bytes"));
  read_body();
}

void HttpServer::Connection::body_complete() {
  if (!incoming_) return dispatch();
  piece_.clear();  // no byte was read into it
  store_piece(true);
}

void HttpServer::Connection::store_piece(bool last) {
  on_worker(
      [this, last]() -> Status {
        if (auto written = incoming_->upload->write(piece_); !written || !last) return written;
        return incoming_->upload->commit(incoming_->mode);
      },
      [this, last](Status stored) {
        if (!stored) {
          incoming_.reset();
          return answer(Api::error_response(stored.error()));
        }
        if (last) {
          incoming_.reset();
          HttpResponse done;
          done.body = "{}\n";
          return answer(std::move(done));
        }
        piece_.resize(server_->limits.piece_bytes);
        read_body();
      });
}

void HttpServer::Connection::dispatch() {
  stream_.expires_never();  // some requests take as long as a checkpoint takes
  answering_ = true;
  watch_for_hangup();
  HttpCall call;
  call.request = std::move(request_);
  call.gone = gone_;
  call.on_worker = [server = server_](std::function<void()> work) { asio::post(server->workers, std::move(work)); };
  call.respond = [self = shared_from_this()](HttpResponse response) {
    auto shared = std::make_shared<HttpResponse>(std::move(response));
    asio::post(self->server_->executor, [self, shared] {
      if (*self->gone_) return;
      error_code ignored;
      self->stream_.socket().cancel(ignored);  // the watch for a hang-up
      self->answer(std::move(*shared));
    });
  };
  server_->api.handle(std::move(call));
}

// A client that leaves must not keep a long poll. Bytes of a further request are left for later.
void HttpServer::Connection::watch_for_hangup() {
  stream_.socket().async_wait(stream_protocol::socket::wait_read, [weak = weak_from_this()](error_code cancelled) {
    const Self self = weak.lock();
    if (cancelled || !self || !self->answering_) return;
    char byte = 0;
    const ssize_t n = ::recv(self->stream_.socket().native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) self->close();
  });
}

// ---- an answer

void HttpServer::Connection::answer(HttpResponse response) {
  if (*gone_) return;
  answering_ = false;
  response_ = std::move(response);
  write_answer();
}

void HttpServer::Connection::write_answer() {
  const bool whole = parser_->is_done();  // else the rest of the request stands between us and the next one
  const std::uint64_t length = response_.file ? response_.file_bytes : response_.body.size();
  out_ = http::response<http::buffer_body>(static_cast<http::status>(response_.status), 11);
  out_.set(http::field::content_type, response_.content_type);
  out_.set(http::field::cache_control, "no-store");
  for (const auto& [key, value] : response_.headers) out_.set(key, value);
  out_.content_length(length);
  out_.keep_alive(whole && parser_->get().keep_alive());
  out_.body().data = nullptr;
  out_.body().size = 0;
  out_.body().more = length > 0;
  file_at_ = 0;
  if (!response_.file && length > 0) {
    out_.body().data = response_.body.data();
    out_.body().size = response_.body.size();
    out_.body().more = false;
  }
  serializer_.emplace(out_);
  stream_.expires_after(server_->limits.progress);
  auto next = [self = shared_from_this()](error_code failed, std::size_t) {
    if (failed == http::error::need_buffer) failed = {};
    if (!failed && self->response_.file && !self->serializer_->is_done()) return self->write_file_piece();
    self->wrote(failed);
  };
  if (response_.file) http::async_write_header(stream_, *serializer_, std::move(next));
  else http::async_write(stream_, *serializer_, std::move(next));
}

void HttpServer::Connection::write_file_piece() {
  const std::uint64_t left = response_.file_bytes - file_at_;
  if (left == 0) return wrote({});
  const auto length = static_cast<std::size_t>(std::min<std::uint64_t>(left, server_->limits.piece_bytes));
  on_worker([this, length] { return read_at(response_.file.get(), file_at_, length, "output file"); },
            [this, length](Result<std::string> data) {
              // The length was promised: a file that can no longer be read whole ends the connection, which the client
              // sees.
              if (!data || data->size() != length) return close();
              piece_ = std::move(*data);
              file_at_ += length;
              out_.body().data = piece_.data();
              out_.body().size = piece_.size();
              out_.body().more = file_at_ < response_.file_bytes;
              stream_.expires_after(server_->limits.progress);
              http::async_write(stream_, *serializer_, [self = shared_from_this()](error_code failed, std::size_t) {
                if (failed == http::error::need_buffer) return self->write_file_piece();
                self->wrote(failed);
              });
            });
}

void HttpServer::Connection::wrote(error_code failed) {
  serializer_.reset();
  response_ = {};
  if (failed) return close();
  if (!parser_->is_done()) {
    stream_.expires_after(kDiscardTime);
    error_code ignored;
    stream_.socket().shutdown(stream_protocol::socket::shutdown_send, ignored);
    return discard();
  }
  if (!out_.keep_alive()) return close();
  read_header();
}

// Closing with unread bytes would break the client's write before it reads why it was refused.
void HttpServer::Connection::discard() {
  piece_.resize(server_->limits.piece_bytes);
  stream_.async_read_some(asio::buffer(piece_), [self = shared_from_this()](error_code failed, std::size_t bytes) {
    self->discarded_ += bytes;
    if (failed || self->discarded_ > kDiscardBytes) return self->close();
    self->discard();
  });
}

// ---- the server

Status HttpServer::Impl::listen() {
  auto fail = [this](const char* step, const error_code& code) {
    return Error{ErrorKind::permanent, step, socket.string(), code.message()};
  };
  if (socket.string().size() >= sizeof(sockaddr_un::sun_path))
    return Error{ErrorKind::permanent, "bind", socket.string(),
                 "a socket's path may have at most " + std::to_string(sizeof(sockaddr_un::sun_path) - 1) + " bytes"};
  struct stat info {};
  if (::lstat(socket.c_str(), &info) == 0) {
    if (!S_ISSOCK(info.st_mode))
      return Error{ErrorKind::permanent, "bind", socket.string(), "something that is no socket has that name"};
    if (::unlink(socket.c_str()) != 0) return errno_error("removal", socket.string(), errno);
  }
  error_code failed;
  if (acceptor.open(stream_protocol(), failed); failed) return fail("bind", failed);
  // The mode holds from the beginning: no moment at which others could connect.
  const mode_t before = ::umask(0177);
  acceptor.bind(stream_protocol::endpoint(socket.string()), failed);
  ::umask(before);
  if (failed) return fail("bind", failed);
  if (acceptor.listen(asio::socket_base::max_listen_connections, failed); failed) return fail("bind", failed);
  return {};
}

void HttpServer::Impl::next() {
  if (stopped) return;
  acceptor.async_accept([self = shared_from_this()](error_code failed, stream_protocol::socket client) {
    if (self->stopped) return;
    if (failed) {
      log_warn("API connection not accepted", {{"cause", failed.message()}});
      self->retry.expires_after(kAcceptRetry);
      return self->retry.async_wait([self](error_code cancelled) {
        if (!cancelled) self->next();
      });
    }
    if (self->connections.size() < self->limits.connections)
      std::make_shared<Connection>(std::move(client), self)->start();
    else log_warn("API connection refused: too many are open", {{"limit", self->limits.connections}});
    self->next();
  });
}

Result<std::unique_ptr<HttpServer>> HttpServer::listen(const asio::any_io_executor& executor, Api& api,
                                                       const std::filesystem::path& socket, const HttpLimits& limits) {
  auto impl = std::make_shared<Impl>(executor, api, socket, limits);
  if (auto listening = impl->listen(); !listening) return listening.error();
  asio::post(executor, [impl] { impl->next(); });
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

HttpServer::~HttpServer() { stop(); }

void HttpServer::stop() {
  if (std::exchange(impl_->stopped, true)) return;
  error_code ignored;
  impl_->acceptor.close(ignored);
  impl_->retry.cancel();
  ::unlink(impl_->socket.c_str());
  for (const auto& connection : std::exchange(impl_->connections, {})) connection->close();
  impl_->workers.join();
}

}  // namespace stillpoint::coordinator
