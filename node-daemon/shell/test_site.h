// A node daemon's surroundings for tests: a coordinator that the test plays, over TLS, a directory, a network
// namespace. Tests only: failures are doctest's. Threads: a coordinator's calls are one thread's.
#pragma once

#include <doctest/doctest.h>
#include <sched.h>
#include <stdlib.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <optional>
#include <thread>

#include "common/ids.h"
#include "common/net/frame_session.h"
#include "common/net/test_certificates.h"
#include "common/process.h"
#include "host.pb.h"
#include "node-daemon/core/types.h"

namespace stillpoint::node {

inline bool enter_namespace() {
  static const bool entered = [] {
    REQUIRE_MESSAGE(::unshare(CLONE_NEWNET) == 0, "a network namespace needs root: ", std::strerror(errno));
    REQUIRE(run_checked({"ip", "link", "set", "lo", "up"}).has_value());
    REQUIRE(run_checked({"ip", "link", "add", "under0", "type", "veth", "peer", "name", "under1"}).has_value());
    REQUIRE(run_checked({"ip", "address", "add", "192.0.2.1/24", "dev", "under0"}).has_value());
    return true;
  }();
  return entered;
}

// The coordinator's end: what hosts say lies in a queue until it is waited for.
class TestCoordinator {
 public:
  explicit TestCoordinator(net::TestSite& site) {
    auto tls = net::TlsContext::load(site.identity("coordinator"), net::TlsRole::coordinator);
    REQUIRE_MESSAGE(tls.has_value(), tls.error());
    auto listener =
        net::listen_for_sessions(io_.get_executor(), *tls, "127.0.0.1:0", {}, 4, [this](const auto& session) {
          return net::FrameSession::Handlers{.opened = [this, session](const std::string&) { opened(session); },
                                             .frame = [this](const std::string& payload) { took(payload); },
                                             .closed = [this, session](const Error&) { closed(session); }};
        });
    REQUIRE_MESSAGE(listener.has_value(), listener.error());
    listener_ = *listener;
    thread_ = std::thread([this] { io_.run(); });
  }
  TestCoordinator(const TestCoordinator&) = delete;
  TestCoordinator& operator=(const TestCoordinator&) = delete;
  ~TestCoordinator() {
    boost::asio::post(io_, [this] {
      listener_->close();
      if (session_) session_->close({});
      session_.reset();
    });
    thread_.join();
  }

  std::string endpoint() const { return "127.0.0.1:" + std::to_string(listener_->port()); }

