// Hosts: sessions, leases, what they report by themselves, and the way of an answer to the machine that waits for it.
// Core's strand.
#pragma once

#include "coordinator/core/core.h"

namespace stillpoint::coordinator::hosts {

void on_connected(Core& core, HostConnected event);
void on_disconnected(Core& core, const HostDisconnected& event);
void on_spoke(Core& core, const HostSpoke& event);
void on_cordon(Core& core, const CordonHost& event);
// Pings, leases, deferred requests.
void tick(Core& core);

std::vector<HostView> views(const Core& core);

}  // namespace stillpoint::coordinator::hosts
