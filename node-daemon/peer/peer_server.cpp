#include "node-daemon/peer/peer_server.h"

#include <openssl/ssl.h>

#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/ssl.hpp>

#include "common/log.h"
#include "common/net/endpoint.h"
#include "common/net/peer_name.h"
#include "node-daemon/peer/peer_target.h"

namespace stillpoint::node {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using asio::ip::tcp;
using boost::system::error_code;

constexpr std::size_t kThreads = 4;  // what they do is read and write files
constexpr std::size_t kWorkers = 4;  // they check copies that have arrived
constexpr int kMaxConnections = 256;
constexpr std::size_t kPiece = 1u << 20;
constexpr std::uint32_t kHeaderBytes = 8192;
constexpr std::chrono::seconds kOpenDeadline{10}, kPieceDeadline{30}, kIdleDeadline{120};
constexpr std::chrono::milliseconds kAcceptRetry{100};

unsigned status_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::refused: return 403;
    case ErrorKind::not_found: return 404;
    case ErrorKind::damaged: return 409;
    case ErrorKind::transient:
    case ErrorKind::deadline: return 503;
    case ErrorKind::storage_full: return 507;
    case ErrorKind::permanent:
    case ErrorKind::not_quiet: return 500;
  }
  return 500;
}

}  // namespace

struct PeerServer::Impl : std::enable_shared_from_this<Impl> {
  Impl(const net::TlsContext& context, Files& store_files, std::filesystem::path directory, Mirrors& copies)
      : tls(context), files(store_files), hosts(std::move(directory)), mirrors(copies), acceptor(pool) {}

  Status listen(const std::string& at);
  asio::awaitable<void> accept_all();

  const net::TlsContext tls;
  Files& files;
  const std::filesystem::path hosts;
  Mirrors& mirrors;
  std::string endpoint;
  std::atomic<int> connections = 0;
  asio::thread_pool pool{kThreads}, workers{kWorkers};
  tcp::acceptor acceptor;
};

namespace {

// On another pool's threads; the caller goes on where it was. work: what it refers to lives as long as the caller
// waits.
template <class Work>
asio::awaitable<Status> done_by(asio::thread_pool& workers, Work work) {
  co_return co_await asio::co_spawn(
      workers, [work]() -> asio::awaitable<Status> { co_return work(); }, asio::use_awaitable);
}

template <class Server>
class Session {
 public:
  Session(tcp::socket socket, Server& server) : server_(server), stream_(std::move(socket), server.tls.context()) {
    ++server_.connections;
  }
  ~Session() { --server_.connections; }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  asio::awaitable<void> run();

 private:
  using Parser = http::request_parser<http::buffer_body>;

  void within(std::chrono::seconds time) { beast::get_lowest_layer(stream_).expires_after(time); }
  // Each says whether the connection can go on.
  asio::awaitable<bool> serve(Parser& parser);
  asio::awaitable<bool> give_file(const Parser& parser, const PeerTarget& target);
  asio::awaitable<bool> give_names(const Parser& parser, const PeerTarget& target);
  asio::awaitable<bool> take_file(Parser& parser, const PeerTarget& target);
  asio::awaitable<bool> read_body(Parser& parser, Mirrors::Incoming& file, Status& kept);
  asio::awaitable<bool> send_body(const ReadableFile& file, std::uint64_t at, std::uint64_t end);
  asio::awaitable<bool> answer(const Parser& parser, unsigned status, std::string text, bool go_on = true);
  asio::awaitable<bool> answer(const Parser& parser, const Error& error, bool go_on = true) {
    return answer(parser, status_of(error.kind), error.message() + "\n", go_on);
  }

