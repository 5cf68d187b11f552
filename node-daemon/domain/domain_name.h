// How a domain is called in libvirt, and back. The name carries the whole id, so that a daemon that comes back finds
// its domains by their names alone; the UUID, which the guest sees, is the same in every incarnation. Any thread.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "node-daemon/domain/domain_driver.h"

namespace stillpoint::node {

// "sp-j7-i2-g0".
std::string domain_name(const DomainId& id);
// Nothing where the name is not one of ours, exactly as domain_name() writes it.
std::optional<DomainId> parse_domain_name(std::string_view name);

// A job id that can stand in file names, libvirt names and XML: 1 to 32 of A-Z a-z 0-9 _.
Status check_domain_id(const DomainId& id);

// Derived from job and guest (RFC 4122 version 5).
std::string domain_uuid(const DomainId& id);

}  // namespace stillpoint::node
