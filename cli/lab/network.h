// The laboratory's network: a switch in a namespace of its own, which the coordinator shares, and a namespace per host,
// joined to it by a cable (veth). The root namespace sees nothing of it but the names. Blocking; any thread.
#pragma once

#include <string>
#include <vector>

#include "cli/lab/layout.h"
#include "common/result.h"

namespace stillpoint::lab {

Status make_switch(const Layout& layout);
Status make_host_network(const Layout& layout, const std::string& host);
// The host's cable, pulled or plugged in at the switch: the host sees its carrier go.
Status set_cable(const Layout& layout, const std::string& host, bool plugged_in);
// Cable and namespace of a host, as far as they exist. Its processes have ended.
Status remove_host_network(const Layout& layout, const std::string& host);
Status remove_namespace(const std::string& name);

// Names of this laboratory's namespaces that exist, whatever the journal says.
std::vector<std::string> existing_namespaces(const Layout& layout);

// `ip netns` makes /run/netns a mount of its own and leaves it: undoes that when no namespace has a name any more.
void remove_namespace_directory();

}  // namespace stillpoint::lab