  Server& server_;
  beast::ssl_stream<beast::tcp_stream> stream_;
  beast::flat_buffer buffer_;
  std::string peer_;
};

template <class Server>
asio::awaitable<void> Session<Server>::run() {
  error_code failed;
  within(kOpenDeadline);
  co_await stream_.async_handshake(asio::ssl::stream_base::server, asio::redirect_error(asio::use_awaitable, failed));
  if (failed) {
    log_warn("host not let in", {{"cause", failed.message()}});
    co_return;
  }
  auto name = net::certificate_name(SSL_get0_peer_certificate(stream_.native_handle()));
  if (!name) co_return;
  peer_ = std::move(*name);
  for (;;) {
    Parser parser;
    parser.header_limit(kHeaderBytes);
    parser.body_limit(boost::none);
    within(kIdleDeadline);
    co_await http::async_read_header(stream_, buffer_, parser, asio::redirect_error(asio::use_awaitable, failed));
    if (failed) co_return;
    const bool go_on = co_await serve(parser);
    if (!go_on || !parser.get().keep_alive()) co_return;
  }
}

template <class Server>
asio::awaitable<bool> Session<Server>::serve(Parser& parser) {
  const auto& target_text = parser.get().target();
  const auto target = parse_peer_target({target_text.data(), target_text.size()});
  const http::verb method = parser.get().method();
  const bool reads = method == http::verb::get || method == http::verb::head;
  if (!target) co_return co_await answer(parser, 400, "not a name of a store's file\n", false);
  // Each in a statement of its own: GCC 12 ends awaitables in ?: and || twice.
  if (reads && target->is_directory) co_return co_await give_names(parser, *target);
  if (reads) co_return co_await give_file(parser, *target);
  if (method != http::verb::put || target->is_directory) co_return co_await answer(parser, 405, "not served\n", false);
  if (target->host != peer_)
    co_return co_await answer(parser, 403, "only " + target->host + " may put a copy there\n", false);
  co_return co_await take_file(parser, *target);
}

template <class Server>
asio::awaitable<bool> Session<Server>::give_names(const Parser& parser, const PeerTarget& target) {
  auto names = server_.files.list(server_.hosts / target.host / target.name);
  if (!names) co_return co_await answer(parser, names.error());
  std::string text;
  for (const std::string& name : *names)
    if (!name.ends_with(kTemporarySuffix)) text += name + "\n";
  co_return co_await answer(parser, 200, std::move(text));
}

template <class Server>
asio::awaitable<bool> Session<Server>::give_file(const Parser& parser, const PeerTarget& target) {
  auto file = server_.files.open(server_.hosts / target.host / target.name);
  if (!file) co_return co_await answer(parser, file.error());
  const auto text = parser.get()[http::field::range];
  const auto range = parse_byte_range({text.data(), text.size()}, (*file)->size());
  if (!range) co_return co_await answer(parser, 416, "the file has " + std::to_string((*file)->size()) + " bytes\n");
  http::response<http::empty_body> head(range->whole ? http::status::ok : http::status::partial_content, 11);
  head.content_length(range->end - range->begin);
  head.keep_alive(parser.get().keep_alive());
  if (!range->whole)
    head.set(http::field::content_range, "bytes " + std::to_string(range->begin) + "-" +
                                             std::to_string(range->end - 1) + "/" + std::to_string((*file)->size()));
  http::response_serializer<http::empty_body> serializer(head);
  error_code failed;
  within(kPieceDeadline);
  co_await http::async_write_header(stream_, serializer, asio::redirect_error(asio::use_awaitable, failed));
  if (failed) co_return false;
  if (parser.get().method() == http::verb::head) co_return true;
  co_return co_await send_body(**file, range->begin, range->end);
}

template <class Server>
asio::awaitable<bool> Session<Server>::send_body(const ReadableFile& file, std::uint64_t at, std::uint64_t end) {
  while (at < end) {
    // The length was promised: a file that cannot be read to its end ends the connection, which the other side sees.
    auto piece = file.read(at, static_cast<std::size_t>(std::min<std::uint64_t>(kPiece, end - at)));
    if (!piece) co_return false;
    at += piece->size();
    error_code failed;
    within(kPieceDeadline);
    co_await asio::async_write(stream_, asio::buffer(*piece), asio::redirect_error(asio::use_awaitable, failed));
    if (failed) co_return false;
  }
  co_return true;
}

template <class Server>
asio::awaitable<bool> Session<Server>::take_file(Parser& parser, const PeerTarget& target) {
  const auto length = parser.content_length();
  if (!length) co_return co_await answer(parser, 411, "its length must be said before\n", false);
  auto file = server_.mirrors.begin({target.host}, target.name, *length);
  if (!file) co_return co_await answer(parser, file.error(), false);
  if (beast::iequals(parser.get()[http::field::expect], "100-continue")) {
    http::response<http::empty_body> go_on(http::status::continue_, 11);
    error_code failed;
    within(kPieceDeadline);
    co_await http::async_write(stream_, go_on, asio::redirect_error(asio::use_awaitable, failed));
    if (failed) co_return false;
  }
  Status kept;
  const bool there = co_await read_body(parser, **file, kept);
  if (!there) co_return false;
  // It may have to wait for a collection, and takes long for a large pack: the other connections go on.
  if (kept) kept = co_await done_by(server_.workers, [&file] { return (*file)->commit(); });
  file->reset();  // what is left of it has gone when the other side hears of it
  if (!kept) log_warn("copy not kept", {{"of", target.host}, {"cause", kept.error().message()}});
  if (!kept) co_return co_await answer(parser, kept.error(), parser.is_done());
  co_return co_await answer(parser, 201, "");
}

// False: the connection is gone. Stops early when a piece cannot be kept.
template <class Server>
asio::awaitable<bool> Session<Server>::read_body(Parser& parser, Mirrors::Incoming& file, Status& kept) {
  std::string piece(kPiece, '\0');
  while (kept && !parser.is_done()) {
    parser.get().body().data = piece.data();
    parser.get().body().size = piece.size();
    error_code failed;
    within(kPieceDeadline);
    co_await http::async_read(stream_, buffer_, parser, asio::redirect_error(asio::use_awaitable, failed));
    if (failed && failed != http::error::need_buffer) co_return false;
    kept = file.write(std::string_view(piece).substr(0, piece.size() - parser.get().body().size));
  }
  co_return true;
}

template <class Server>
asio::awaitable<bool> Session<Server>::answer(const Parser& parser, unsigned status, std::string text, bool go_on) {
  http::response<http::string_body> response(static_cast<http::status>(status), 11, std::move(text));
  response.set(http::field::content_type, "text/plain; charset=utf-8");
  response.keep_alive(go_on && parser.get().keep_alive());
  response.prepare_payload();
  error_code failed;
  within(kPieceDeadline);
  if (parser.get().method() == http::verb::head) {
    http::response_serializer<http::string_body> head(response);
    co_await http::async_write_header(stream_, head, asio::redirect_error(asio::use_awaitable, failed));
  } else {
    co_await http::async_write(stream_, response, asio::redirect_error(asio::use_awaitable, failed));
  }
  co_return !failed && go_on;
}

}  // namespace

