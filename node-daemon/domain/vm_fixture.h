// What a test needs to run real machines: a network of its own, files that vanish, and a guest that answers questions
// (test-guest/init). Test code; one thread.
#pragma once

#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

#include "node-daemon/domain/libvirt_driver.h"

namespace stillpoint::node::test {

// A directory that is gone at the end.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// This process's own network namespace with the bridges br0 and br1; it ends with the process. Empty, or why not.
std::string enter_own_network();

// Collects a stream; fails once it holds more than limit bytes, as a full disk would.
class StringSink : public MemorySink {
 public:
  explicit StringSink(std::size_t limit = ~std::size_t{0}) : limit_(limit) {}
  Status write(std::string_view bytes) override;
  std::string bytes;

 private:
  std::size_t limit_;
};
class StringSource : public MemorySource {
 public:
  explicit StringSource(std::string_view bytes) : left_(bytes) {}
  Result<std::string> read() override;

 private:
  std::string_view left_;
};

// A driver with a root of its own, and what machines are made of.
class Machines {
 public:
  explicit Machines(std::optional<CaptureMode> mode = {});
  ~Machines();  // destroys what still runs

  DomainDriver& driver() { return *driver_; }
  // The daemon ends and comes back.
  void reopen();
  const std::filesystem::path& directory() const { return directory_.path(); }
  DomainSpec spec(unsigned incarnation, const std::string& disk, const std::string& bridge = "br0") const;
  // A qcow2 with an empty ext4.
  std::filesystem::path make_disk(const std::string& name) const;
  // A flat copy of an immutable layer and all below it.
  std::filesystem::path copy_disk(const std::filesystem::path& layer, const std::string& name) const;
  // Why machines cannot be run here, or empty.
  const std::string& problem() const { return problem_; }

 private:
  void prepare();
  TempDir directory_;
  LibvirtSettings settings_;
  std::string problem_;
  std::filesystem::path guest_image_;
  std::unique_ptr<DomainDriver> driver_;
};

// Asks the test guest. Each question is sent again until its answer comes (the guest does it once): the channel may
// lose bytes, and a machine that boots beside a compiler is slow.
class Guest {
 public:
  Guest(DomainDriver& driver, DomainId id) : driver_(driver), id_(std::move(id)) {}
  // The answer, or "" after the deadline.
  std::string ask(const std::string& question, std::chrono::seconds deadline = std::chrono::seconds(120));
  long count() { return std::atol(ask("count").c_str()); }

 private:
  std::string read_answer(const std::string& tag, std::chrono::steady_clock::time_point until);
  DomainDriver& driver_;
  DomainId id_;
  Fd link_;
  std::string received_;
  int tag_ = next_ += 1000;
  static inline int next_ = 0;  // so that two that talk to one guest do not use the same tags
};

}  // namespace stillpoint::node::test
