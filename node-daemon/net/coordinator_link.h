// The daemon's session with the coordinator: dialled over mutual TLS, and again, with growing pauses, as long as the
// daemon runs.
//
// Lives on one executor that runs one handler at a time; everything is called there, send() also from elsewhere.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <functional>
#include <memory>
#include <string>

#include "common/net/tls_context.h"
#include "common/result.h"
#include "host.pb.h"

namespace stillpoint::node {

class CoordinatorLink {
 public:
  struct Handlers {
    std::function<void()> connected;
    std::function<void()> disconnected;  // after each connected()
    std::function<void(wire::ToHost message)> said;
  };

  static std::shared_ptr<CoordinatorLink> make(const boost::asio::any_io_executor& executor, net::TlsContext tls,
                                               std::string endpoint, Handlers handlers);

  virtual ~CoordinatorLink() = default;
  virtual void start() = 0;
  virtual void send(const wire::FromHost& message) = 0;  // dropped while there is no session
  virtual void drop(const std::string& why) = 0;         // this session; another is dialled
  virtual void stop() = 0;                               // what was sent goes out first; no handler is called any more
};

}  // namespace stillpoint::node
