// Loads a captured machine into a new domain, which then waits, paused, for resume(). Blocking, on the caller's thread.
#pragma once

#include "node-daemon/domain/domain_xml.h"
#include "node-daemon/domain/monitor.h"

namespace stillpoint::node {

// xml is domain_xml(…, DomainPhase::loading, …). On failure no domain is left.
Status restore_domain(virConnectPtr connection, EventHub& events, const DomainId& id, const std::string& xml,
                      MemorySource& source);

// The phase is changed before the machine goes on: a daemon that dies in between finds a paused machine that should
// run, and lets it.
Status set_phase(virDomainPtr domain, const DomainId& id, DomainPhase phase);
Status resume_domain(virDomainPtr domain, const DomainId& id);

}  // namespace stillpoint::node
