// A gang of real virtual machines for tests, without libvirt, node daemon or coordinator: QEMU started directly, two
// guests joined by a socket, and this end of the guest protocol. One thread.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
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

// One QEMU with what the image's README asks for. Ends with the object.
class Vm {
 public:
  // incoming: a memory image that save() wrote, to go on from; empty to boot.
  Vm(const std::filesystem::path& directory, const std::filesystem::path& image, unsigned guest,
     const std::filesystem::path& incoming = {});
  ~Vm();
  Vm(const Vm&) = delete;
  Vm& operator=(const Vm&) = delete;

  // Closes this end of the agent's channel and opens it again, as a restarted daemon does.
  void reconnect();
  bool send(const wire::GuestRequest& request);
  std::optional<wire::FromGuest> receive(std::chrono::milliseconds wait);
  bool alive() const;
  std::string console() const;

  // Through QEMU's monitor: the answer's line, or empty after the deadline.
  std::string monitor(const std::string& command, const std::string& arguments = "{}");
  // Of a machine that stands: memory into path and the disk into path + ".disk".
  bool save(const std::filesystem::path& path);

 private:
  void connect();

  std::filesystem::path socket_, console_, monitor_, disk_;
  pid_t pid_ = 0;
  Fd link_;
  FrameReader reader_;
};

class VmGang {
 public:
  explicit VmGang(const std::filesystem::path& image);
  ~VmGang();

  // Boots two guests and waits for their hellos. False with a reason in problem().
  bool boot(std::chrono::seconds deadline);
  bool configure(const std::string& workdir);
  // Both machines into images; they go on when it returns.
  bool save();
  // New machines from the images in place of these, as a host that lost them would get them.
  bool restore();

  // The reply, or nothing after the deadline. Everything else that guests say meanwhile is dealt with: output is kept
  // and acknowledged, launches are relayed, the exit is noted.
  std::optional<wire::GuestReply> ask(unsigned guest, wire::GuestRequest request, std::chrono::milliseconds deadline);
  // The same of all guests at once.
  std::optional<std::vector<wire::GuestReply>> ask_all(const std::function<wire::GuestRequest(unsigned)>& request,
                                                       std::chrono::milliseconds deadline);
  bool serve_until(const std::function<bool()>& condition, std::chrono::milliseconds deadline);
  bool put_file(unsigned guest, const std::string& name, const std::string& content, unsigned mode);

  Vm& vm(unsigned guest) { return *vms_[guest]; }
  std::string& output() { return output_; }
  const std::optional<wire::JobExited>& exited() const { return exited_; }
  const std::optional<wire::GuestHello>& hello(unsigned guest) const { return hellos_[guest]; }
  void forget_hello(unsigned guest) { hellos_[guest].reset(); }
  unsigned launches() const { return launches_; }
  std::uint64_t epoch = 0;
  std::uint64_t incarnation = 1;
  std::string problem() const;

 private:
  void serve(std::chrono::milliseconds wait);
  void take(unsigned guest, wire::FromGuest message);
  std::uint64_t send(unsigned guest, wire::GuestRequest request);

  std::filesystem::path directory_, image_;
  std::vector<std::unique_ptr<Vm>> vms_;
  std::vector<std::optional<wire::GuestHello>> hellos_;
  std::map<std::uint64_t, wire::GuestReply> replies_;
  std::map<std::uint64_t, std::uint64_t> relayed_;  // StartDaemon's id → launch
  std::string output_;
  std::optional<wire::JobExited> exited_;
  unsigned launches_ = 0;
  std::uint64_t next_id_ = 1;
};

}  // namespace stillpoint::agent
