#include "mpi-hooks/agent/vm_gang.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

namespace stillpoint::agent {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

std::string address(unsigned guest) { return "10.99.0." + std::to_string(guest + 1); }
std::string mac(unsigned guest) { return "52:54:00:99:00:0" + std::to_string(guest + 1); }
std::string guest_name(unsigned guest) { return "guest-" + std::to_string(guest); }

std::uint64_t wall_clock_ns() {
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch())
          .count());
}

Fd connect_to(const std::filesystem::path& path) {
  sockaddr_un to{};
  to.sun_family = AF_UNIX;
  path.string().copy(to.sun_path, sizeof to.sun_path - 1);
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  return ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0 ? std::move(fd) : Fd();
}

std::vector<std::string> qemu_command(const std::filesystem::path& dir, const std::filesystem::path& image,
                                      unsigned guest) {
  const std::string own = dir.string() + "/" + guest_name(guest);
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
          "virtio-net-pci,netdev=net,mac=" + mac(guest),
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
    : socket_(directory / (guest_name(guest) + ".agent")),
      console_(directory / (guest_name(guest) + ".console")),
      monitor_(directory / (guest_name(guest) + ".monitor")),
      disk_(directory / (guest_name(guest) + ".disk")) {
  if (incoming.empty()) {
    std::ofstream{disk_};
    std::filesystem::resize_file(disk_, 1u << 30);
  }
  // It ends with the test, whatever ends that.
  std::vector<std::string> command = qemu_command(directory, image, guest);
  command.insert(command.begin(), {"timeout", "600"});
  if (!incoming.empty()) command.insert(command.end(), {"-incoming", "file:" + incoming.string()});
  std::vector<char*> argv;
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  pid_ = ::fork();
  if (pid_ != 0) return;
  ::execvp(argv[0], argv.data());
  ::_exit(127);
}

Vm::~Vm() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGTERM);
  ::waitpid(pid_, nullptr, 0);
}

void Vm::connect() { link_ = connect_to(socket_); }

