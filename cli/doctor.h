// What `stillpoint doctor` looks at: whether this machine can run guests, how well, and what to do where it cannot.
// Looks only: changes nothing that outlives a check. Blocking; one thread.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace stillpoint::cli {

struct Finding {
  enum class Result { ok, warn, fail };  // warn: works, but worse than it could; fail: jobs cannot run
  std::string check;
  Result result = Result::ok;
  std::string detail;
  std::string remedy;  // empty where nothing needs one
};
std::string_view name(Finding::Result result);

// The rule by which a host chooses: the CPU's own flag counts, /dev/kvm alone proves nothing.
// kvm_fault: why KVM makes no virtual machine when asked for one; empty when it does.
Finding judge_accelerator(bool cpu_virtualises, bool kvm_device, const std::string& kvm_fault);

// `program --version` or libvirt's number as major * 1'000'000 + minor * 1'000 + micro; 0 when there is none in text.
unsigned long version_in(std::string_view text);
Finding judge_qemu(unsigned long version);
Finding judge_libvirt(unsigned long version, bool qemu_driver);

// fault: why QEMU could not write-protect memory; empty when it could.
Finding judge_userfaultfd(const std::string& fault);

Finding judge_room(std::uint64_t free_bytes, const std::filesystem::path& where);
Finding judge_memory(std::uint64_t available_bytes);
Finding check_guest_image(const std::filesystem::path& directory);

struct DoctorPlaces {
  std::filesystem::path guest_image;
  std::filesystem::path state;
};
std::vector<Finding> diagnose(const DoctorPlaces& places);

}  // namespace stillpoint::cli
