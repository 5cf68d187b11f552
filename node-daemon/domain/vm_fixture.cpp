#include "node-daemon/domain/vm_fixture.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "common/file.h"
#include "common/process.h"
#include "node-daemon/domain/domain_name.h"

namespace stillpoint::node::test {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

namespace {

Fd lock(const fs::path& directory) {
  Fd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd && ::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) fd.reset();
  return fd;
}

void remove_leftovers() {
  std::error_code code;
  for (const auto& entry : fs::directory_iterator("/tmp", code)) {
    if (entry.path().filename().string().rfind("sp-domain-", 0) != 0) continue;
    // Young ones may be between being made and being locked.
    const auto age = fs::file_time_type::clock::now() - entry.last_write_time(code);
    if (code || age < std::chrono::minutes(1)) continue;
    if (const Fd left = lock(entry.path())) fs::remove_all(entry.path(), code);
  }
}

}  // namespace

TempDir::TempDir() {
  remove_leftovers();
  char pattern[] = "/tmp/sp-domain-XXXXXX";
  if (!::mkdtemp(pattern)) throw std::runtime_error("mkdtemp failed");
  path_ = pattern;
  lock_ = lock(path_);
}

TempDir::~TempDir() {
  std::error_code code;
  fs::remove_all(path_, code);
}

namespace {
const char* const child_directory = std::getenv("STILLPOINT_TEST_DIRECTORY");
const char* const child_root = std::getenv("STILLPOINT_TEST_ROOT");

fs::path process_root() {
  if (child_root) return child_root;
  static const TempDir directory;
  return directory.path() / "v";
}
}  // namespace

std::string enter_own_network() {
  if (child_root) return "";
  if (::unshare(CLONE_NEWNET) < 0) return std::string("no network namespace: ") + std::strerror(errno);
  for (const char* bridge : {"br0", "br1"}) {
    for (const std::vector<std::string>& argv :
         {std::vector<std::string>{"ip", "link", "add", bridge, "type", "bridge"}, {"ip", "link", "set", bridge, "up"}})
      if (auto done = run_checked(argv); !done) return done.error().message();
  }
  return "";
}

Status StringSink::write(std::string_view more) {
  if (bytes.size() + more.size() > limit_) return Error{ErrorKind::storage_full, "store", "image", "no space left"};
  bytes += more;
  return {};
}

Status StringSink::restart() {
  bytes.clear();
  return {};
}

Result<std::string> StringSource::read() {
  std::string block(left_.substr(0, 1 << 20));
  left_.remove_prefix(block.size());
  return block;
}

Machines::Machines(std::optional<CaptureMode> mode, Open open, const fs::path& overlay) {
  settings_.root = process_root();
  settings_.capture_mode = mode;
  const char* image = std::getenv("STILLPOINT_GUEST_IMAGE");
  guest_image_ = image ? image : STILLPOINT_SOURCE_DIR "/build/release/guest";
  if (child_directory) {
    directory_ = child_directory;
  } else {
    own_ = std::make_unique<TempDir>();
    directory_ = own_->path();
    prepare(overlay);
  }
  if (problem_.empty() && open == Open::now) reopen();
}

Machines::~Machines() {
  if (!driver_) return;
  if (auto ids = driver_->running())
    for (const auto& id : *ids) (void)driver_->destroy(id);
}

std::pair<int, std::string> Machines::run_as_child(const Machines& parent, const std::string& test_case) {
  const auto child = run_process({"env", "STILLPOINT_TEST_DIRECTORY=" + parent.directory().string(),
                                  "STILLPOINT_TEST_ROOT=" + parent.root().string(), fs::read_symlink("/proc/self/exe"),
                                  "--no-skip", "--test-case=" + test_case},
                                 {.deadline = std::chrono::minutes(5)});
  if (!child) return {-1, child.error().message()};
  return {child->exit_code, child->out + child->err};
}

