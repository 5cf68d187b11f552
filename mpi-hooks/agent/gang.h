// The daemon's end of the guest protocol, for tests: a gang of guests (virtual machines in vm_gang.h, namespaces in
// tests/cluster) without node daemon or coordinator behind it. One thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/fd.h"
#include "common/framing.h"
#include "guest.pb.h"

namespace stillpoint::agent {

// One guest, seen from its host. The guest ends with the object.
class Guest {
 public:
  Guest() = default;
  virtual ~Guest() = default;
  Guest(const Guest&) = delete;
  Guest& operator=(const Guest&) = delete;

  // What is known about it when a test fails: its console, its agent's log.
  virtual std::string story() const = 0;

  bool send(const wire::GuestRequest& request);
  // What has arrived, in order; never waits.
  std::optional<wire::FromGuest> receive();
  // To poll for reading; -1 while the channel is closed.
  int fd();
  // Closes this end of the agent's channel and opens it again, as a restarted daemon does.
  void reconnect();

 protected:
  // The agent's channel; an empty Fd while it cannot be opened.
  virtual Fd connect() = 0;

 private:
  Fd link_;
  FrameReader reader_;
};

class Gang {
 public:
  explicit Gang(std::size_t guests) : guests_(guests), hellos_(guests) {}
  virtual ~Gang() = default;

  static std::string guest_name(unsigned guest) { return "guest-" + std::to_string(guest); }
  static std::string address(unsigned guest);
  static std::string mac(unsigned guest);

  // clock: whether the guests' clocks are set to this machine's; not where they are the same clock.
  bool configure(const std::string& workdir, bool clock = true);
  bool put_file(unsigned guest, const std::string& name, const std::string& content, unsigned mode);
  bool all_said_hello() const;

  // The reply, or nothing after the deadline. Everything else that guests say meanwhile is dealt with: output is kept
  // and acknowledged, launches are relayed, the exit is noted.
  std::optional<wire::GuestReply> ask(unsigned guest, wire::GuestRequest request, std::chrono::milliseconds deadline);
  // The same of all guests at once.
  std::optional<std::vector<wire::GuestReply>> ask_all(const std::function<wire::GuestRequest(unsigned)>& request,
                                                       std::chrono::milliseconds deadline);
  bool serve_until(const std::function<bool()>& condition, std::chrono::milliseconds deadline);
  // A heartbeat's word to all guests; has no answer.
  void tell_of_lease();

  unsigned size() const { return static_cast<unsigned>(guests_.size()); }
  Guest& guest(unsigned guest) { return *guests_[guest]; }
  std::string& output() { return output_; }
  const std::optional<wire::JobExited>& exited() const { return exited_; }
  const std::optional<wire::GuestHello>& hello(unsigned guest) const { return hellos_[guest]; }
  const std::vector<wire::RankFailed>& failed_ranks() const { return failed_ranks_; }
  unsigned launches() const { return launches_; }
  virtual std::string problem();

  std::uint64_t epoch = 0;
  std::uint64_t incarnation = 1;
  std::uint32_t lease_ms = 0;  // what every request says of the host's lease; 0: nothing

 protected:
  void forget_hello(unsigned guest) { hellos_[guest].reset(); }
  std::vector<std::unique_ptr<Guest>> guests_;

 private:
  void serve(std::chrono::milliseconds wait);
  void take(unsigned guest, wire::FromGuest message);
  std::uint64_t send(unsigned guest, wire::GuestRequest request);

  std::vector<std::optional<wire::GuestHello>> hellos_;
  std::map<std::uint64_t, wire::GuestReply> replies_;
  std::map<std::uint64_t, std::uint64_t> relayed_;  // StartDaemon's id → launch
  std::string output_;
  std::optional<wire::JobExited> exited_;
  std::vector<wire::RankFailed> failed_ranks_;
  unsigned launches_ = 0;
  std::uint64_t next_id_ = 1;
};

}  // namespace stillpoint::agent
