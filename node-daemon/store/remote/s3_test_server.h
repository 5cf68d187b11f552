// A real S3 server for tests: OpenStack Swift (swift_server.py) on an ext4 file system of its own, in a mount and a
// network namespace that the test process enters at the first start and that go with it: nothing is left even when it
// is killed. Needs root. Make it in the test's first thread. Throws std::runtime_error when something is not there.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "node-daemon/store/remote/s3_client.h"
#include "node-daemon/store/remote/test_process.h"

namespace stillpoint::node::test {

class S3TestServer {
 public:
  static constexpr const char* kBucket = "checkpoints";
  static constexpr unsigned kPort = 18080;  // on all addresses of its network namespace
  static constexpr std::uint64_t kDiskBytes = 256u << 20;
  static constexpr unsigned kPageOfList = 20;  // names that one answer lists

  // With an empty bucket. The disk is the first server's: all of a process have the same.
  explicit S3TestServer(std::uint64_t disk_bytes = kDiskBytes);
  ~S3TestServer();

  // For the bucket, below a prefix that no other call gave; few attempts with short pauses.
  S3Settings settings();
  // A file with these credentials, 0600.
  static std::filesystem::path credentials(const std::string& name, const std::string& secret);

  void kill();   // SIGKILL of everything; returns when it is gone
  void start();  // with what is on its disk; returns when it listens
  void stall();  // SIGSTOP of what listens
  void go_on();
  void fill_disk();  // leaves a MiB
  void clear_disk();

 private:
  std::optional<TestProcess> process_;
  std::vector<pid_t> servers_;
  unsigned prefixes_ = 0;
};

// Whether a bucket named so could be made.
bool make_bucket(const std::string& name);

}  // namespace stillpoint::node::test
