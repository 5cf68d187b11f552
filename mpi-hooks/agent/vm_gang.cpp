#include "mpi-hooks/agent/vm_gang.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <vector>

namespace stillpoint::agent {
namespace {

using Clock = std::chrono::steady_clock;

Fd connect_to(const std::filesystem::path& path) {
  sockaddr_un to{};
  to.sun_family = AF_UNIX;
  path.string().copy(to.sun_path, sizeof to.sun_path - 1);
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  return ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0 ? std::move(fd) : Fd();
}

std::vector<std::string> qemu_command(const std::filesystem::path& dir, const std::filesystem::path& image,
                                      unsigned guest) {
  const std::string own = dir.string() + "/" + Gang::guest_name(guest);
  const std::string wire = ",addr.type=unix,addr.path=" + dir.string() + "/net.sock";
  return {"qemu-system-x86_64",
          "-machine",
          "q35,accel=tcg",
          "-cpu",
          "max",
          "-m",
          "512M",
          "-smp",
          "1",
          "-nodefaults",
          "-no-user-config",
          "-display",
          "none",
          "-no-reboot",
          "-kernel",
          image / "vmlinuz",
          "-initrd",
          image / "initrd.img",
          "-append",
          "console=ttyS0 quiet panic=-1",
          "-drive",
          "if=none,id=base,format=raw,readonly=on,file=" + (image / "base.squashfs").string(),
          "-device",
          "virtio-blk-pci,drive=base,serial=base",
          "-drive",
          "if=none,id=disk,format=raw,file=" + own + ".disk",
          "-device",
          "virtio-blk-pci,drive=disk,serial=disk",
          "-device",
          "virtio-serial-pci",
          "-chardev",
          "socket,id=agent,server=on,wait=off,path=" + own + ".agent",
          "-device",
          "virtserialport,chardev=agent,name=stillpoint.0",
          "-netdev",
          std::string("stream,id=net") + (guest == 0 ? ",server=on" : ",server=off,reconnect-ms=500") + wire,
          "-device",
          "virtio-net-pci,netdev=net,mac=" + Gang::mac(guest),
          "-device",
          "virtio-rng-pci",
          "-chardev",
          "file,id=console,append=on,path=" + own + ".console",
          "-serial",
          "chardev:console",
          "-qmp",
          "unix:" + own + ".monitor,server=on,wait=off"};
}

}  // namespace

Vm::Vm(const std::filesystem::path& directory, const std::filesystem::path& image, unsigned guest,
       const std::filesystem::path& incoming)
    : socket_(directory / (Gang::guest_name(guest) + ".agent")),
      console_(directory / (Gang::guest_name(guest) + ".console")),
      monitor_(directory / (Gang::guest_name(guest) + ".monitor")),
      disk_(directory / (Gang::guest_name(guest) + ".disk")) {
  if (incoming.empty()) {
    std::ofstream{disk_};
    std::filesystem::resize_file(disk_, 1u << 30);
  }
  std::vector<std::string> command = qemu_command(directory, image, guest);
  if (!incoming.empty()) command.insert(command.end(), {"-incoming", "file:" + incoming.string()});
  std::vector<char*> argv;
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  const pid_t test = ::getpid();
  pid_ = ::fork();
  if (pid_ != 0) return;
  // It ends with the test, whatever ends that.
  if (::prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || ::getppid() != test) ::_exit(127);
  ::execvp(argv[0], argv.data());
  ::_exit(127);
}

Vm::~Vm() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGTERM);
  ::waitpid(pid_, nullptr, 0);
}

Fd Vm::connect() { return connect_to(socket_); }

