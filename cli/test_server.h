// For tests: an HTTP server on a unix socket that answers with what a function says. One thread of its own; the
// function runs there.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace stillpoint::cli {

struct TestRequest {
  std::string method, target, body;
  std::map<std::string, std::string> headers;  // names in lower case
};
struct TestAnswer {
  unsigned status = 200;
  std::string body;
  std::map<std::string, std::string> headers = {};
  bool hang_up = false;  // close without an answer
};

class TestServer {
 public:
  using Handler = std::function<TestAnswer(const TestRequest&)>;
  explicit TestServer(Handler handler);
  TestServer(const TestServer&) = delete;
  TestServer& operator=(const TestServer&) = delete;
  ~TestServer();

  std::string socket() const { return (directory_ / "api.sock").string(); }
  const std::filesystem::path& directory() const { return directory_; }  // of its own, removed at the end
  std::vector<TestRequest> requests() const;                             // so far

 private:
  struct Listener;
  void serve();

  std::filesystem::path directory_;
  Handler handler_;
  std::unique_ptr<Listener> listener_;
  mutable std::mutex mutex_;
  std::vector<TestRequest> requests_;  // under mutex_
  std::thread thread_;
};

}  // namespace stillpoint::cli
