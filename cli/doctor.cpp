#include "cli/doctor.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <glob.h>
#include <linux/kvm.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cli/command.h"
#include "cli/commands.h"
#include "cli/text.h"
#include "common/fd.h"
#include "common/process.h"

namespace stillpoint::cli {
namespace {

using Result = Finding::Result;

constexpr const char* kInstall = "run scripts/install-deps";

std::string dotted(unsigned long version) {
  return fmt::format("{}.{}.{}", version / 1'000'000, version / 1'000 % 1'000, version % 1'000);
}

bool cpu_virtualises() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with("flags")) continue;
    std::istringstream words(line);
    for (std::string word; words >> word;) {
      if (word == "vmx" || word == "svm") return true;
    }
    return false;  // all CPUs say the same
  }
  return false;
}

// Whether KVM makes a virtual machine; an empty one, which ends with its descriptor.
std::string kvm_fault() {
  const Fd device(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
  if (!device) return errno_error("", "", errno).cause;
  const int version = ::ioctl(device.get(), KVM_GET_API_VERSION, 0);
  if (version != KVM_API_VERSION) return fmt::format("its API has version {}, not {}", version, KVM_API_VERSION);
  const Fd machine(::ioctl(device.get(), KVM_CREATE_VM, 0));
  if (!machine) return "no virtual machine can be made: " + errno_error("", "", errno).cause;
  return "";
}

Finding check_privileges() {
  if (::geteuid() == 0) return {"privileges", Result::ok, "running as root", ""};
  return {"privileges", Result::fail,
          "not running as root: no virtual machines, network namespaces or bridges can be made", "run as root"};
}

Finding check_qemu() {
  const auto said = run_process({"qemu-system-x86_64", "--version"}, {.deadline = std::chrono::seconds(10)});
  return judge_qemu(said && said->exit_code == 0 ? version_in(said->out) : 0);
}

Finding check_qemu_img() {
  const auto said = run_process({"qemu-img", "--version"}, {.deadline = std::chrono::seconds(10)});
  if (said && said->exit_code == 0) return {"qemu-img", Result::ok, "installed", ""};
  return {"qemu-img", Result::fail, "not installed: guests' disks cannot be made", kInstall};
}

// The library is asked, not linked: doctor must work where libvirt is missing.
Finding check_libvirt() {
  unsigned long version = 0;
  if (void* library = ::dlopen("libvirt.so.0", RTLD_NOW | RTLD_LOCAL)) {
    using GetVersion = int (*)(unsigned long*, const char*, unsigned long*);
    if (void* symbol = ::dlsym(library, "virGetVersion")) {
      if (reinterpret_cast<GetVersion>(symbol)(&version, nullptr, nullptr) != 0) version = 0;
    }
    // Not closed: libvirt does not support being unloaded.
  }
  glob_t found{};
  const bool driver = ::glob("/usr/lib/*/libvirt/connection-driver/libvirt_driver_qemu.so", 0, nullptr, &found) == 0;
  ::globfree(&found);
  return judge_libvirt(version, driver);
}

// Whether QEMU, with our rights, could write-protect memory and see writes from inside the kernel.
std::string userfaultfd_fault() {
  Fd fd;
  if (const Fd device(::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC)); device) {
    fd.reset(::ioctl(device.get(), USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK));
  }
  if (!fd) fd.reset(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
  if (!fd) return errno_error("userfaultfd", "", errno).cause;
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = UFFD_FEATURE_PAGEFAULT_FLAG_WP;
  if (::ioctl(fd.get(), UFFDIO_API, &api) != 0) return "the kernel has no write protection by userfaultfd";
  return "";
}

Finding check_tun() {
  if (const Fd fd(::open("/dev/net/tun", O_RDWR | O_CLOEXEC)); fd)
    return {"tun", Result::ok, "/dev/net/tun can be opened", ""};
  return {"tun", Result::fail,
          fmt::format("/dev/net/tun: {}: guests cannot have a network", errno_error("", "", errno).cause),
          "modprobe tun; in a container, pass the device in (--device /dev/net/tun)"};
}

Finding check_network() {
  // In a network namespace of its own, which ends with the shell.
  constexpr const char* kTry =
      "ip link add doctor0 type bridge && ip link add doctor1 type veth peer name doctor2 && "
      "ip link add doctor3 type vxlan id 7 dstport 4789 local 127.0.0.1";
  const auto tried = run_process({"unshare", "--net", "sh", "-c", kTry}, {.deadline = std::chrono::seconds(10)});
  if (tried && tried->exit_code == 0)
    return {"network", Result::ok, "network namespaces, bridges and VXLAN can be made", ""};
  std::string why = tried ? tried->err : tried.error().message();
  while (!why.empty() && why.back() == '\n') why.pop_back();
  return {
      "network", Result::fail, "no network namespace with bridge, veth and VXLAN can be made: " + why,
      "install iproute2; run as root with CAP_SYS_ADMIN and CAP_NET_ADMIN, on a kernel with bridge, veth and vxlan"};
}

Finding check_room(std::filesystem::path where) {
  struct statvfs figures {};
  while (::statvfs(where.c_str(), &figures) != 0) {
    if (where == where.parent_path()) return {"disk", Result::fail, "no file system at " + where.string(), "mount one"};
    where = where.parent_path();
  }
  return judge_room(static_cast<std::uint64_t>(figures.f_bavail) * figures.f_frsize, where);
}

Finding check_memory() {
  std::ifstream in("/proc/meminfo");
  std::string key, unit;
  for (std::uint64_t kilobytes = 0; in >> key >> kilobytes; std::getline(in, unit)) {
    if (key == "MemAvailable:") return judge_memory(kilobytes << 10);
  }
  return {"memory", Result::warn, "/proc/meminfo does not say how much is available", ""};
}

int doctor(CommandContext& context, const DoctorPlaces& places) {
  const auto findings = diagnose(places);
  bool failed = false;
  auto listed = nlohmann::json::array();
  std::vector<std::vector<std::string>> rows;
  for (const auto& finding : findings) {
    failed |= finding.result == Result::fail;
    listed.push_back({{"check", finding.check},
                      {"result", std::string(name(finding.result))},
                      {"detail", finding.detail},
                      {"remedy", finding.remedy}});
    rows.push_back({finding.check, std::string(name(finding.result)), plain(finding.detail)});
    if (!finding.remedy.empty()) rows.push_back({"", "", "-> " + finding.remedy});
  }
  if (context.json) print_json(context, {{"findings", listed}});
  else context.out << table({"CHECK", "RESULT", "DETAIL"}, rows) << std::flush;
  if (failed) note(context, "this machine cannot run jobs yet: see what failed, and its remedy");
  return failed ? kFailed : kDone;
}

// Beside the programs of a build: bin/stillpoint and guest/.
std::filesystem::path default_guest_image() {
  std::error_code code;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", code);
  return program.parent_path().parent_path() / "guest";
}

}  // namespace

