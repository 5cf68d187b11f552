// What a test needs to run real machines: a network of its own, files that vanish, and a guest that answers questions
// (test-guest/init). Test code; one thread.
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/fd.h"
#include "node-daemon/domain/libvirt_driver.h"

namespace stillpoint::node::test {

// A directory that is gone at the end. What tests that were killed have left is removed first: a test that lives holds
// its directory's lock.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  Fd lock_;
};

// This process's own network namespace with the bridges br0 and br1, which a child made by run_as_child() shares; it
// ends with the last of them. Before the first thread. Empty, or why not.
std::string enter_own_network();

// Collects a stream; fails once it holds more than limit bytes, as a full disk would.
class StringSink : public MemorySink {
 public:
  explicit StringSink(std::size_t limit = ~std::size_t{0}) : limit_(limit) {}
  Status write(std::string_view bytes) override;
  Status restart() override;
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

// A driver, and what machines are made of. The driver's root is one for the whole process: libvirt keeps an embedded
// driver open until the process ends. So the end of a daemon is tried with child processes.
class Machines {
 public:
  enum class Open { now, later };
  // overlay: files laid over the guest image's initramfs, its /init among them.
  explicit Machines(std::optional<CaptureMode> mode = {}, Open open = Open::now,
                    const std::filesystem::path& overlay = STILLPOINT_SOURCE_DIR "/node-daemon/domain/test-guest");
  ~Machines();  // destroys what still runs

  DomainDriver& driver() { return *driver_; }
  // A new driver on the same root.
  void reopen();
  // Runs one (skipped) test case of this program in a child process, whose Machines have this one's files and root.
  // Its exit code, and what it printed.
  static std::pair<int, std::string> run_as_child(const Machines& parent, const std::string& test_case);
  const std::filesystem::path& directory() const { return directory_; }
  const std::filesystem::path& root() const { return settings_.root; }
  DomainSpec spec(unsigned incarnation, const std::string& disk, const std::string& bridge = "br0") const;
  // An empty layer over NAME.raw, an ext4 without files: as the node daemon makes the disk of a new guest.
  std::filesystem::path make_disk(const std::string& name) const;
  // A flat copy of an immutable layer and all below it.
  std::filesystem::path copy_disk(const std::filesystem::path& layer, const std::string& name) const;
  // Why machines cannot be run here, or empty.
  const std::string& problem() const { return problem_; }

 private:
  void prepare(const std::filesystem::path& overlay);
  std::unique_ptr<TempDir> own_;  // not in a child
  std::filesystem::path directory_;
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
  // Whether it counts on, within a minute: a machine that shares two cores with compilers may get none for a while.
  bool counts_beyond(long count);

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
