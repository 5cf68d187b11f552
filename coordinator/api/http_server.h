// HTTP/1.1 on a unix socket for the API: connections, limits, deadlines, streaming of files. What a request means is
// Api's to say.
//
// Threads: lives on the executor's thread (one handler at a time); listen(), stop() and destruction there or while it
// does not run. Blocking work goes to two workers of its own. Who can reach the socket may do everything: it is 0600.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <chrono>
#include <filesystem>
#include <memory>

#include "common/result.h"
#include "coordinator/api/api.h"

namespace stillpoint::coordinator {

struct HttpLimits {
  std::size_t connections = 256;
  std::uint32_t header_bytes = 16u << 10;
  std::size_t piece_bytes = 256u << 10;        // of a file, in memory at a time
  std::chrono::milliseconds idle{60'000};      // between requests, and for the header
  std::chrono::milliseconds progress{30'000};  // for the next bytes of a body or an answer
};

class HttpServer {
 public:
  // A socket file that is there is replaced: the caller owns the state directory, so nobody listens on it.
  static Result<std::unique_ptr<HttpServer>> listen(const boost::asio::any_io_executor& executor, Api& api,
                                                    const std::filesystem::path& socket, const HttpLimits& limits);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // No further connections, open ones are closed, the socket file is removed, workers have ended.
  void stop();

 private:
  struct Impl;
  class Connection;
  explicit HttpServer(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<Impl> impl_;  // shared with its connections
};

}  // namespace stillpoint::coordinator
