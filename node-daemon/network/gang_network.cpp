#include "node-daemon/network/gang_network.h"

#include <charconv>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "common/process.h"

namespace stillpoint::node {
namespace {

constexpr std::uint32_t kVxlanOverhead = 50;  // outer IPv4, UDP and VXLAN headers, inner Ethernet header
constexpr int kVxlanPort = 4789;
const std::string kAllOthers = "00:00:00:00:00:00";

struct Device {
  std::string name;
  std::uint32_t mtu = 0;
};

Result<nlohmann::json> ip_json(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {"ip", "-json"});
  auto out = run_checked(arguments);
  if (!out) return out.error();
  auto parsed = nlohmann::json::parse(out->empty() ? "[]" : *out, nullptr, false);
  if (parsed.is_discarded())
    return Error{ErrorKind::permanent, "read the answer of", "ip " + arguments[2], "it is not JSON"};
  return parsed;
}

// The device that carries the address.
Result<Device> underlay_device(const std::string& address) {
  auto list = ip_json({"address", "show"});
  if (!list) return list.error();
  for (const auto& link : *list)
    for (const auto& entry : link.value("addr_info", nlohmann::json::array()))
      if (entry.value("local", "") == address) return Device{link.value("ifname", ""), link.value("mtu", 0u)};
  return Error{ErrorKind::not_found, "find the underlay device", address, "no interface of this host has that address"};
}

Result<std::set<std::string>> link_names() {
  auto list = ip_json({"link", "show"});
  if (!list) return list.error();
  std::set<std::string> names;
  for (const auto& link : *list) names.insert(link.value("ifname", ""));
  return names;
}

// The VXLAN id in one of our names.
std::optional<std::uint32_t> vni_of(const std::string& name) {
  if (!name.starts_with("spb") && !name.starts_with("spx")) return std::nullopt;
  std::uint32_t vni = 0;
  const char* end = name.data() + name.size();
  const auto parsed = std::from_chars(name.data() + 3, end, vni);
  if (parsed.ec != std::errc{} || parsed.ptr != end) return std::nullopt;
  return vni;
}

std::vector<std::string> vxlan_command(std::uint32_t vni, const std::string& underlay, const Device& device) {
  return {"ip",        "link",
          "add",       vxlan_name(vni),
          "type",      "vxlan",
          "id",        std::to_string(vni),
          "dev",       device.name,
          "local",     underlay,
          "dstport",   std::to_string(kVxlanPort),
          "nolearning"};
}

using ForwardingEntry = std::pair<std::string, std::string>;  // MAC, the host that has it

Result<std::set<ForwardingEntry>> present_forwarding(const std::string& port) {
  auto out = run_checked({"bridge", "-json", "fdb", "show", "dev", port});
  if (!out) return out.error();
  const auto list = nlohmann::json::parse(out->empty() ? "[]" : *out, nullptr, false);
  if (list.is_discarded())
    return Error{ErrorKind::permanent, "read the answer of", "bridge fdb show", "it is not JSON"};
  std::set<ForwardingEntry> entries;
  for (const auto& entry : list)
    if (entry.contains("dst")) entries.emplace(entry.value("mac", ""), entry.value("dst", ""));
  return entries;
}

// Each MAC that lives elsewhere, and once per other host the way for broadcasts. Only differences are written, so
// that the network of a running gang can be looked after without a gap.
Status write_forwarding(const std::string& port, const std::string& underlay, const wire::GangNetwork& network) {
  std::set<ForwardingEntry> wanted;
  for (const auto& place : network.places()) {
    if (place.host_address() == underlay) continue;
    wanted.emplace(place.mac(), place.host_address());
    wanted.emplace(kAllOthers, place.host_address());
  }
  auto present = present_forwarding(port);
  if (!present) return present.error();
  for (const auto& [mac, host] : *present) {
    if (wanted.contains({mac, host})) continue;
    if (auto gone = run_checked({"bridge", "fdb", "delete", mac, "dev", port, "dst", host, "self"}); !gone)
      return gone.error();
  }
  for (const auto& [mac, host] : wanted) {
    if (present->contains({mac, host})) continue;
    if (auto set = run_checked({"bridge", "fdb", "append", mac, "dev", port, "dst", host, "self", "permanent"}); !set)
      return set.error();
  }
  return {};
}

}  // namespace

std::string bridge_name(std::uint32_t vni) { return "spb" + std::to_string(vni); }
std::string vxlan_name(std::uint32_t vni) { return "spx" + std::to_string(vni); }

Result<std::uint32_t> GangNetworks::bring_up(const wire::GangNetwork& network) {
  auto device = underlay_device(underlay_);
  if (!device) return device.error();
  auto present = link_names();
  if (!present) return present.error();
  const std::string bridge = bridge_name(network.vni()), port = vxlan_name(network.vni());
  if (device->mtu <= kVxlanOverhead + 576)
    return Error{ErrorKind::permanent, "set up the gang's network", device->name, "its MTU is too small for VXLAN"};
  const std::string mtu = std::to_string(device->mtu - kVxlanOverhead);

  std::vector<std::vector<std::string>> commands;
  if (!present->contains(bridge))
    commands.push_back(
        {"ip", "link", "add", bridge, "type", "bridge", "stp_state", "0", "forward_delay", "0", "mcast_snooping", "0"});
  if (!present->contains(port)) commands.push_back(vxlan_command(network.vni(), underlay_, *device));
  // The gang is not this host's business: no address of the host's own on it.
  for (const std::string& name : {bridge, port})
    commands.push_back({"ip", "link", "set", name, "addrgenmode", "none", "mtu", mtu});
  commands.push_back({"ip", "link", "set", port, "master", bridge});
  for (const auto& command : commands)
    if (auto done = run_checked(command); !done) return done.error();
  if (auto written = write_forwarding(port, underlay_, network); !written) return written.error();
  for (const std::string& name : {port, bridge})
    if (auto up = run_checked({"ip", "link", "set", name, "up"}); !up) return up.error();
  return device->mtu - kVxlanOverhead;
}

Status GangNetworks::take_down(std::uint32_t vni) {
  auto present = link_names();
  if (!present) return present.error();
  for (const std::string& name : {vxlan_name(vni), bridge_name(vni)}) {
    if (!present->contains(name)) continue;
    if (auto gone = run_checked({"ip", "link", "delete", name}); !gone) return gone.error();
  }
  return {};
}

Status GangNetworks::remove_leftovers(const std::set<std::uint32_t>& known) {
  auto present = link_names();
  if (!present) return present.error();
  for (const std::string& name : *present) {
    const auto vni = vni_of(name);
    if (!vni || known.contains(*vni)) continue;
    if (auto gone = run_checked({"ip", "link", "delete", name}); !gone) return gone.error();
  }
  return {};
}

}  // namespace stillpoint::node