std::string Vm::monitor(const std::string& command, const std::string& arguments) const {
  const Fd monitor = connect_to(monitor_);
  const std::string lines = "{\"execute\":\"qmp_capabilities\",\"id\":1}\n{\"execute\":\"" + command +
                            "\",\"arguments\":" + arguments + ",\"id\":2}\n";
  if (!monitor || ::send(monitor.get(), lines.data(), lines.size(), MSG_NOSIGNAL) < 0) return {};
  std::string text;
  for (;;) {
    pollfd poll{monitor.get(), POLLIN, 0};
    char bytes[4096];
    if (::poll(&poll, 1, 10'000) <= 0) return {};
    const ssize_t n = ::read(monitor.get(), bytes, sizeof bytes);
    if (n <= 0) return {};
    text.append(bytes, static_cast<std::size_t>(n));
    for (std::size_t end; (end = text.find('\n')) != text.npos; text.erase(0, end + 1))
      if (text.substr(0, end).find("\"id\": 2") != text.npos) return text.substr(0, end);
  }
}

bool Vm::is_off() const {
  siginfo_t ended{};  // left as it is for the destructor
  return ::waitid(P_PID, static_cast<id_t>(pid_), &ended, WEXITED | WNOHANG | WNOWAIT) == 0 && ended.si_pid == pid_;
}

bool Vm::save(const std::filesystem::path& path) {
  monitor("migrate", "{\"uri\":\"file:" + path.string() + "\"}");
  const auto end = Clock::now() + std::chrono::seconds(60);
  while (monitor("query-migrate").find("\"status\": \"completed\"") == std::string::npos) {
    if (Clock::now() >= end) return false;
    ::poll(nullptr, 0, 50);
  }
  return std::filesystem::copy_file(disk_, path.string() + ".disk", std::filesystem::copy_options::overwrite_existing);
}

std::string Vm::story() const {
  std::ifstream file(console_);
  return monitor("query-status") + "\nconsole: " + std::string{std::istreambuf_iterator<char>(file), {}};
}

namespace {

Fd lock(const std::filesystem::path& directory) {
  Fd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd && ::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) fd.reset();
  return fd;
}

// Of tests that were killed. One that lives holds its directory's lock, unless it has only just made it.
void remove_leftovers() {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(std::filesystem::temp_directory_path(), error)) {
    if (entry.path().filename().string().rfind("stillpoint-vm-", 0) != 0) continue;
    const auto age = std::filesystem::file_time_type::clock::now() - entry.last_write_time(error);
    if (error || age < std::chrono::minutes(1)) continue;
    if (const Fd left = lock(entry.path())) std::filesystem::remove_all(entry.path(), error);
  }
}

}  // namespace

VmGang::VmGang(const std::filesystem::path& image) : Gang(2), image_(image) {
  remove_leftovers();
  std::string name = (std::filesystem::temp_directory_path() / "stillpoint-vm-XXXXXX").string();
  directory_ = ::mkdtemp(name.data());
  lock_ = lock(directory_);
}

VmGang::~VmGang() {
  guests_.clear();
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

bool VmGang::boot(std::chrono::seconds deadline) {
  for (unsigned guest = 0; guest < size(); ++guest) guests_[guest] = std::make_unique<Vm>(directory_, image_, guest);
  return serve_until([&] { return all_said_hello(); }, deadline);
}

void VmGang::pause(std::chrono::milliseconds time) {
  for (unsigned guest = 0; guest < size(); ++guest) vm(guest).monitor("stop");
  serve_until([] { return false; }, time);
  for (unsigned guest = 0; guest < size(); ++guest) vm(guest).monitor("cont");
}

bool VmGang::all_off() const {
  return std::all_of(guests_.begin(), guests_.end(),
                     [](const auto& guest) { return static_cast<Vm&>(*guest).is_off(); });
}

bool VmGang::save() {
  bool saved = true;
  // All stand before the first is saved: a guest's hold does not run while its machine stands.
  for (unsigned guest = 0; guest < size(); ++guest) vm(guest).monitor("stop");
  for (unsigned guest = 0; guest < size(); ++guest)
    saved = vm(guest).save(directory_ / (guest_name(guest) + ".image")) && saved;
  for (unsigned guest = 0; guest < size(); ++guest) vm(guest).monitor("cont");
  return saved;
}

bool VmGang::restore() {
  for (auto& guest : guests_) guest.reset();
  for (unsigned guest = 0; guest < size(); ++guest) {
    const std::filesystem::path image = directory_ / (guest_name(guest) + ".image");
    std::filesystem::copy_file(image.string() + ".disk", directory_ / (guest_name(guest) + ".disk"),
                               std::filesystem::copy_options::overwrite_existing);
    guests_[guest] = std::make_unique<Vm>(directory_, image_, guest, image);
    forget_hello(guest);
  }
  // Loaded machines stand as the saved ones did.
  for (unsigned guest = 0; guest < size(); ++guest) {
    const auto end = Clock::now() + std::chrono::seconds(60);
    while (vm(guest).monitor("query-status").find("\"status\": \"paused\"") == std::string::npos) {
      if (Clock::now() >= end) return false;
      ::poll(nullptr, 0, 50);
    }
    vm(guest).monitor("cont");
  }
  return serve_until([&] { return all_said_hello(); }, std::chrono::seconds(60));
}

}  // namespace stillpoint::agent
