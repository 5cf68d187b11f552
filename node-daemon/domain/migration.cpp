#include "node-daemon/domain/migration.h"

#include <sys/resource.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <thread>

namespace stillpoint::node {

using nlohmann::json;

Status set_background_snapshot(virDomainPtr domain, bool on) {
  const json capability = {{"capability", "background-snapshot"}, {"state", on}};
  auto done = monitor_command(
      domain, {{"execute", "migrate-set-capabilities"}, {"arguments", {{"capabilities", json::array({capability})}}}});
  if (!done) return done.error();
  return {};
}

Status set_unlimited_bandwidth(virDomainPtr domain) {
  constexpr std::int64_t kTebibyte = std::int64_t{1} << 40;  // per second: no limit in practice
  auto done =
      monitor_command(domain, {{"execute", "migrate-set-parameters"}, {"arguments", {{"max-bandwidth", kTebibyte}}}});
  if (!done) return done.error();
  return {};
}

Status set_switchover(virDomainPtr domain, Switchover switchover) {
  auto done = monitor_command(
      domain,
      {{"execute", "migrate-set-parameters"},
       {"arguments",
        {{"downtime-limit", switchover.downtime_ms}, {"avail-switchover-bandwidth", switchover.bytes_per_second}}}});
  if (!done) return done.error();
  return {};
}

namespace {

constexpr int kNicer = 5;  // than QEMU's other threads: a third of their share

// Linux: priorities are a thread's.
bool add_to_nice(id_t thread, int change) {
  return ::setpriority(PRIO_PROCESS, thread, ::getpriority(PRIO_PROCESS, thread) + change) == 0;
}

}  // namespace

std::vector<id_t> put_migration_behind(virDomainPtr domain) {
  const auto threads = monitor_command(domain, {{"execute", "query-migrationthreads"}});
  std::vector<id_t> behind;
  if (!threads || !threads->is_array()) return behind;
  for (const json& thread : *threads)
    if (const auto id = thread.value("thread-id", id_t{0}); add_to_nice(id, kNicer)) behind.push_back(id);
  return behind;
}

void put_migration_back(const std::vector<id_t>& threads) {
  for (const id_t id : threads) (void)add_to_nice(id, -kNicer);
}

Result<double> measure_dirty_rate(virDomainPtr domain, std::chrono::milliseconds window,
                                  std::chrono::steady_clock::time_point deadline) {
  constexpr int kSamplesPerGibibyte = 4096;
  const json unit = {{"calc-time-unit", "millisecond"}};
  json how = unit;
  how["calc-time"] = window.count();
  how["sample-pages"] = kSamplesPerGibibyte;
  auto begun = monitor_command(domain, {{"execute", "calc-dirty-rate"}, {"arguments", how}});
  if (!begun) return begun.error();
  for (auto look = std::chrono::steady_clock::now() + window; look < deadline; look += window / 10) {
    std::this_thread::sleep_until(look);  // QEMU tells of no event at its end
    auto reply = monitor_command(domain, {{"execute", "query-dirty-rate"}, {"arguments", unit}});
    if (!reply) return reply.error();
    if (reply->value("status", "") == "measured") return reply->value("dirty-rate", 0.0) * (1 << 20);
  }
  return Error{ErrorKind::transient, "measure dirty rate", virDomainGetName(domain), "QEMU did not end measuring"};
}

Result<MigrationState> query_migration(virDomainPtr domain) {
  auto reply = monitor_command(domain, {{"execute", "query-migrate"}});
  if (!reply) return reply.error();
  const json ram = reply->value("ram", json::object());
  return MigrationState{reply->value("status", "none"), reply->value("error-desc", ""), reply->value("downtime", 0.0),
                        ram.value("remaining", std::uint64_t{0}), ram.value("dirty-sync-count", std::uint64_t{0})};
}

bool migration_ended(const MigrationState& state) {
  return state.status == "completed" || state.status == "failed" || state.status == "cancelled" ||
         state.status == "none";
}

Result<MigrationState> wait_migration_end(virDomainPtr domain, EventHub& events,
                                          std::chrono::steady_clock::time_point deadline) {
  EventWatch watch(events, virDomainGetName(domain));
  for (;;) {
    auto state = query_migration(domain);
    if (!state || migration_ended(*state)) return state;
    if (std::chrono::steady_clock::now() >= deadline)
      return Error{ErrorKind::deadline, "end of migration", virDomainGetName(domain), "it is still " + state->status};
    // Any event may be the one; a lost one costs a second, not the deadline.
    watch.wait(std::min(deadline, std::chrono::steady_clock::now() + std::chrono::seconds(1)));
  }
}

namespace {

Status end_migration(virDomainPtr domain, EventHub& events) {
  auto state = query_migration(domain);
  if (!state) return state.error();
  if (!migration_ended(*state)) {
    if (auto cancelled = monitor_command(domain, {{"execute", "migrate_cancel"}}); !cancelled) return cancelled.error();
    auto end = wait_migration_end(domain, events, std::chrono::steady_clock::now() + std::chrono::seconds(20));
    if (!end) return end.error();
  }
  return {};
}

}  // namespace

Status cancel_migration(virDomainPtr domain, EventHub& events) {
  const Status ended = end_migration(domain, events);
  const Status off = set_background_snapshot(domain, false);  // whatever became of the rest
  const Status usual = set_switchover(domain, kUsualSwitchover);
  return !ended ? ended : !off ? off : usual;
}

}  // namespace stillpoint::node