  // The next message that is no pong and fits; the others are dropped. Nothing: the host's process has gone.
  template <class Fits>
  std::optional<wire::FromHost> try_wait(Fits fits) {
    std::unique_lock lock(mutex_);
    std::optional<wire::FromHost> found;
    const bool came = changed_.wait_for(lock, std::chrono::seconds(20), [&] {
      while (!found && !messages_.empty()) {
        if (fits(messages_.front())) found = std::move(messages_.front());
        messages_.pop_front();
      }
      return found.has_value() || gone_;
    });
    REQUIRE_MESSAGE(came, "the host did not say what was waited for");
    return found;
  }
  template <class Fits>
  wire::FromHost wait(Fits fits) {
    auto found = try_wait(fits);
    REQUIRE_MESSAGE(found.has_value(), "the host has gone");
    return std::move(*found);
  }
  void send(const wire::ToHost& message) {
    std::unique_lock lock(mutex_);
    REQUIRE(changed_.wait_for(lock, std::chrono::seconds(10), [this] { return session_ != nullptr || gone_; }));
    if (session_ != nullptr) session_->send(message.SerializeAsString());
  }
  std::optional<wire::HostHello> try_welcome() {
    const auto hello = try_wait([](const auto& m) { return m.has_hello(); });
    if (!hello) return std::nullopt;
    wire::ToHost welcome;
    welcome.mutable_welcome()->set_coordinator("c1");
    welcome.mutable_welcome()->set_lease_ms(60'000);
    send(welcome);
    return hello->hello();
  }
  wire::HostHello welcome() {
    auto hello = try_welcome();
    REQUIRE_MESSAGE(hello.has_value(), "the host has gone");
    return std::move(*hello);
  }
  std::optional<wire::FromHost> try_ask(wire::ToHost message) {
    message.set_request(++request_);
    send(message);
    return try_wait([id = request_](const auto& m) { return m.request() == id; });
  }
  wire::FromHost ask(const wire::ToHost& message) {
    auto reply = try_ask(message);
    REQUIRE_MESSAGE(reply.has_value(), "the host has gone");
    return std::move(*reply);
  }

  // Where the host is a process of its own. Any thread: a new one is going to connect; it has ended.
  void host_starts() {
    const std::lock_guard lock(mutex_);
    gone_ = false;
    messages_.clear();
  }
  void host_gone() {
    const std::lock_guard lock(mutex_);
    gone_ = true;
    changed_.notify_all();
  }

 private:
  void opened(const std::shared_ptr<net::FrameSession>& session) {
    const std::lock_guard lock(mutex_);
    session_ = session;
    changed_.notify_all();
  }
  void took(const std::string& payload) {
    wire::FromHost message;
    if (!message.ParseFromString(payload)) return;
    const std::lock_guard lock(mutex_);
    messages_.push_back(std::move(message));
    changed_.notify_all();
  }
  void closed(const std::shared_ptr<net::FrameSession>& session) {
    const std::lock_guard lock(mutex_);
    if (session_ == session) session_.reset();  // not that of a host that is there again
  }

  boost::asio::io_context io_;
  std::shared_ptr<net::FrameListener> listener_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::shared_ptr<net::FrameSession> session_;
  std::deque<wire::FromHost> messages_;
  bool gone_ = false;
  std::uint64_t request_ = 0;
  std::thread thread_;
};

struct Site {
  bool inside = enter_namespace();  // first: what listens must listen in there
  std::filesystem::path path;
  net::TestSite certificates;
  std::filesystem::path identity = certificates.identity("h1");
  TestCoordinator coordinator{certificates};

  explicit Site(const std::string& below = "/tmp") {
    std::string name = below + "/stillpoint-node-XXXXXX";
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path = name;
    std::filesystem::create_directory(path / "guest");
    for (const char* file : {"vmlinuz", "initrd.img", "base.squashfs"}) std::ofstream(path / "guest" / file) << "x";
  }
  Site(const Site&) = delete;
  Site& operator=(const Site&) = delete;
  ~Site() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
};

inline DomainId guest(std::uint64_t incarnation, std::uint64_t index) { return {{"j1"}, {incarnation}, {index}}; }

inline wire::ToHost about(std::uint64_t incarnation, std::uint64_t epoch = 0) {
  wire::ToHost m;
  m.mutable_gang()->set_job("j1");
  m.mutable_gang()->set_incarnation(incarnation);
  m.set_epoch(epoch);
  return m;
}

inline void fill(wire::GangNetwork& network, std::uint32_t vni) {
  network.set_vni(vni);
  network.set_prefix_length(16);
  for (std::uint32_t g = 0; g < 2; ++g) {
    auto& place = *network.add_places();
    place.set_guest(g);
    place.set_name("guest-" + std::to_string(g));
    place.set_ip("10.99.0." + std::to_string(g + 1));
    place.set_mac("52:54:00:00:00:0" + std::to_string(g));
    place.set_host_address("192.0.2.1");
  }
}

inline void fill(wire::GuestHardware& hardware) {
  hardware.set_vcpus(1);
  hardware.set_memory_bytes(64 << 20);
  hardware.set_disk_bytes(64 << 20);
  hardware.set_image("openmpi");
}

}  // namespace stillpoint::node
