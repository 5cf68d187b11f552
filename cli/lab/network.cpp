#include "cli/lab/network.h"

#include <sys/mount.h>
#include <unistd.h>

#include <filesystem>

#include "common/file.h"
#include "common/process.h"

namespace stillpoint::lab {
namespace fs = std::filesystem;
namespace {

constexpr const char* kBridge = "switch0";
constexpr const char* kHostLink = "eth0";

// ip's batch lines all run in one namespace.
Status ip_in(const std::string& network_namespace, const std::string& lines) {
  auto done = run_checked({"ip", "-n", network_namespace, "-batch", "-"}, {.input = lines});
  if (!done) return done.error();
  return {};
}

Status add_namespace(const std::string& name) {
  auto done = run_checked({"ip", "netns", "add", name});
  if (!done) return done.error();
  return ip_in(name, "link set lo up\n");
}

bool namespace_directory_is_mount() {
  auto mounts = read_file("/proc/self/mountinfo");
  return mounts.has_value() && mounts->find(std::string(" ") + kNamespaceDirectory + " ") != std::string::npos;
}

}  // namespace

Status make_switch(const Layout& layout) {
  const std::string name = layout.switch_namespace();
  if (auto made = add_namespace(name); !made) return made;
  const std::string bridge = kBridge;
  return ip_in(name, "link add " + bridge + " type bridge\n" + "addr add " + kCoordinatorAddress + "/" +
                         std::to_string(kUnderlayPrefix) + " dev " + bridge + "\n" + "link set " + bridge + " up\n");
}

Status make_host_network(const Layout& layout, const std::string& host) {
  const std::string name = layout.host_namespace(host), port = switch_port(host), link = kHostLink;
  const std::string mtu = std::to_string(kUnderlayMtu);
  if (auto made = add_namespace(name); !made) return made;
  if (auto cabled = ip_in(layout.switch_namespace(), "link add " + port + " mtu " + mtu + " type veth peer name " +
                                                         link + " mtu " + mtu + " netns " + name + "\n" + "link set " +
                                                         port + " master " + kBridge + " up\n");
      !cabled)
    return cabled;
  return ip_in(name, "addr add " + host_address(host_number(host)) + "/" + std::to_string(kUnderlayPrefix) + " dev " +
                         link + "\n" + "link set " + link + " up\n");
}

Status set_cable(const Layout& layout, const std::string& host, bool plugged_in) {
  return ip_in(layout.switch_namespace(), "link set " + switch_port(host) + (plugged_in ? " up\n" : " down\n"));
}

Status remove_host_network(const Layout& layout, const std::string& host) {
  // Explicitly: with its namespace the cable would go too, but some time later, and a new one could not be plugged in.
  const std::string port = switch_port(host);
  auto there = run_process({"ip", "-n", layout.switch_namespace(), "link", "show", "dev", port});
  if (!there) return there.error();
  if (there->exit_code == 0)
    if (auto removed = ip_in(layout.switch_namespace(), "link del " + port + "\n"); !removed) return removed;
  return remove_namespace(layout.host_namespace(host));
}

Status remove_namespace(const std::string& name) {
  std::error_code ignored;
  if (!fs::exists(fs::symlink_status(namespace_file(name), ignored))) return {};
  auto done = run_checked({"ip", "netns", "delete", name});
  if (!done) return done.error();
  return {};
}

std::vector<std::string> existing_namespaces(const Layout& layout) {
  std::vector<std::string> names;
  std::error_code failed;
  for (fs::directory_iterator entry(kNamespaceDirectory, failed), end; !failed && entry != end; entry.increment(failed))
    if (const std::string name = entry->path().filename(); name.starts_with(layout.namespace_prefix()))
      names.push_back(name);
  return names;
}

void remove_namespace_directory() {
  std::error_code failed;
  if (!fs::is_empty(kNamespaceDirectory, failed) || failed) return;
  // `ip netns` may have stacked it; a busy one belongs to somebody else by now.
  while (namespace_directory_is_mount())
    if (::umount2(kNamespaceDirectory, UMOUNT_NOFOLLOW) != 0) return;
  ::rmdir(kNamespaceDirectory);
}

}  // namespace stillpoint::lab