std::string_view name(Finding::Result result) {
  switch (result) {
    case Result::ok: return "ok";
    case Result::warn: return "warn";
    case Result::fail: return "fail";
  }
  return "unknown";
}

Finding judge_accelerator(bool cpu_virtualises, bool kvm_device, const std::string& kvm_fault) {
  constexpr const char* kSlow = "TCG (emulation, ten times slower or more): ";
  if (cpu_virtualises && kvm_device && kvm_fault.empty())
    return {"accelerator", Result::ok, "KVM: the CPU virtualises and /dev/kvm makes virtual machines", ""};
  if (cpu_virtualises && kvm_device)
    return {
        "accelerator", Result::fail,
        fmt::format("/dev/kvm is there and does not work: {}; a node daemon would choose it all the same", kvm_fault),
        "let root use the device, and in a container pass it in whole (--device /dev/kvm); or start the node daemon "
        "with STILLPOINT_ACCELERATOR=tcg"};
  if (cpu_virtualises) {
    return {"accelerator", Result::warn, fmt::format("{}the CPU virtualises, but /dev/kvm is missing", kSlow),
            "modprobe kvm_intel or kvm_amd; in a container, pass the device in (--device /dev/kvm)"};
  }
  return {"accelerator", Result::warn,
          fmt::format("{}the CPU's flags have neither vmx nor svm{}", kSlow,
                      kvm_device ? "; /dev/kvm is there, but guests would hang under it" : ""),
          "switch virtualisation on in the firmware or, in a virtual machine, nested virtualisation in its host"};
}

unsigned long version_in(std::string_view text) {
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  for (std::size_t at = 0; at < text.size(); ++at) {
    if (!digit(text[at]) || (at > 0 && text[at - 1] != ' ')) continue;
    unsigned long parts[3] = {0, 0, 0};
    for (auto& part : parts) {
      for (; at < text.size() && digit(text[at]) && part < 1000; ++at)
        part = part * 10 + static_cast<unsigned long>(text[at] - '0');
      if (at >= text.size() || text[at] != '.') break;
      ++at;
    }
    return parts[0] * 1'000'000 + parts[1] * 1'000 + parts[2];
  }
  return 0;
}

