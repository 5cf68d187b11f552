// The host's end of one guest's virtio-serial port: frames out of a bounded queue, frames in, and the connection made
// anew, with growing pauses, as long as the link is wanted. What is lost on the way is sent again by the core.
//
// Lives on one executor that runs one handler at a time; everything is called there. Keeps itself alive while it has
// something under way; close() ends that.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "common/fd.h"
#include "common/result.h"

namespace stillpoint::node {

class GuestLink {
 public:
  struct Handlers {
    // Asks for a connection, which blocks: done elsewhere, and answered with connected().
    std::function<void()> connect;
    std::function<void()> opened;
    std::function<void(std::string payload)> frame;
  };

  static std::shared_ptr<GuestLink> make(const boost::asio::any_io_executor& executor, std::string name,
                                         Handlers handlers);

  virtual ~GuestLink() = default;
  virtual void start() = 0;
  virtual void connected(Result<Fd> stream) = 0;
  // False: the link is down, its queue is full, or the agent would not read so much; nothing was taken.
  virtual bool send(std::string_view payload) = 0;
  virtual void close() = 0;
};

}  // namespace stillpoint::node
