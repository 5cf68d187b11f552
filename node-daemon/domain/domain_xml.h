// A domain's description in libvirt's XML, made and read. The XML that comes with an image was written on another
// host: only hardware facts are taken from it, each checked; paths and programs never. Any thread; no libvirt.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "node-daemon/domain/domain_driver.h"

namespace stillpoint::node {

// Where a domain stands in its life, kept in its metadata so that a daemon that comes back can tell a machine that
// waits for resume() from one that a capture left paused, and from one that was being loaded.
enum class DomainPhase { loading, restored, running };
std::string_view name(DomainPhase phase);

// Everything that a guest can see of its machine and that is not in DomainSpec: must be the same after a restore.
struct Hardware {
  unsigned layout = 1;                     // of devices and PCI slots, as domain_xml() writes them
  std::string machine = "pc-i440fx-10.0";  // versioned: a newer QEMU keeps the old layout
  std::string cpu_model = "Nehalem";
  Accelerator accelerator = Accelerator::tcg;
};

// Files that belong to one domain on this host.
struct DomainFiles {
  std::string channel_socket;
  std::string console_log;
};

std::string domain_xml(const DomainSpec& spec, const Hardware& hardware, const DomainFiles& files, DomainPhase phase,
                       bool base_is_qcow2);
// The metadata element alone, for virDomainSetMetadata.
std::string metadata_xml(const DomainId& id, DomainPhase phase);
inline constexpr const char* kMetadataPrefix = "stillpoint";
inline constexpr const char* kMetadataUri = "urn:stillpoint:domain:1";

// What a description says.
struct DomainFacts {
  std::string name, uuid, mac;
  std::uint32_t vcpus = 0;
  std::uint64_t memory_bytes = 0;
  Hardware hardware;
  DomainPhase phase = DomainPhase::running;
  std::string channel_socket;
  std::vector<std::filesystem::path> disk_chain;  // active first
};
Result<DomainFacts> parse_domain_xml(const std::string& xml);

// Whether a machine as spec says, on this host, is the one that was captured. An Error of kind refused names what
// differs.
Status check_same_machine(const DomainFacts& captured, const DomainSpec& spec, Accelerator host);

// The XML of a disk-only snapshot: vdb goes on in the file new_layer, vda is left alone.
std::string disk_snapshot_xml(const std::filesystem::path& new_layer);

std::string xml_escape(std::string_view text);

}  // namespace stillpoint::node
