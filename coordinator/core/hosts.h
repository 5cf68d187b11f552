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

// It, or a guest on it, was lost: counted once a minute at most. Not counted: what this coordinator did not see happen.
// True: counted, and its record saved.
bool failed(Core& core, const HostName& host);
// How long it has been connected, as far as this catalog remembers: seconds.
std::uint64_t watched_seconds(const Core& core, const HostName& host);

std::vector<HostView> views(const Core& core);

}  // namespace stillpoint::coordinator::hosts
