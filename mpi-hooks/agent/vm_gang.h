// A gang of real virtual machines for tests, without libvirt, node daemon or coordinator: QEMU started directly, two
// guests joined by a socket. One thread.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <string>

#include "mpi-hooks/agent/gang.h"

namespace stillpoint::agent {

// One QEMU with what the image's README asks for. Ends with the object.
class Vm : public Guest {
 public:
  // incoming: a memory image that save() wrote, to go on from; empty to boot.
  Vm(const std::filesystem::path& directory, const std::filesystem::path& image, unsigned guest,
     const std::filesystem::path& incoming = {});
  ~Vm() override;

  std::string story() const override;

  // Through QEMU's monitor: the answer's line, or empty after the deadline.
  std::string monitor(const std::string& command, const std::string& arguments = "{}") const;
  // It has powered itself off: its QEMU has ended.
  bool is_off() const;
  // Of a machine that stands: memory into path and the disk into path + ".disk".
  bool save(const std::filesystem::path& path);

 private:
  Fd connect() override;

  std::filesystem::path socket_, console_, monitor_, disk_;
  pid_t pid_ = 0;
};

class VmGang : public Gang {
 public:
  explicit VmGang(const std::filesystem::path& image);
  ~VmGang() override;

  // Boots two guests and waits for their hellos. False with a reason in problem().
  bool boot(std::chrono::seconds deadline);
  // Both machines into images; they go on when it returns.
  bool save();
  // Both machines stand still for so long.
  void pause(std::chrono::milliseconds time);
  bool all_off() const;
  // New machines from the images in place of these, as a host that lost them would get them.
  bool restore();

 private:
  Vm& vm(unsigned guest) const { return static_cast<Vm&>(*guests_[guest]); }

  std::filesystem::path directory_, image_;
  Fd lock_;  // of the directory
};

}  // namespace stillpoint::agent
