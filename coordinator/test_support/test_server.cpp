#include "coordinator/test_support/test_server.h"

#include <stdexcept>

#include "common/log.h"

namespace stillpoint::coordinator {

TestServer::TestServer() : directory(site.directory() / "state") {
  set_log_level("error");
  options.state = directory;
  options.listen = "127.0.0.1:0";
  options.tls = site.identity("coordinator");
  options.settings.heartbeat = std::chrono::milliseconds(100);
  options.settings.lease =
      std::chrono::milliseconds(3000);  // a lost host is waited out: short, but not too short for a busy machine
}

TestServer::~TestServer() { stop(); }

void TestServer::start() {
  auto opened = Server::open(options);
  if (!opened) throw std::runtime_error(opened.error().message());
  server = std::move(*opened);
  thread_ = std::thread([this] { server->run(false); });
}

void TestServer::stop() {
  if (!server) return;
  server->stop();
  thread_.join();
  server.reset();
}

Result<std::unique_ptr<Server>> TestServer::open_another() { return Server::open(options); }

}  // namespace stillpoint::coordinator
