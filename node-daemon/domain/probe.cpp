#include "node-daemon/domain/probe.h"

#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "node-daemon/domain/domain_xml.h"
#include "node-daemon/domain/migration.h"

namespace stillpoint::node {

CpuFacts read_cpu_facts(const std::filesystem::path& cpuinfo, const std::filesystem::path& kvm) {
  CpuFacts facts;
  std::error_code code;
  facts.kvm_device = std::filesystem::exists(kvm, code);
  std::ifstream in(cpuinfo);
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with("flags")) continue;
    std::istringstream words(line);
    for (std::string word; words >> word;) facts.virtualises |= word == "vmx" || word == "svm";
    break;
  }
  return facts;
}

Choice<Accelerator> choose_accelerator(const CpuFacts& facts, std::optional<Accelerator> forced) {
  if (forced == Accelerator::kvm) return {Accelerator::kvm, "asked for by a setting"};
  if (forced == Accelerator::tcg) return {Accelerator::tcg, "asked for by a setting"};
  if (facts.kvm_device && facts.virtualises) return {Accelerator::kvm, "the CPU virtualises and /dev/kvm is there"};
  if (facts.kvm_device)
    return {Accelerator::tcg, "/dev/kvm is there, but the CPU's flags have neither vmx nor svm: KVM would hang"};
  if (facts.virtualises)
    return {Accelerator::tcg, "the CPU virtualises, but /dev/kvm is missing: load kvm_intel or kvm_amd"};
  return {Accelerator::tcg, "the CPU's flags have neither vmx nor svm, and /dev/kvm is missing"};
}

Choice<CaptureMode> choose_capture_mode(const Status& usable, std::optional<CaptureMode> forced) {
  if (forced) return {*forced, "asked for by a setting: memory is not copied while the guest runs first"};
  const std::string first =
      "memory is copied while the guest runs first (pre-copy); for guests that this does not suit: ";
  if (usable.has_value())
    return {CaptureMode::background_snapshot,
            first + "a background snapshot, since QEMU can write-protect memory (userfaultfd)"};
  return {CaptureMode::paused_save,
          first + "a pause for as long as the memory is written, since a background snapshot is not possible: " +
              usable.error().cause};
}

QemuFacts ask_qemu(virConnectPtr connection, Accelerator accelerator) {
  QemuFacts facts;
  if (const DomainHandle left(virDomainLookupByName(connection, kProbeDomain)); left) virDomainDestroy(left.get());
  const std::string xml =
      fmt::format(R"(<domain type='{}'>
  <name>{}</name>
  <memory unit='MiB'>16</memory>
  <os><type arch='x86_64' machine='{}'>hvm</type></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
</domain>
)",
                  accelerator == Accelerator::kvm ? "kvm" : "qemu", kProbeDomain, Hardware{}.machine);
  const DomainHandle domain(virDomainCreateXML(connection, xml.c_str(), VIR_DOMAIN_START_PAUSED));
  if (!domain) {
    facts.background_snapshot = libvirt_error("probe", "test machine");
    return facts;
  }
  facts.background_snapshot = set_background_snapshot(domain.get(), true);
  if (auto version = monitor_command(domain.get(), {{"execute", "query-version"}})) {
    const auto number = version->value("qemu", nlohmann::json::object());
    facts.version =
        fmt::format("{}.{}.{}", number.value("major", 0), number.value("minor", 0), number.value("micro", 0));
  }
  virDomainDestroy(domain.get());
  return facts;
}

}  // namespace stillpoint::node
