#include "node-daemon/domain/domain_xml.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/property_tree/ptree.hpp>
#include <boost/property_tree/xml_parser.hpp>
#include <cctype>
#include <sstream>

#include "node-daemon/domain/domain_name.h"

namespace stillpoint::node {
namespace {

using boost::property_tree::ptree;

constexpr std::size_t kMaxXml = 256 << 10;
constexpr int kMaxDiskLayers = 64;

// Kernel parameters: no waiting for hardware that a VM has not got; a panic ends the machine (on_reboot is destroy).
constexpr const char* kCommandLine = "console=ttyS0 quiet panic=-1 net.ifnames=0 no_timer_check mitigations=off";

Error bad_description(std::string cause) {
  return {ErrorKind::damaged, "read domain description", "domain XML", std::move(cause)};
}

// libvirt rounds up to whole MiB for QEMU; both sides of a comparison do.
std::uint64_t whole_mib(std::uint64_t bytes) { return (bytes + (1u << 20) - 1) >> 20 << 20; }

bool same_mac(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](unsigned char x, unsigned char y) { return std::tolower(x) == std::tolower(y); });
}

bool plain_word(std::string_view text) {
  return !text.empty() && text.size() <= 64 && std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.' ||
           c == '_';
  });
}

std::uint64_t unit_bytes(const std::string& unit) {
  if (unit == "b" || unit == "bytes") return 1;
  if (unit == "KiB" || unit == "k") return 1u << 10;
  if (unit == "MiB" || unit == "M") return 1u << 20;
  if (unit == "GiB" || unit == "G") return 1u << 30;
  return 0;
}

std::string disk_xml(std::string_view format, std::string_view attributes, std::string_view file,
                     std::string_view target, int slot, std::string_view more) {
  return fmt::format(R"(
    <disk type='file' device='disk'>
      <driver name='qemu' type='{}'{}/>
      <source file='{}'/>
      <target dev='{}' bus='virtio'/>{}
      <address type='pci' domain='0x0000' bus='0x00' slot='0x{:02x}' function='0x0'/>
    </disk>)",
                     format, attributes, xml_escape(file), target, more, slot);
}

// PCI slots are written out: a restored machine must have each device where the captured one had it. The disk's
// contents need not survive a power loss of the host (the machine's memory does not either), so flushes stop at the
// page cache, from which captures are read.
std::string devices_xml(const DomainSpec& spec, const DomainFiles& files, bool base_is_qcow2) {
  const std::string base = disk_xml(base_is_qcow2 ? "qcow2" : "raw", "", spec.base_image, "vda", 3,
                                    "\n      <readonly/>\n      <serial>base</serial>");
  // A host's full or failing disk stops the machine, which can go on later; its program would have died of the error.
  const std::string disk = disk_xml("qcow2", " cache='unsafe' discard='unmap' error_policy='stop'", spec.disk.string(),
                                    "vdb", 4, "\n      <serial>disk</serial>");
  // The tap is driven by QEMU itself, not vhost: all writes to guest memory come from one process.
  return fmt::format(R"(
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <controller type='virtio-serial' index='0'>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x02' function='0x0'/>
    </controller>{}{}
    <interface type='bridge'>
      <mac address='{}'/>
      <source bridge='{}'/>
      <model type='virtio'/>
      <driver name='qemu'/>
      <rom enabled='no'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x05' function='0x0'/>
    </interface>
    <serial type='file'>
      <source path='{}' append='off'/>
      <target port='0'/>
    </serial>
    <channel type='unix'>
      <source mode='bind' path='{}'/>
      <target type='virtio' name='stillpoint.0'/>
      <address type='virtio-serial' controller='0' bus='0' port='1'/>
    </channel>
    <rng model='virtio'>
      <backend model='builtin'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x06' function='0x0'/>
    </rng>
    <memballoon model='none'/>
  </devices>)",
                     base, disk, xml_escape(spec.mac), xml_escape(spec.bridge), xml_escape(files.console_log),
                     xml_escape(files.channel_socket));
}

const ptree* vdb_of(const ptree& domain) {
  const auto devices = domain.get_child_optional("devices");
  if (!devices) return nullptr;
  for (const auto& [tag, node] : *devices)
    if (tag == "disk" && node.get("target.<xmlattr>.dev", "") == "vdb") return &node;
  return nullptr;
}

