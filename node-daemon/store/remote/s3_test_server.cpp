#include "node-daemon/store/remote/s3_test_server.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/statvfs.h>
#include <sys/wait.h>

#include <cerrno>
#include <sstream>
#include <stdexcept>

#include "common/file.h"
#include "common/process.h"
#include "node-daemon/store/digest.h"
#include "node-daemon/store/seal.h"

namespace stillpoint::node::test {
namespace {

namespace fs = std::filesystem;

const fs::path kPlace = "/mnt";  // a file system in memory hides it, in this process's namespace only
const fs::path kDisk = kPlace / "disk";
constexpr const char* kEndpoint = "http://127.0.0.1:18080";

void must(bool done, const std::string& what) {
  if (!done) throw std::runtime_error("S3 server for tests: " + what + " (needs root): " + std::strerror(errno));
}

void must_run(const std::vector<std::string>& argv) {
  if (auto done = run_checked(argv); !done) throw std::runtime_error(done.error().message());
}

void enter_namespaces(std::uint64_t disk_bytes) {
  must(::unshare(CLONE_NEWNS | CLONE_NEWNET) == 0, "namespaces");
  must(::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0, "private mounts");
  must(::mount("none", kPlace.c_str(), "tmpfs", 0, "mode=0700") == 0, "tmpfs");
  must(::prctl(PR_SET_CHILD_SUBREAPER, 1) == 0, "subreaper");
  must_run({"ip", "link", "set", "lo", "up"});
  const std::string image = kPlace / "disk.img";
  must_run({"truncate", "--size", std::to_string(disk_bytes), image});
  // Small blocks, which mkfs takes for a small file system, have no room for what Swift keeps in attributes.
  must_run({"mkfs.ext4", "-q", "-m", "0", "-b", "4096", "-I", "512", image});
  fs::create_directory(kDisk);
  must_run({"mount", "-o", "loop", image, kDisk});
}

}  // namespace

bool make_bucket(const std::string& name) {
  HttpSettings settings;
  settings.sigv4 = SigV4{"tester:tester", "testing", "us-east-1"};
  HttpRequest request;
  request.method = HttpMethod::put;
  request.url = std::string(kEndpoint) + "/" + name;
  request.headers = {"x-amz-content-sha256: " + hex(Sha256().finish())};
  const auto made = HttpClient(settings).run(request);
  return made && made->status == 200;
}

S3TestServer::S3TestServer(std::uint64_t disk_bytes) {
  static const bool once = (enter_namespaces(disk_bytes), true);
  (void)once;
  start();
  must(make_bucket(kBucket), "no bucket");
}

S3TestServer::~S3TestServer() { kill(); }

void S3TestServer::start() {
  process_.emplace(std::vector<std::string>{"/usr/bin/python3",
                                            STILLPOINT_SOURCE_DIR "/node-daemon/store/remote/swift_server.py",
                                            kDisk.string(), std::to_string(kPort), std::to_string(kPageOfList)});
  std::istringstream pids(process_->line(std::chrono::seconds(60)));
  for (pid_t pid = 0; pids >> pid;) servers_.push_back(pid);
}

void S3TestServer::kill() {
  for (const pid_t pid : servers_) ::kill(pid, SIGKILL);
  process_.reset();
  // They are this process's children now that theirs is gone.
  for (const pid_t pid : servers_)
    while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {}
  servers_.clear();
}

void S3TestServer::stall() { ::kill(servers_.at(0), SIGSTOP); }
void S3TestServer::go_on() { ::kill(servers_.at(0), SIGCONT); }

void S3TestServer::fill_disk() {
  struct statvfs figures {};
  must(::statvfs(kDisk.c_str(), &figures) == 0, "statvfs");
  const Fd file(::open((kDisk / "filler").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  const auto free = static_cast<off_t>(figures.f_bavail * figures.f_frsize);
  must(file && ::posix_fallocate(file.get(), 0, free - (1 << 20)) == 0, "filler");
}

void S3TestServer::clear_disk() { must(::unlink((kDisk / "filler").c_str()) == 0, "filler"); }

fs::path S3TestServer::credentials(const std::string& name, const std::string& secret) {
  const fs::path path = kPlace / ("credentials-" + name + "-" + secret);
  const std::string text = "[default]\naws_access_key_id = " + name + "\naws_secret_access_key = " + secret + "\n";
  must(publish_file(path, text, 0600).has_value(), "credentials");
  return path;
}

S3Settings S3TestServer::settings() {
  S3Settings settings;
  settings.endpoint = kEndpoint;
  settings.bucket = kBucket;
  settings.prefix = "site/test-" + std::to_string(++prefixes_);
  settings.credentials = credentials("tester:tester", "testing");
  settings.part_bytes = 5u << 20;
  settings.retries = {4, std::chrono::milliseconds(50), std::chrono::milliseconds(400)};
  return settings;
}

}  // namespace stillpoint::node::test