asio::awaitable<void> PeerServer::Impl::accept_all() {
  asio::steady_timer pause(acceptor.get_executor());
  for (;;) {
    error_code failed;
    // Each connection on a strand of its own: its deadline and its work must not meet.
    tcp::socket socket(asio::make_strand(pool));
    co_await acceptor.async_accept(socket, asio::redirect_error(asio::use_awaitable, failed));
    if (failed == asio::error::operation_aborted) co_return;
    if (failed || connections >= kMaxConnections) {
      log_warn("connection of a host not accepted", {{"cause", failed ? failed.message() : "too many are open"}});
      pause.expires_after(kAcceptRetry);
      co_await pause.async_wait(asio::redirect_error(asio::use_awaitable, failed));
      continue;
    }
    const auto executor = socket.get_executor();
    auto session = std::make_shared<Session<Impl>>(std::move(socket), *this);
    asio::co_spawn(
        executor, [session]() -> asio::awaitable<void> { co_await session->run(); }, asio::detached);
  }
}

Status PeerServer::Impl::listen(const std::string& at) {
  auto split = net::split_endpoint(at);
  if (!split) return split.error();
  error_code failed;
  const auto fail = [&] { return Error{ErrorKind::permanent, "listen for hosts", at, failed.message()}; };
  const auto address = asio::ip::make_address(split->host, failed);
  if (failed) return fail();
  const tcp::endpoint wanted(address, static_cast<std::uint16_t>(std::stoul(split->port)));
  if (acceptor.open(wanted.protocol(), failed); failed) return fail();
  if (acceptor.set_option(tcp::acceptor::reuse_address(true), failed); failed) return fail();
  if (acceptor.bind(wanted, failed); failed) return fail();
  if (acceptor.listen(tcp::acceptor::max_listen_connections, failed); failed) return fail();
  const auto own = acceptor.local_endpoint(failed);
  if (failed) return fail();
  endpoint = at.substr(0, at.rfind(':') + 1) + std::to_string(own.port());
  asio::co_spawn(acceptor.get_executor(), accept_all(), asio::detached);
  return {};
}

Result<std::unique_ptr<PeerServer>> PeerServer::listen(const net::TlsContext& tls, const std::string& endpoint,
                                                       Files& files, std::filesystem::path hosts, Mirrors& mirrors) {
  auto impl = std::make_shared<Impl>(tls, files, std::move(hosts), mirrors);
  if (auto listening = impl->listen(endpoint); !listening) return listening.error();
  return std::unique_ptr<PeerServer>(new PeerServer(std::move(impl)));
}

PeerServer::~PeerServer() {
  impl_->pool.stop();
  impl_->pool.join();
  impl_->workers.stop();
  impl_->workers.join();
}

const std::string& PeerServer::endpoint() const { return impl_->endpoint; }

}  // namespace stillpoint::node