Result<std::vector<std::filesystem::path>> chain_of(const ptree& disk) {
  std::vector<std::filesystem::path> chain;
  const ptree* layer = &disk;
  while (layer) {
    const auto file = layer->get_optional<std::string>("source.<xmlattr>.file");
    if (!file) break;  // an empty <backingStore/> ends the chain
    if (chain.size() == kMaxDiskLayers) return bad_description("more disk layers than libvirt can run");
    chain.emplace_back(*file);
    const auto next = layer->get_child_optional("backingStore");
    layer = next ? &*next : nullptr;
  }
  return chain;
}

DomainPhase phase_of(const ptree& domain) {
  const std::string text = domain.get("metadata.stillpoint:domain.<xmlattr>.phase", "running");
  for (DomainPhase phase : {DomainPhase::loading, DomainPhase::restored})
    if (text == name(phase)) return phase;
  return DomainPhase::running;
}

Result<DomainFacts> facts_of(const ptree& domain) {
  DomainFacts facts;
  facts.name = domain.get("name", "");
  facts.uuid = domain.get("uuid", "");
  facts.vcpus = domain.get<std::uint32_t>("vcpu", 0);
  facts.memory_bytes = domain.get<std::uint64_t>("memory", 0) * unit_bytes(domain.get("memory.<xmlattr>.unit", "KiB"));
  facts.hardware.layout = domain.get<unsigned>("metadata.stillpoint:domain.<xmlattr>.layout", 0);
  facts.hardware.machine = domain.get("os.type.<xmlattr>.machine", "");
  facts.hardware.cpu_model = domain.get("cpu.model", "");
  const std::string type = domain.get("<xmlattr>.type", "");
  if (type != "kvm" && type != "qemu") return bad_description("its type is neither kvm nor qemu");
  facts.hardware.accelerator = type == "kvm" ? Accelerator::kvm : Accelerator::tcg;
  if (!plain_word(facts.hardware.machine)) return bad_description("no machine type");
  if (!plain_word(facts.hardware.cpu_model)) return bad_description("no CPU model");
  facts.phase = phase_of(domain);
  const ptree none;
  for (const auto& [tag, node] : domain.get_child("devices", none)) {
    if (tag == "interface") facts.mac = node.get("mac.<xmlattr>.address", "");
    if (tag == "channel" && node.get("target.<xmlattr>.name", "") == "stillpoint.0")
      facts.channel_socket = node.get("source.<xmlattr>.path", "");
  }
  if (const ptree* disk = vdb_of(domain)) {
    auto chain = chain_of(*disk);
    if (!chain) return chain.error();
    facts.disk_chain = std::move(*chain);
  }
  return facts;
}

// Whose UUID the captured machine has to have. One from another site has that of the job that it ran as there; QEMU
// takes its state up under another one, since nothing of the guest but its SMBIOS table shows it.
DomainId captured_as(const DomainFacts& captured, const DomainSpec& spec) {
  const auto there = parse_domain_name(captured.name);
  if (spec.known_as.empty() || !there) return spec.id;
  return {there->job, spec.id.incarnation, spec.id.guest};
}

}  // namespace

std::string_view name(DomainPhase phase) {
  switch (phase) {
    case DomainPhase::loading: return "loading";
    case DomainPhase::restored: return "restored";
    case DomainPhase::running: return "running";
  }
  return "";
}

std::string xml_escape(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '\'': out += "&apos;"; break;
      case '"': out += "&quot;"; break;
      default: out += c;
    }
  }
  return out;
}

std::string metadata_xml(const DomainId& id, DomainPhase phase) {
  return fmt::format("<domain job='{}' incarnation='{}' guest='{}' layout='{}' phase='{}'/>", xml_escape(id.job.value),
                     id.incarnation.value, id.guest.value, Hardware{}.layout, name(phase));
}

