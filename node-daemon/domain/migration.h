// QEMU's migration, which both capture and restore are made of: commands and what they report. See monitor.h for when
// no command may be given.
#pragma once

#include <sys/types.h>

#include <vector>

#include "node-daemon/domain/monitor.h"

namespace stillpoint::node {

Status set_background_snapshot(virDomainPtr domain, bool on);
Status set_unlimited_bandwidth(virDomainPtr domain);

// When a migration that copies beforehand stops the machine for the last pages: as soon as what is left can be sent
// within downtime_ms at bytes_per_second; 0: at the rate that QEMU measures.
struct Switchover {
  std::int64_t downtime_ms = 0, bytes_per_second = 0;
};
inline constexpr Switchover kUsualSwitchover{300, 0};  // QEMU's own
inline constexpr std::int64_t kLongestDowntimeMs = 2'000'000;
Status set_switchover(virDomainPtr domain, Switchover switchover);

// The thread of a migration under way gets less of a processor than the machine itself, where both want it; gives the
// threads for which that was possible. Not without the right to: then it goes on as it is.
std::vector<id_t> put_migration_behind(virDomainPtr domain);
// Takes that back: what is left holds the machine up. Gives no command.
void put_migration_back(const std::vector<id_t>& threads);

// Bytes per second that the machine writes to, by QEMU's samples of its pages over `window`; at most those of one page
// each, however often it is written to. Blocks for the window and a little more.
Result<double> measure_dirty_rate(virDomainPtr domain, std::chrono::milliseconds window,
                                  std::chrono::steady_clock::time_point deadline);

struct MigrationState {
  std::string status;  // "none", "setup", "active", "completed", "failed", "cancelled", …
  std::string error;
  double downtime_ms = 0;
  std::uint64_t remaining_bytes = 0;  // of the present pass
  std::uint64_t passes = 0;           // begun
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