std::string Vm::monitor(const std::string& command, const std::string& arguments) {
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

bool Vm::save(const std::filesystem::path& path) {
  monitor("migrate", "{\"uri\":\"file:" + path.string() + "\"}");
  const auto end = Clock::now() + std::chrono::seconds(60);
  while (monitor("query-migrate").find("\"status\": \"completed\"") == std::string::npos) {
    if (Clock::now() >= end) return false;
    ::poll(nullptr, 0, 50);
  }
  return std::filesystem::copy_file(disk_, path.string() + ".disk", std::filesystem::copy_options::overwrite_existing);
}

void Vm::reconnect() {
  link_.reset();
  reader_ = FrameReader();
  connect();
}

bool Vm::send(const wire::GuestRequest& request) {
  if (!link_) connect();
  const std::string frame = encode_frame(request.SerializeAsString());
  for (std::size_t done = 0; link_ && done < frame.size();) {
    const ssize_t n = ::send(link_.get(), frame.data() + done, frame.size() - done, MSG_NOSIGNAL);
    if (n <= 0) return false;
    done += static_cast<std::size_t>(n);
  }
  return static_cast<bool>(link_);
}

std::optional<wire::FromGuest> Vm::receive(milliseconds wait) {
  if (!link_) connect();
  for (;;) {
    if (auto payload = reader_.next()) {
      wire::FromGuest message;
      if (message.ParseFromString(*payload)) return message;
      continue;
    }
    pollfd poll{link_.get(), POLLIN, 0};
    if (::poll(&poll, 1, static_cast<int>(wait.count())) <= 0) return std::nullopt;
    char bytes[65536];
    const ssize_t n = ::read(link_.get(), bytes, sizeof bytes);
    if (n <= 0) return std::nullopt;
    reader_.feed({bytes, static_cast<std::size_t>(n)});
  }
}

bool Vm::alive() const { return pid_ > 0 && ::waitpid(pid_, nullptr, WNOHANG) == 0; }

std::string Vm::console() const {
  std::ifstream file(console_);
  return {std::istreambuf_iterator<char>(file), {}};
}

VmGang::VmGang(const std::filesystem::path& image) : image_(image), hellos_(2) {
  std::string name = (std::filesystem::temp_directory_path() / "stillpoint-vm-XXXXXX").string();
  directory_ = ::mkdtemp(name.data());
}

VmGang::~VmGang() {
  vms_.clear();
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

bool VmGang::boot(std::chrono::seconds deadline) {
  for (unsigned guest = 0; guest < 2; ++guest) vms_.push_back(std::make_unique<Vm>(directory_, image_, guest));
  return serve_until([&] { return hellos_[0] && hellos_[1]; }, deadline);
}

bool VmGang::configure(const std::string& workdir) {
  const auto replies = ask_all(
      [&](unsigned guest) {
        wire::GuestRequest request;
        wire::ConfigureGuest& configure = *request.mutable_configure();
        configure.set_guest(guest);
        configure.set_prefix_length(16);
        configure.set_workdir(workdir);
        configure.set_mtu(1450);
        configure.set_wall_clock_ns(wall_clock_ns());
        for (unsigned other = 0; other < vms_.size(); ++other) {
          wire::Neighbour& n = *configure.add_gang();
          n.set_guest(other);
          n.set_name(guest_name(other));
          n.set_ip(address(other));
          n.set_mac(mac(other));
        }
        return request;
      },
      milliseconds(10'000));
  return replies.has_value();
}

bool VmGang::save() {
  bool saved = true;
  // All stand before the first is saved: a guest's hold does not run while its machine stands.
  for (auto& vm : vms_) vm->monitor("stop");
  for (unsigned guest = 0; guest < vms_.size(); ++guest)
    saved = vms_[guest]->save(directory_ / (guest_name(guest) + ".image")) && saved;
  for (auto& vm : vms_) vm->monitor("cont");
  return saved;
}

bool VmGang::restore() {
  const std::size_t count = vms_.size();
  vms_.clear();
  for (unsigned guest = 0; guest < count; ++guest) {
    const std::filesystem::path image = directory_ / (guest_name(guest) + ".image");
    std::filesystem::copy_file(image.string() + ".disk", directory_ / (guest_name(guest) + ".disk"),
                               std::filesystem::copy_options::overwrite_existing);
    vms_.push_back(std::make_unique<Vm>(directory_, image_, guest, image));
    hellos_[guest].reset();
  }
  // Loaded machines stand as the saved ones did.
  for (auto& vm : vms_) {
    const auto end = Clock::now() + std::chrono::seconds(60);
    while (vm->monitor("query-status").find("\"status\": \"paused\"") == std::string::npos) {
      if (Clock::now() >= end) return false;
      ::poll(nullptr, 0, 50);
    }
    vm->monitor("cont");
  }
  return serve_until([&] { return hellos_[0] && hellos_[1]; }, std::chrono::seconds(60));
}

std::uint64_t VmGang::send(unsigned guest, wire::GuestRequest request) {
  request.set_id(next_id_);
  request.mutable_gang()->set_job("j1");
  if (request.gang().incarnation() == 0) request.mutable_gang()->set_incarnation(incarnation);
  if (request.epoch() == 0) request.set_epoch(epoch);
  vms_[guest]->send(request);
  return next_id_++;
}

std::optional<wire::GuestReply> VmGang::ask(unsigned guest, wire::GuestRequest request, milliseconds deadline) {
  const std::uint64_t id = send(guest, std::move(request));
  if (!serve_until([&] { return replies_.contains(id); }, deadline)) return std::nullopt;
  return std::move(replies_.extract(id).mapped());
}

std::optional<std::vector<wire::GuestReply>> VmGang::ask_all(const std::function<wire::GuestRequest(unsigned)>& request,
                                                             milliseconds deadline) {
  std::vector<std::uint64_t> ids;
  for (unsigned guest = 0; guest < vms_.size(); ++guest) ids.push_back(send(guest, request(guest)));
  const auto all_there = [&] {
    for (std::uint64_t id : ids)
      if (!replies_.contains(id)) return false;
    return true;
  };
  if (!serve_until(all_there, deadline)) return std::nullopt;
  std::vector<wire::GuestReply> replies;
  for (std::uint64_t id : ids) replies.push_back(std::move(replies_.extract(id).mapped()));
  return replies;
}

bool VmGang::serve_until(const std::function<bool()>& condition, milliseconds deadline) {
  const auto end = Clock::now() + deadline;
  while (!condition()) {
    if (Clock::now() >= end) return false;
    serve(milliseconds(20));
  }
  return true;
}

void VmGang::serve(milliseconds wait) {
  for (unsigned guest = 0; guest < vms_.size(); ++guest)
    for (auto message = vms_[guest]->receive(wait); message; message = vms_[guest]->receive(milliseconds(0)))
      take(guest, std::move(*message));
}

void VmGang::take(unsigned guest, wire::FromGuest message) {
  switch (message.body_case()) {
    case wire::FromGuest::kHello: hellos_[guest] = message.hello(); return;
    case wire::FromGuest::kExited: exited_ = message.exited(); return;
    case wire::FromGuest::kOutput: {
      const wire::Output& piece = message.output();
      if (piece.offset() <= output_.size() && piece.offset() + piece.data().size() > output_.size())
        output_.append(piece.data().substr(output_.size() - piece.offset()));
      wire::GuestRequest ack;
      ack.mutable_output_ack()->set_offset(output_.size());
      send(guest, std::move(ack));
      return;
    }
    case wire::FromGuest::kLaunch: {
      ++launches_;
      wire::GuestRequest start;
      start.mutable_start_daemon()->set_launch(message.launch().launch());
      *start.mutable_start_daemon()->mutable_argv() = message.launch().argv();
      const unsigned target = message.launch().target() == guest_name(1) ? 1 : 0;
      relayed_[send(target, std::move(start))] = message.launch().launch();
      return;
    }
    case wire::FromGuest::kReply: {
      const auto relay = relayed_.find(message.reply().id());
      if (relay == relayed_.end()) {
        replies_[message.reply().id()] = std::move(*message.mutable_reply());
        return;
      }
      wire::GuestRequest outcome;
      outcome.mutable_launch_outcome()->set_launch(relay->second);
      if (message.reply().has_failure())
        *outcome.mutable_launch_outcome()->mutable_failure() = message.reply().failure();
      relayed_.erase(relay);
      send(0, std::move(outcome));
      return;
    }
    case wire::FromGuest::kRankFailed:
    case wire::FromGuest::BODY_NOT_SET: return;
  }
}

bool VmGang::put_file(unsigned guest, const std::string& name, const std::string& content, unsigned mode) {
  constexpr std::size_t kPiece = 256u << 10;
  for (std::size_t offset = 0;; offset += kPiece) {
    wire::GuestRequest request;
    wire::PutFile& piece = *request.mutable_put_file();
    piece.set_path(name);
    piece.set_mode(mode);
    piece.set_offset(offset);
    piece.set_data(content.substr(offset, kPiece));
    piece.set_last(offset + kPiece >= content.size());
    const bool last = piece.last();
    const auto reply = ask(guest, std::move(request), milliseconds(10'000));
    if (!reply || reply->has_failure()) return false;
    if (last) return true;
  }
}

std::string VmGang::problem() const {
  std::ostringstream text;
  for (const auto& vm : vms_)
    text << "machine: " << vm->monitor("query-status") << "\nconsole: " << vm->console() << "\n";
  text << "output: " << output_ << "\n";
  return text.str();
}

}  // namespace stillpoint::agent