std::string domain_xml(const DomainSpec& spec, const Hardware& hardware, const DomainFiles& files, DomainPhase phase,
                       bool base_is_qcow2) {
  const std::string metadata = metadata_xml(spec.id, phase);
  // "<domain …" becomes "<stillpoint:domain xmlns:…": libvirt adds the prefix itself in virDomainSetMetadata only.
  const std::string prefixed = fmt::format("<{}:domain xmlns:{}='{}'{}", kMetadataPrefix, kMetadataPrefix, kMetadataUri,
                                           metadata.substr(std::string_view("<domain").size()));
  const std::string incoming = phase == DomainPhase::loading ? R"(
  <qemu:commandline>
    <qemu:arg value='-incoming'/>
    <qemu:arg value='defer'/>
  </qemu:commandline>)"
                                                             : "";
  return fmt::format(R"(<domain type='{}' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{}</name>
  <uuid>{}</uuid>
  <metadata>{}</metadata>
  <memory unit='b'>{}</memory>
  <currentMemory unit='b'>{}</currentMemory>
  <vcpu placement='static'>{}</vcpu>
  <os>
    <type arch='x86_64' machine='{}'>hvm</type>
    <kernel>{}</kernel>
    <initrd>{}</initrd>
    <cmdline>{}</cmdline>
  </os>
  <features><acpi/><apic/></features>
  <cpu mode='custom' match='exact' check='full'><model fallback='forbid'>{}</model><feature policy='require' name='hypervisor'/></cpu>
  <clock offset='utc'/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>destroy</on_reboot>
  <on_crash>destroy</on_crash>{}{}
</domain>
)",
                     hardware.accelerator == Accelerator::kvm ? "kvm" : "qemu", xml_escape(domain_name(spec.id)),
                     domain_uuid(spec.id), prefixed, whole_mib(spec.memory_bytes), whole_mib(spec.memory_bytes),
                     spec.vcpus, xml_escape(hardware.machine), xml_escape(spec.kernel), xml_escape(spec.initramfs),
                     kCommandLine, xml_escape(hardware.cpu_model), devices_xml(spec, files, base_is_qcow2), incoming);
}

Result<DomainFacts> parse_domain_xml(const std::string& xml) {
  if (xml.size() > kMaxXml) return bad_description("larger than any domain's");
  try {
    ptree tree;
    std::istringstream in(xml);
    boost::property_tree::read_xml(in, tree, boost::property_tree::xml_parser::trim_whitespace);
    const auto domain = tree.get_child_optional("domain");
    if (!domain) return bad_description("no <domain>");
    return facts_of(*domain);
  } catch (const std::exception& e) {  // the parser's, and conversions of numbers
    return bad_description(e.what());
  }
}

Status check_same_machine(const DomainFacts& captured, const DomainSpec& spec, Accelerator host) {
  auto differs = [&](std::string what) {
    return Error{ErrorKind::refused, "restore", to_string(spec.id), "the image is of another machine: " + what};
  };
  if (captured.hardware.layout != Hardware{}.layout)
    return differs(
        fmt::format("its device layout is {}, this version makes {}", captured.hardware.layout, Hardware{}.layout));
  if (captured.uuid != domain_uuid(captured_as(captured, spec))) return differs("UUID " + captured.uuid);
  if (!same_mac(captured.mac, spec.mac)) return differs("MAC address " + captured.mac + ", not " + spec.mac);
  if (captured.vcpus != spec.vcpus) return differs(fmt::format("{} virtual CPUs, not {}", captured.vcpus, spec.vcpus));
  if (captured.memory_bytes != whole_mib(spec.memory_bytes))
    return differs(fmt::format("{} bytes of memory, not {}", captured.memory_bytes, spec.memory_bytes));
  if (captured.hardware.accelerator == Accelerator::kvm && host != Accelerator::kvm)
    return Error{ErrorKind::refused, "restore", to_string(spec.id),
                 "it was captured under KVM, which this host has not got; choose a host with KVM"};
  return {};
}

std::string disk_snapshot_xml(const std::filesystem::path& new_layer) {
  return fmt::format(R"(<domainsnapshot>
  <disks>
    <disk name='vda' snapshot='no'/>
    <disk name='vdb' snapshot='external' type='file'>
      <driver type='qcow2'/>
      <source file='{}'/>
    </disk>
  </disks>
</domainsnapshot>
)",
                     xml_escape(new_layer.string()));
}

}  // namespace stillpoint::node
