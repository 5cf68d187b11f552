// The writable disk of a domain: a chain of qcow2 layers, the active one on top. Blocking; one call per domain at a
// time.
#pragma once

#include <filesystem>
#include <vector>

#include "node-daemon/domain/monitor.h"
#include "node-daemon/domain/virt.h"

namespace stillpoint::node {

Result<std::vector<std::filesystem::path>> disk_chain_of(virDomainPtr domain);

// An empty qcow2 layer over the domain's active one. The file must not be there yet.
Status make_layer(virDomainPtr domain, const std::filesystem::path& new_layer);
// The domain's writes go into new_layer from now on; all below is immutable.
Status switch_to_layer(virDomainPtr domain, const std::filesystem::path& new_layer);

// Commits everything below the active layer into the lowest file while the domain runs, and deletes what is no longer
// used. Nothing to do with two layers or fewer.
Status flatten_chain(virDomainPtr domain, EventHub& events);

}  // namespace stillpoint::node