// The guest image's initramfs with another /init laid over it: the kernel unpacks one archive after the other.
void Machines::prepare(const fs::path& overlay) {
  if (!fs::exists(guest_image_ / "initrd.img") || !fs::exists(guest_image_ / "vmlinuz")) {
    problem_ = guest_image_.string() + " holds no vmlinuz and initrd.img: run scripts/guest-image";
    return;
  }
  fs::copy(overlay, directory_ / "i");
  for (const auto& file : fs::directory_iterator(directory_ / "i")) fs::permissions(file, fs::perms(0755));
  const std::string script = "cd '" + (directory_ / "i").string() + "' && { cat '" +
                             (guest_image_ / "initrd.img").string() +
                             "'; find . -type f | cpio --quiet -o -H newc -R 0:0; } > ../initrd.img";
  if (auto made = run_checked({"sh", "-c", script}); !made) problem_ = made.error().message();
  if (auto base = publish_file(directory_ / "base.raw", std::string(1 << 20, '\0')); !base)
    problem_ = base.error().message();
}

void Machines::reopen() {
  driver_.reset();
  auto opened = open_libvirt_driver(settings_);
  if (!opened) problem_ = opened.error().message();
  else driver_ = std::move(*opened);
}

DomainSpec Machines::spec(unsigned incarnation, const std::string& disk, const std::string& bridge) const {
  DomainSpec spec;
  spec.id = {JobId{"j1"}, Incarnation{incarnation}, GuestIndex{0}};
  spec.memory_bytes = 256u << 20;
  spec.kernel = fs::canonical(guest_image_ / "vmlinuz").string();
  spec.initramfs = (directory_ / "initrd.img").string();
  spec.base_image = (directory_ / "base.raw").string();
  spec.disk = directory_ / disk;
  spec.mac = "52:54:00:12:34:56";
  spec.bridge = bridge;
  return spec;
}

fs::path Machines::make_disk(const std::string& name) const {
  const fs::path disk = directory_ / name, raw = disk.string() + ".raw";
  for (const std::vector<std::string>& argv :
       {std::vector<std::string>{"truncate", "-s", "256M", raw.string()},
        {"mkfs.ext4", "-q", "-F", raw.string()},
        {"qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", raw.string(), disk.string()}})
    if (auto done = run_checked(argv); !done) throw std::runtime_error(done.error().message());
  return disk;
}

fs::path Machines::copy_disk(const fs::path& layer, const std::string& name) const {
  const fs::path disk = directory_ / name;
  if (auto done =
          run_checked({"qemu-img", "convert", "-U", "-f", "qcow2", "-O", "qcow2", layer.string(), disk.string()});
      !done)
    throw std::runtime_error(done.error().message());
  return disk;
}

std::string Guest::ask(const std::string& question, std::chrono::seconds deadline) {
  const auto end = Clock::now() + deadline;
  // The guest outlives a process that asks it, and does what has the last one's tag no second time.
  const std::string tag = domain_name(id_) + "-" + std::to_string(::getpid()) + "-" + std::to_string(++tag_);
  const std::string line = tag + " " + question + "\n";
  while (Clock::now() < end) {
    if (!link_) {
      auto opened = driver_.open_guest_link(id_);
      if (!opened) return "";
      link_ = std::move(*opened);
      received_.clear();
    }
    if (::send(link_.get(), line.data(), line.size(), MSG_NOSIGNAL) < 0) {
      if (errno != EAGAIN) link_.reset();
      continue;
    }
    const std::string answer = read_answer(tag, std::min(end, Clock::now() + std::chrono::seconds(5)));
    if (!answer.empty()) return answer;
  }
  return "";
}

bool Guest::counts_beyond(long before) {
  const auto end = Clock::now() + std::chrono::minutes(1);
  while (Clock::now() < end)
    if (count() > before) return true;
  return false;
}

std::string Guest::read_answer(const std::string& tag, Clock::time_point until) {
  while (Clock::now() < until && link_) {
    for (std::size_t end; (end = received_.find('\n')) != received_.npos;) {
      std::string line = received_.substr(0, end);
      received_.erase(0, end + 1);
      const auto at = line.find(tag + " ");
      if (at != line.npos) return line.substr(at + tag.size() + 1);
    }
    pollfd poll_on{link_.get(), POLLIN, 0};
    if (::poll(&poll_on, 1, 200) <= 0) continue;
    char block[4096];
    const ssize_t n = ::recv(link_.get(), block, sizeof block, 0);
    if (n > 0) received_.append(block, static_cast<std::size_t>(n));
    else if (n == 0 || (errno != EAGAIN && errno != EINTR)) link_.reset();
  }
  return "";
}

}  // namespace stillpoint::node::test
