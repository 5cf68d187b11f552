// A whole coordinator in a temporary directory, on a thread of its own, with a site's certificates. Tests only.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <thread>

#include "common/net/test_certificates.h"
#include "coordinator/server.h"
#include "coordinator/test_support/http_client.h"

namespace stillpoint::coordinator {

class TestServer {
 public:
  TestServer();
  ~TestServer();

  void start();  // throws when it cannot
  void stop();
  Result<std::unique_ptr<Server>> open_another();  // a second coordinator on the same state directory

  HttpClient http() const { return HttpClient(directory / "api.sock"); }
  std::uint16_t port() const { return server->port(); }
  // The job's status when the condition holds of it; a null value after 60 s.
  template <class Condition>
  nlohmann::json status_when(const std::string& job, Condition condition) const {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    nlohmann::json status;
    do {
      status = http().get("/v1/jobs/" + job).json();
      if (condition(status)) return status;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));  // between two looks; the deadline is above
    } while (std::chrono::steady_clock::now() < end);
    return status;
  }
  nlohmann::json in_state(const std::string& job, const std::string& state) const {
    return status_when(job, [&](const nlohmann::json& status) { return status.value("state", "") == state; });
  }

  net::TestSite site;
  std::filesystem::path directory;  // the state directory
  ServerOptions options;
  std::unique_ptr<Server> server;

 private:
  std::thread thread_;
};

}  // namespace stillpoint::coordinator
