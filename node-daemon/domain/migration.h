// QEMU's migration, which both capture and restore are made of: commands and what they report. See monitor.h for when
// no command may be given.
#pragma once

#include "node-daemon/domain/monitor.h"

namespace stillpoint::node {

Status set_background_snapshot(virDomainPtr domain, bool on);
Status set_unlimited_bandwidth(virDomainPtr domain);

struct MigrationState {
  std::string status;  // "none", "setup", "active", "completed", "failed", "cancelled", …
  std::string error;
  double downtime_ms = 0;
};
Result<MigrationState> query_migration(virDomainPtr domain);
// completed, failed, cancelled, or never begun.
bool migration_ended(const MigrationState& state);
// The state once the migration has ended.
Result<MigrationState> wait_migration_end(virDomainPtr domain, EventHub& events,
                                          std::chrono::steady_clock::time_point deadline);

// Whatever an interrupted capture left: no migration under way, the capability off. Its stream's reader must be gone.
Status cancel_migration(virDomainPtr domain, EventHub& events);

}  // namespace stillpoint::node