Finding judge_qemu(unsigned long version) {
  if (version == 0) return {"qemu", Result::fail, "qemu-system-x86_64 is not installed", kInstall};
  if (version < 6'000'000)
    return {"qemu", Result::fail, dotted(version) + " is too old",
            fmt::format("{}: on Debian 12 it takes QEMU from backports", kInstall)};
  if (version < 10'000'000) {
    return {"qemu", Result::warn, dotted(version) + " is older than 10.0, the oldest version that this was tried with",
            fmt::format("{}: on Debian 12 it takes QEMU from backports", kInstall)};
  }
  return {"qemu", Result::ok, dotted(version), ""};
}

Finding judge_libvirt(unsigned long version, bool qemu_driver) {
  if (version == 0) return {"libvirt", Result::fail, "not installed", kInstall};
  if (!qemu_driver)
    return {"libvirt", Result::fail, dotted(version) + ", but its QEMU driver is not installed", kInstall};
  // virDomainQemuMonitorCommandWithFiles came with 8.2.0.
  if (version < 8'002'000)
    return {"libvirt", Result::fail, dotted(version) + " is too old",
            fmt::format("{}: on Debian 12 it takes libvirt from backports", kInstall)};
  if (version < 11'003'000) {
    return {"libvirt", Result::warn,
            dotted(version) + " is older than 11.3, the oldest version that this was tried with",
            fmt::format("{}: on Debian 12 it takes libvirt from backports", kInstall)};
  }
  return {"libvirt", Result::ok, dotted(version) + ", with its QEMU driver", ""};
}

Finding judge_userfaultfd(const std::string& fault) {
  constexpr const char* kFirst = "memory is copied while the guest runs first (pre-copy); ";
  if (fault.empty())
    return {"userfaultfd", Result::ok,
            fmt::format("{}a guest that this does not suit runs on, too: background snapshots work", kFirst), ""};
  return {"userfaultfd", Result::warn,
          fmt::format("{}: {}a guest that this does not suit is paused for as long as its memory is written", fault,
                      kFirst),
          "use a kernel with CONFIG_USERFAULTFD; let QEMU's user open /dev/userfaultfd, or set sysctl "
          "vm.unprivileged_userfaultfd=1"};
}

Finding judge_room(std::uint64_t free_bytes, const std::filesystem::path& where) {
  const auto detail = fmt::format("{} free at {}", human_bytes(static_cast<double>(free_bytes)), where.string());
  constexpr const char* kMore = "make room, or put state and images on a larger file system";
  if (free_bytes < 1ull << 30)
    return {"disk", Result::fail, detail + ": not enough for one guest and its images", kMore};
  if (free_bytes < 8ull << 30) return {"disk", Result::warn, detail + ": enough for few checkpoints", kMore};
  return {"disk", Result::ok, detail, ""};
}

Finding judge_memory(std::uint64_t available_bytes) {
  const auto detail = human_bytes(static_cast<double>(available_bytes)) + " available";
  if (available_bytes < 512ull << 20)
    return {"memory", Result::fail, detail + ": not enough for one guest", "end other programs, or add memory"};
  if (available_bytes < 2ull << 30)
    return {"memory", Result::warn, detail + ": enough for one or two small guests",
            "end other programs, or add memory"};
  return {"memory", Result::ok, detail, ""};
}

Finding check_guest_image(const std::filesystem::path& directory) {
  std::string missing;
  for (const char* file : {"vmlinuz", "initrd.img", "base.squashfs"}) {
    if (::access((directory / file).c_str(), R_OK) != 0)
      missing += fmt::format("{}{}", missing.empty() ? "" : ", ", file);
  }
  if (missing.empty()) return {"guest-image", Result::ok, "complete at " + directory.string(), ""};
  return {"guest-image", Result::fail, fmt::format("{} missing at {}", missing, directory.string()),
          "run scripts/guest-image"};
}

std::vector<Finding> diagnose(const DoctorPlaces& places) {
  return {check_privileges(),
          judge_accelerator(cpu_virtualises(), ::access("/dev/kvm", F_OK) == 0, kvm_fault()),
          check_qemu(),
          check_qemu_img(),
          check_libvirt(),
          judge_userfaultfd(userfaultfd_fault()),
          check_tun(),
          check_network(),
          check_room(places.state),
          check_memory(),
          check_guest_image(places.guest_image)};
}

void add_doctor_command(CLI::App& app, CommandContext& context) {
  auto places = std::make_shared<DoctorPlaces>(DoctorPlaces{default_guest_image(), "/var/lib/stillpoint"});
  auto* command =
      app.add_subcommand("doctor", "Check whether this machine can run jobs, with a remedy for each finding");
  command->add_option("--guest-image", places->guest_image, "Directory of the guest image")->capture_default_str();
  command->add_option("--state", places->state, "Where hosts keep their state and images")->capture_default_str();
  command->callback([&context, places] { context.action = [&context, places] { return doctor(context, *places); }; });
}

}  // namespace stillpoint::cli
