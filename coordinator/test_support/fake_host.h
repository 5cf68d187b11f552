// A host that speaks the real protocol over real TLS and does everything at once and well: its guests boot, come to
// rest, are captured and restored without there being any. What it was told is kept for the test to look at; answers
// can be changed. Runs on a thread of its own; its methods from the test's thread. Tests only.
#pragma once

#include <boost/asio/io_context.hpp>
#include <condition_variable>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "host.pb.h"

namespace stillpoint::coordinator {

class FakeHost {
 public:
  // May change or suppress (return false) an answer before it is sent. Called on the host's thread.
  using Edit = std::function<bool(const wire::ToHost& request, wire::FromHost& answer)>;

  FakeHost(std::string name, const std::filesystem::path& identity, std::uint16_t port);
  // On a thread that many share: whoever runs `io`, which must outlive it.
  FakeHost(std::string name, const std::filesystem::path& identity, std::uint16_t port, boost::asio::io_context& io);
  ~FakeHost();
  FakeHost(const FakeHost&) = delete;
  FakeHost& operator=(const FakeHost&) = delete;

  void edit(Edit edit);
  // Dials; says this hello instead of its own when it is given. Waits for the TLS session or its end.
  void connect(std::optional<std::string> raw_hello = std::nullopt);
  // Cuts the connection: the host is as good as dead.
  void disconnect();
  void send(const wire::FromHost& message);
  void send_raw(const std::string& payload);

  bool wait_for(const std::function<bool()>& condition);  // looked at after each message; false after 60 s
  std::size_t count(wire::ToHost::BodyCase kind);         // messages of this kind so far
  std::string closed_because();                           // empty while the session is open
  std::map<std::string, std::string> files();             // as put by the coordinator
  std::set<std::uint32_t> guests(const std::string& job);
  std::uint64_t acknowledged_output();
  wire::GangRef gang(const std::string& job);

  // What guest 0 prints, from offset on.
  void print(const std::string& job, std::uint64_t offset, const std::string& text);
  void end_job(const std::string& job, int exit_code, std::uint64_t output_offset);

 private:
  struct Impl;
  void take(const std::string& payload);
  bool answer(const wire::ToHost& request, wire::FromHost& answer);
  wire::HostHello hello();

  const std::string name_;
  const std::uint16_t port_;
  std::mutex mutex_;  // guards all below but impl_
  std::condition_variable changed_;
  Edit edit_;
  std::map<int, std::size_t> counts_;
  std::map<std::string, std::string> files_;
  std::map<std::string, std::set<std::uint32_t>> guests_;
  std::map<std::string, wire::GangRef> gangs_;
  std::map<std::string, std::uint64_t> output_;  // printed so far
  std::uint64_t acknowledged_ = 0;
  bool open_ = false;
  std::string closed_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace stillpoint::coordinator
