#include "coordinator/core/hosts.h"

#include <fmt/format.h>

#include "coordinator/core/checkpoint.h"
#include "coordinator/core/checkpoint_records.h"
#include "coordinator/core/finish.h"
#include "coordinator/core/later.h"
#include "coordinator/core/leftovers.h"
#include "coordinator/core/output.h"
#include "coordinator/core/prune.h"
#include "coordinator/core/ranks.h"
#include "coordinator/core/rebuild.h"
#include "coordinator/core/relay.h"
#include "coordinator/core/restart.h"
#include "coordinator/core/start.h"
#include "coordinator/core/transfer.h"
#include "coordinator/core/verify.h"

namespace stillpoint::coordinator::hosts {
namespace {

constexpr std::uint32_t kProtocol = 1;
constexpr std::chrono::seconds kWatchStep{600};  // between two records of how long a host has been connected
constexpr std::chrono::seconds kWorthATransaction{60};
constexpr std::chrono::seconds kOneFailure{60};  // what fails within it is counted as one

void welcome(Core& core, const HostName& host) {
  wire::ToHost message;
  auto& w = *message.mutable_welcome();
  w.set_coordinator(core.catalog.coordinator);
  w.set_heartbeat_ms(static_cast<std::uint32_t>(core.settings.heartbeat.count()));
  w.set_lease_ms(static_cast<std::uint32_t>(core.settings.lease.count()));
  core.send(host, std::move(message));
}

void remember(Core& core, const HostName& host, const wire::HostHello& hello) {
  auto& record = core.catalog.hosts[host];
  if (record.host == host && record.address == hello.address() && record.lease >= core.settings.lease) return;
  record.lease = std::max(record.lease, core.settings.lease);
  const bool first = record.host.empty();
  record.host = host;
  record.address = hello.address();
  core.persist(PutHost{record});
  if (first) core.note(Log::Level::info, {}, host, {}, "host joined", "at " + hello.address());
}

// A hold or a capture that the host still has and that no attempt of ours stands behind: it is let go.
void settle_hold(Core& core, const JobRecord& job, const HostName& host, std::uint64_t number) {
  if (number == 0) return;
  const Epoch epoch{number};
  if (job.attempt == epoch) return;
  if (const auto& restart = core.run(job.job).restart; restart && restart->epoch == epoch) return;
  const bool deleted = leftovers::known_deleted(core, job.job, epoch);
  core.ask(Owner::background, host, job.job, job.incarnation, epoch,
           [&](wire::ToHost& m) { m.mutable_release()->set_discard(deleted); });
}

// A gang that the host runs and the catalog does not know as running goes; otherwise the gang goes on.
void settle_presence(Core& core, const HostName& host, const wire::GangPresence& presence) {
  const JobId id{presence.gang().job()};
  JobRecord* job = core.find(id);
  if (job != nullptr && !holds_gang(job->state) && presence.gang().incarnation() > job->incarnation.value) {
    job->incarnation = Incarnation{presence.gang().incarnation()};  // of a catalog that was lost: ours come behind it
    core.save(*job);
  }
  if (job == nullptr || !holds_gang(job->state) || job->incarnation.value != presence.gang().incarnation()) {
    core.note(Log::Level::warn, id, host, {}, "stale gang",
              fmt::format("incarnation {} still ran; it is destroyed", presence.gang().incarnation()));
    core.destroy_gang(id, Incarnation{presence.gang().incarnation()}, {host});
    return;
  }
  if (finish::is_given_up(core, *job, host)) return core.destroy_gang(id, job->incarnation, {host});
  settle_hold(core, *job, host, presence.held_epoch());
  if (presence.captured_epoch() != presence.held_epoch()) {
    const auto known = core.catalog.epochs.find(Epoch{presence.captured_epoch()});
    const bool committed = known != core.catalog.epochs.end() && has_images(known->second.state);
    if (!committed) settle_hold(core, *job, host, presence.captured_epoch());
  }
}

// Guests that the catalog places on this host and that the host does not run.
std::string missing_guests(const Core& core, const JobRecord& job, const HostName& host, const wire::HostHello& hello) {
  std::set<std::uint32_t> there;
  for (const auto& presence : hello.gangs())
    if (presence.gang().job() == job.job.value && presence.gang().incarnation() == job.incarnation.value)
      there.insert(presence.guests().begin(), presence.guests().end());
  std::string missing;
  for (auto guest : core.guests_on(job, host))
    if (!there.contains(guest)) missing += (missing.empty() ? "" : ", ") + std::to_string(guest);
  return missing;
}

// Each machine decides what the news means for its job.
void host_back(Core& core, JobRecord& job, const HostName& host, const std::string& missing) {
  if (!missing.empty()) {
    const std::string why = fmt::format("guest {} is no longer on host {}", missing, host.value);
    finish::on_guests_gone(core, job, host, why, false);
  }
}

template <class F>
void each_job(Core& core, F f) {
  std::vector<JobId> ids;
  for (const auto& [id, job] : core.catalog.jobs) ids.push_back(id);
  for (const auto& id : ids)
    if (JobRecord* job = core.find(id)) f(*job);
}

// What was watched goes into the record. True: so much that it is worth a transaction.
bool record_watch(Core& core, const HostName& host) {
  auto& h = core.hosts.at(host);
  if (!h.watched) return false;
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(core.now - *h.watched);
  core.catalog.hosts.at(host).watched_seconds += static_cast<std::uint64_t>(seconds.count());
  if (h.connected) h.watched = *h.watched + seconds;
  else h.watched.reset();
  return seconds >= kWorthATransaction;
}

// Nothing is given up yet: it may be a busy network. But nothing new is begun there.
void declare_silent(Core& core, const HostName& host) {
  auto& h = core.hosts.at(host);
  h.silent = true;
  core.note(Log::Level::warn, {}, host, {}, "host silent",
            fmt::format("no word for {} ms; it is lost when there is none for {} ms", core.silent_for(host).count(),
                        core.settings.lease.count()));
}

void heard(Core& core, const HostName& host) {
  auto& h = core.hosts.at(host);
  h.last_word = core.now;
  if (h.silent && !h.lost) core.note(Log::Level::info, {}, host, {}, "host heard again", "");
  h.silent = false;
}

void declare_lost(Core& core, const HostName& host) {
  auto& h = core.hosts.at(host);
  h.lost = true;
  const std::string why = fmt::format("no word for {} ms", core.settings.lease.count());
  if (h.connected) {
    core.effects.push_back(CloseSession{host, h.session, why});
    h.connected = false;
  }
  record_watch(core, host);
  if (!failed(core, host)) core.persist(PutHost{core.catalog.hosts.at(host)});
  core.note(Log::Level::error, {}, host, {}, "host lost", why);
  each_job(core, [&](JobRecord& job) { finish::on_host_lost(core, job, host); });
  verify::on_host_lost(core, host);
  later::on_host_lost(core, host);
  checkpoint_records::on_host_lost(core, host);
  rebuild::on_host_lost(core, host);
  for (const auto& request : core.give_up(host))
    if (request.message.has_release()) checkpoint::on_cleaned(core, request.job, Epoch{request.message.epoch()}, host);
}

// A host goes by the lease that it was welcomed with; a guest of it by what it last heard of its node daemon, for as
// long as the one before.
void shorten_lease(Core& core, const HostName& host) {
  auto& record = core.catalog.hosts.at(host);
  if (record.lease <= core.settings.lease || core.now < core.hosts.at(host).welcomed + record.lease) return;
  record.lease = core.settings.lease;
  core.persist(PutHost{record});
}

void ping(Core& core, const HostName& host) {
  auto& h = core.hosts.at(host);
  if (!h.connected || h.ping_out || core.now < h.next_ping) return;
  // By the next ping alone a host knows that its last pong arrived: behind a late one the next comes as soon as it may.
  const bool late = core.now > h.next_ping + core.settings.heartbeat;
  h.next_ping = late ? core.now : core.now + core.settings.heartbeat;
  h.ping_out = true;
  wire::ToHost message;
  message.mutable_ping()->set_number(++h.ping);
  core.send(host, std::move(message));
}

void dispatch(Core& core, const Request& request, const wire::FromHost& answer) {
  switch (request.owner) {
    case Owner::start: return start::on_answer(core, request, answer);
    case Owner::checkpoint: return checkpoint::on_answer(core, request, answer);
    case Owner::restart: return restart::on_answer(core, request, answer);
    case Owner::finish: return finish::on_answer(core, request, answer);
    case Owner::remove: return finish::on_removed(core, request, answer);
    case Owner::verify: return verify::on_answer(core, request, answer);
    case Owner::prune: return prune::on_answer(core, request, answer);
    case Owner::later: return later::on_answer(core, request, answer);
    case Owner::query: return ranks::on_answer(core, request, answer);
    case Owner::transfer: return transfer::on_answer(core, request, answer);
    case Owner::record: return checkpoint_records::on_answer(core, request, answer);
    case Owner::rebuild: return rebuild::on_answer(core, request, answer);
    case Owner::background: return relay::on_background(core, request, answer);
  }
}

void on_answer(Core& core, const HostName& host, const wire::FromHost& message) {
  const auto found = core.requests.find(message.request());
  const JobId job{message.gang().job()};
  if (found == core.requests.end() || found->second.host != host || !found->second.sent_on)
    return core.stale(host, job, Epoch{message.epoch()},
                      fmt::format("answer to request {}, which nobody waits for", message.request()));
  const auto& asked = found->second.message;
  if (asked.gang().job() != message.gang().job() || asked.gang().incarnation() != message.gang().incarnation() ||
      asked.epoch() != message.epoch())
    return core.stale(
        host, job, Epoch{message.epoch()},
        fmt::format(
            "answer to request {} names incarnation {} of {}, epoch {}; asked was incarnation {} of {}, epoch {}",
            message.request(), message.gang().incarnation(), message.gang().job(), message.epoch(),
            asked.gang().incarnation(), asked.gang().job(), asked.epoch()));
  const Request request = std::move(found->second);
  core.requests.erase(found);
  dispatch(core, request, message);
}

// The job that a host speaks of by itself, or nothing when that is not its current incarnation here.
JobRecord* current(Core& core, const HostName& host, const wire::FromHost& message) {
  JobRecord* job = core.find(JobId{message.gang().job()});
  if (job != nullptr && job->incarnation.value == message.gang().incarnation() && holds_gang(job->state) &&
      core.is_in_gang(*job, host))
    return job;
  core.stale(host, JobId{message.gang().job()}, Epoch{message.epoch()},
             fmt::format("word of incarnation {}, which is not the current one here", message.gang().incarnation()));
  return nullptr;
}

void on_spontaneous(Core& core, const HostName& host, const wire::FromHost& message) {
  if (message.has_images()) return checkpoint::on_images(core, host, message);  // also of epochs that are settled
  if (message.has_held()) {
    leftovers::on_held(core, host, message.held());
    return checkpoint_records::on_held(core, host, message.held());
  }
  JobRecord* job = current(core, host, message);
  if (job == nullptr) return;
  switch (message.body_case()) {
    case wire::FromHost::kOutput: return output::on_output(core, *job, message.output());
    case wire::FromHost::kLaunch: return relay::on_launch(core, *job, message.launch().launch());
    case wire::FromHost::kJobEnded: return finish::on_job_ended(core, *job, message.job_ended().exited());
    case wire::FromHost::kGuestLost:
      return finish::on_guests_gone(core, *job, host,
                                    fmt::format("guest {} on host {} was lost: {}", message.guest_lost().guest(),
                                                host.value, message.guest_lost().reason()),
                                    true);
    case wire::FromHost::kRankLost: return finish::on_rank_lost(core, *job, host, message.rank_lost().rank());
    case wire::FromHost::kRankWished: return checkpoint::on_wish(core, *job, message.rank_wished().wish());
    default:
      return core.stale(host, job->job, Epoch{message.epoch()}, "a message that hosts do not send by themselves");
  }
}

}  // namespace

void on_connected(Core& core, HostConnected event) {
  const HostName host = event.host;
  if (event.hello.protocol() != kProtocol || event.hello.host() != host.value) {
    core.effects.push_back(
        CloseSession{host, event.session,
                     fmt::format("hello of host \"{}\", protocol {}; expected \"{}\", protocol {}", event.hello.host(),
                                 event.hello.protocol(), host.value, kProtocol)});
    core.rejected += 1;
    return;
  }
  auto& h = core.hosts[host];
  if (h.connected && h.session != event.session)
    core.effects.push_back(CloseSession{host, h.session, "replaced by a newer session of the same host"});
  if (!h.connected) h.watched = core.now;
  const bool was_lost = h.lost;
  h.connected = true;
  h.session = event.session;
  h.ping_out = false;
  h.next_ping = core.now + core.settings.heartbeat;
  h.memory_free = event.hello.memory_free_bytes();
  h.image_free = event.hello.image_free_bytes();
  h.store = event.hello.store();
  h.hello = event.hello;
  h.hello.clear_gangs();
  remember(core, host, event.hello);
  heard(core, host);
  h.lost = false;
  core.note_soon(Log::Level::info, {}, host, {}, "host connected", was_lost ? "it had been lost" : "");
  h.welcomed = core.now;
  welcome(core, host);
  for (const auto& presence : event.hello.gangs()) settle_presence(core, host, presence);
  each_job(core, [&](JobRecord& job) {
    if (!holds_gang(job.state) || !core.is_in_gang(job, host)) return;
    host_back(core, job, host, missing_guests(core, job, host, event.hello));
  });
  core.begin_session(host);
  each_job(core, [&](JobRecord& job) {
    if (holds_gang(job.state) && core.host_of(job, 0) == host) output::acknowledge(core, job);
  });
  start::try_pending(core);
}

void on_disconnected(Core& core, const HostDisconnected& event) {
  const auto found = core.hosts.find(event.host);
  if (found == core.hosts.end() || !found->second.connected || found->second.session != event.session) {
    core.rejected += 1;  // the end of a session that was replaced: nothing to do
    return;
  }
  found->second.connected = false;
  found->second.ping_out = false;
  if (record_watch(core, event.host)) core.persist(PutHost{core.catalog.hosts.at(event.host)});
  core.note_soon(Log::Level::warn, {}, event.host, {}, "host disconnected", "");
}

void on_spoke(Core& core, const HostSpoke& event) {
  const auto found = core.hosts.find(event.host);
  const auto& message = event.message;
  if (found == core.hosts.end() || !found->second.connected || found->second.session != event.session)
    return core.stale(event.host, JobId{message.gang().job()}, Epoch{message.epoch()},
                      "word from a session that was replaced");
  auto& host = found->second;
  heard(core, event.host);
  core.flush(event.host);
  if (message.has_pong()) {
    if (message.pong().number() != host.ping) return core.stale(event.host, {}, {}, "answer to an older ping");
    host.ping_out = false;
    host.memory_free = message.pong().memory_free_bytes();
    host.image_free = message.pong().image_free_bytes();
    host.store = message.pong().store();
    shorten_lease(core, event.host);
  } else if (message.request() != 0 && !message.has_images()) {
    on_answer(core, event.host, message);
  } else {
    on_spontaneous(core, event.host, message);
  }
}

void on_cordon(Core& core, const CordonHost& event) {
  const auto found = core.catalog.hosts.find(event.host);
  if (found == core.catalog.hosts.end())
    return core.refuse(event.request, Error{ErrorKind::not_found, event.cordoned ? "cordon" : "uncordon",
                                            event.host.value, "no such host"});
  if (found->second.cordoned != event.cordoned) {
    found->second.cordoned = event.cordoned;
    core.persist(PutHost{found->second});
    core.note(Log::Level::info, {}, event.host, {}, event.cordoned ? "host cordoned" : "host uncordoned", "");
  }
  core.reply(event.request, Acknowledged{});
  start::try_pending(core);
}

void tick(Core& core) {
  std::vector<HostName> names;
  for (const auto& [name, host] : core.hosts) names.push_back(name);
  for (const auto& name : names) {
    ping(core, name);
    core.flush(name);
    const auto& host = core.hosts.at(name);
    if (host.watched && core.now >= *host.watched + kWatchStep && record_watch(core, name))
      core.persist(PutHost{core.catalog.hosts.at(name)});
    if (!host.silent && !host.lost && core.silent(name)) declare_silent(core, name);
    if (!host.lost && core.now > host.last_word + core.settings.lease) declare_lost(core, name);
  }
}

bool failed(Core& core, const HostName& host) {
  const auto record = core.catalog.hosts.find(host);
  if (record == core.catalog.hosts.end()) return false;
  auto& h = core.hosts[host];
  // Not seen to fail: it was down when this coordinator began, or ended its guests because there was none.
  if (h.hello.host().empty() || core.now < core.begun + 2 * core.settings.lease) return false;
  if (h.failed && core.now < *h.failed + kOneFailure) return false;
  h.failed = core.now;
  record->second.failures += 1;
  core.persist(PutHost{record->second});
  return true;
}

std::uint64_t watched_seconds(const Core& core, const HostName& host) {
  const std::uint64_t recorded = core.catalog.hosts.at(host).watched_seconds;
  const auto found = core.hosts.find(host);
  if (found == core.hosts.end() || !found->second.watched) return recorded;
  const auto since = std::chrono::duration_cast<std::chrono::seconds>(core.now - *found->second.watched);
  return recorded + static_cast<std::uint64_t>(since.count());
}

std::vector<HostView> views(const Core& core) {
  std::vector<HostView> result;
  for (const auto& [name, record] : core.catalog.hosts) {
    HostView view;
    view.host = name;
    if (const auto found = core.hosts.find(name); found != core.hosts.end()) {
      const auto& h = found->second;
      view.state = h.lost || h.hello.host().empty() ? HostView::State::lost
                   : h.silent                       ? HostView::State::silent
                                                    : HostView::State::up;
      view.accelerator = h.hello.accelerator();
      view.accelerator_reason = h.hello.accelerator_reason();
      view.capture_mode = h.hello.capture_mode();
      view.capture_reason = h.hello.capture_reason();
      view.memory_bytes = h.hello.memory_bytes();
      view.memory_free_bytes = h.memory_free;
      view.cpus = h.hello.cpus();
      view.image_free_bytes = h.image_free;
      view.store = h.store;
      view.connected = h.connected;
      view.daemon_pid = h.hello.pid();
    }
    view.failures = record.failures;
    view.watched_seconds = watched_seconds(core, name);
    if (record.cordoned && view.state == HostView::State::up) view.state = HostView::State::cordoned;
    for (const auto& [id, job] : core.catalog.jobs)
      if (holds_gang(job.state) && core.is_in_gang(job, name)) view.jobs.push_back(id);
    result.push_back(std::move(view));
  }
  return result;
}

}  // namespace stillpoint::coordinator::hosts
