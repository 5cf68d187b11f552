// The agent of a fake guest, for tests. A thread of its own serves it as long as the object lives.
#pragma once

#include <poll.h>
#include <unistd.h>

#include <thread>

#include "common/framing.h"
#include "guest.pb.h"
#include "node-daemon/domain/fake_driver.h"

namespace stillpoint::node {

// One guest's agent: says hello until it is asked something, and answers everything.
class TestAgent {
 public:
  TestAgent(FakeDriver& driver, DomainId id) {
    thread_ = std::jthread([&driver, id](const std::stop_token& stop) {
      const Fd link = driver.take_agent_end(id, std::chrono::seconds(20));
      FrameReader reader;
      bool asked = false;
      while (link && !stop.stop_requested()) {
        if (!asked) {
          wire::FromGuest hello;
          hello.mutable_hello()->set_boot_id("boot-" + std::to_string(id.guest.value));
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
          wire::FromGuest reply;
          *reply.mutable_gang() = request.gang();
          reply.mutable_reply()->set_id(request.id());
          if (request.has_release_ranks()) reply.mutable_reply()->mutable_release()->set_held(true);
          say(link, reply);
        }
      }
    });
  }

 private:
  static void say(const Fd& link, const wire::FromGuest& message) {
    const std::string frame = encode_frame(message.SerializeAsString());
    (void)!::write(link.get(), frame.data(), frame.size());
  }
  std::jthread thread_;
};

}  // namespace stillpoint::node
