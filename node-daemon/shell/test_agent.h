// The agent of a fake guest, for tests. A thread of its own serves it as long as the object lives.
#pragma once

#include <poll.h>
#include <unistd.h>

#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>

#include "common/framing.h"
#include "guest.pb.h"
#include "node-daemon/domain/fake_driver.h"

namespace stillpoint::node {

// One guest's agent: says hello until it is asked something, and answers everything.
class TestAgent {
 public:
  TestAgent(FakeDriver& driver, DomainId id) {
    thread_ = std::jthread([this, &driver, id](const std::stop_token& stop) {
      const Fd link = driver.take_agent_end(id, std::chrono::seconds(20));
      FrameReader reader;
      bool asked = false;
      while (link && !stop.stop_requested()) {
        if (!asked) {
          wire::FromGuest hello;
          hello.mutable_hello()->set_boot_id("boot-" + std::to_string(id.guest.value));
          hello.mutable_hello()->add_abilities("lease");
          say(link, hello);
        }
        pollfd poll{link.get(), POLLIN, 0};
        if (::poll(&poll, 1, 100) <= 0) continue;
        char block[65536];
        const ssize_t n = ::read(link.get(), block, sizeof block);
        if (n == 0) return;
        if (n < 0) continue;
        reader.feed(std::string_view(block, static_cast<std::size_t>(n)));
        while (auto payload = reader.next()) {
          wire::GuestRequest request;
          if (!request.ParseFromString(*payload)) continue;
          asked = true;
          if (request.has_host_lease()) {
            hear_of_lease(request.lease_ms());
            continue;
          }
          wire::FromGuest reply;
          *reply.mutable_gang() = request.gang();
          reply.mutable_reply()->set_id(request.id());
          if (request.has_release_ranks()) reply.mutable_reply()->mutable_release()->set_held(true);
          say(link, reply);
        }
      }
    });
  }

  // Until it was told so often how long the lease lasts; the last time how long. Nothing: not in time.
  std::optional<std::uint32_t> wait_for_lease(unsigned words) {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, std::chrono::seconds(20), [&] { return lease_words_ >= words; })) return std::nullopt;
    return lease_ms_;
  }

 private:
  void hear_of_lease(std::uint32_t left) {
    const std::lock_guard lock(mutex_);
    ++lease_words_;
    lease_ms_ = left;
    changed_.notify_all();
  }
  static void say(const Fd& link, const wire::FromGuest& message) {
    const std::string frame = encode_frame(message.SerializeAsString());
    (void)!::write(link.get(), frame.data(), frame.size());
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  unsigned lease_words_ = 0;
  std::uint32_t lease_ms_ = 0;
  std::jthread thread_;
};

}  // namespace stillpoint::node
