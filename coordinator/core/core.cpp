#include "coordinator/core/core.h"

#include <fmt/format.h>

#include <algorithm>

#include "coordinator/core/history.h"

namespace stillpoint::coordinator {
namespace {

// A host that has not answered for this long is not spoken to until it does: the coordinator then knows when the host
// heard it last, which is what the host's lease counts from.
std::chrono::milliseconds silence(const Settings& settings) { return 4 * settings.heartbeat; }

std::chrono::milliseconds lease_margin(const Settings& settings) { return 2 * settings.heartbeat; }

// What a host's name says in a message when the failure does not name it.
std::string at_host(std::string object, const HostName& host) {
  if (object.find(host.value) != std::string::npos) return object;
  return object.empty() ? host.value : object + " on " + host.value;
}

}  // namespace

// ---- records

JobRecord* Core::find(const JobId& id) {
  const auto found = catalog.jobs.find(id);
  return found == catalog.jobs.end() ? nullptr : &found->second;
}

JobRecord& Core::job(const JobId& id) { return catalog.jobs.at(id); }

// One transaction as long as nothing stands between that the outside could see.
void Core::persist(CatalogChange change) {
  for (auto effect = effects.rbegin(); effect != effects.rend(); ++effect) {
    if (auto* open = std::get_if<Persist>(&*effect)) {
      open->changes.push_back(std::move(change));
      return;
    }
    if (!std::holds_alternative<Log>(*effect) && !std::holds_alternative<JobChanged>(*effect) &&
        !std::holds_alternative<DropOutput>(*effect))
      break;
  }
  effects.push_back(Persist{{std::move(change)}});
}

void Core::save(const JobRecord& record) { persist(PutJob{record}); }
void Core::save(const EpochRecord& record) {
  persist(PutEpoch{record});
  // Nothing can go back to it any more. Recovery says it again.
  if (record.state == EpochState::aborted || record.state == EpochState::pruned)
    effects.push_back(DropOutput{record.job, record.epoch});
}
void Core::save_counters() { persist(PutCounters{catalog.next_job, catalog.next_epoch, catalog.next_vni}); }

void Core::set_state(JobRecord& record, JobState state, std::string reason) {
  if (record.state != state) history::tell(*this, record);
  const bool changed = record.state != state || record.reason != reason;
  record.state = state;
  record.reason = std::move(reason);
  save(record);
  if (changed) effects.push_back(JobChanged{record.job});
}

void Core::note(Log::Level level, const JobId& id, const HostName& host, Epoch at, std::string what,
                std::string detail) {
  EventRecord event = history::line(*this, {wall, id, host, at, std::move(what), std::move(detail)});
  persist(AddEvent{event});
  effects.push_back(Log{level, std::move(event)});
}

void Core::note_soon(Log::Level level, const JobId& id, const HostName& host, Epoch at, std::string what,
                     std::string detail) {
  untold.push_back(history::line(*this, {wall, id, host, at, std::move(what), std::move(detail)}));
  effects.push_back(Log{level, untold.back()});
}

void Core::stale(const HostName& host, const JobId& id, Epoch at, std::string what) {
  rejected += 1;
  effects.push_back(Log{Log::Level::warn, EventRecord{wall, id, host, at, "rejected", std::move(what)}});
}

// ---- hosts

bool Core::connected(const HostName& host) const {
  const auto found = hosts.find(host);
  return found != hosts.end() && found->second.connected;
}

bool Core::usable(const HostName& host) const { return connected(host) && !silent(host); }

bool Core::silent(const HostName& host) const {
  const auto found = hosts.find(host);
  return found == hosts.end() || now - found->second.last_word > silence(settings);
}

std::chrono::milliseconds Core::silent_for(const HostName& host) const {
  const auto found = hosts.find(host);
  return std::chrono::duration_cast<std::chrono::milliseconds>(found == hosts.end() ? now - begun
                                                                                    : now - found->second.last_word);
}

bool Core::fenced_by_lease(const HostName& host) const {
  const auto found = hosts.find(host);
  const auto lease = lease_of(host) + lease_margin(settings);
  if (found == hosts.end()) return now >= begun + lease;
  const auto& h = found->second;
  return !h.connected && now >= std::max(h.last_word, h.last_sent) + lease;
}

std::chrono::milliseconds Core::lease_of(const HostName& host) const {
  const auto record = catalog.hosts.find(host);
  return record == catalog.hosts.end() ? settings.lease : std::max(settings.lease, record->second.lease);
}

std::string Core::underlay(const HostName& host) const {
  const auto found = catalog.hosts.find(host);
  return found == catalog.hosts.end() ? std::string() : found->second.address;
}

std::set<HostName> Core::gang_hosts(const JobRecord& record) const {
  std::set<HostName> result;
  for (const auto& place : record.placement) result.insert(place.host);
  return result;
}

std::vector<std::uint32_t> Core::guests_on(const JobRecord& record, const HostName& host) const {
  std::vector<std::uint32_t> result;
  for (const auto& place : record.placement)
    if (place.host == host) result.push_back(static_cast<std::uint32_t>(place.guest.value));
  return result;
}

bool Core::is_in_gang(const JobRecord& record, const HostName& host) const {
  return std::ranges::any_of(record.placement, [&](const Placement& place) { return place.host == host; });
}

std::map<HostName, std::vector<std::uint32_t>> Core::gang(const JobRecord& record) const {
  std::map<HostName, std::vector<std::uint32_t>> result;
  for (const auto& place : record.placement)
    result[place.host].push_back(static_cast<std::uint32_t>(place.guest.value));
  return result;
}

const HostName& Core::host_of(const JobRecord& record, std::uint32_t guest) const {
  if (guest < record.placement.size() && record.placement[guest].guest.value == guest)  // in order, as they are made
    return record.placement[guest].host;
  for (const auto& place : record.placement)
    if (place.guest.value == guest) return place.host;
  static const HostName none;
  return none;
}

std::chrono::milliseconds Core::time_to_store(const JobRecord& record) const {
  std::size_t most = 0;
  for (const auto& [host, guests] : gang(record)) most = std::max(most, guests.size());
  return std::chrono::milliseconds(most * (record.spec.memory_bytes + record.spec.disk_bytes) / kImageBytesPerMs);
}

// ---- requests

void Core::address(Request& request, Incarnation incarnation, Epoch at) {
  request.message.set_request(request.id);
  request.message.mutable_gang()->set_job(request.job.value);
  request.message.mutable_gang()->set_incarnation(incarnation.value);
  request.message.set_epoch(at.value);
}

std::uint64_t Core::enqueue(Request request) {
  const auto id = request.id;
  transmit(requests.emplace(id, std::move(request)).first->second);
  return id;
}

void Core::transmit(Request& request) {
  if (!try_transmit(request)) unsent[request.host].insert(request.id);
}

bool Core::try_transmit(Request& request) {
  if (now < request.not_before) return false;
  if (request.host.empty())  // any host will do
    for (const auto& [name, host] : hosts)
      if (usable(name)) {
        request.host = name;
        break;
      }
  if (!usable(request.host)) return false;
  if (request.message.has_delete_images()) {
    // Who is back meanwhile may be putting something there, and frees his own.
    auto& lost = *request.message.mutable_delete_images()->mutable_lost_hosts();
    for (int i = lost.size(); i-- > 0;)
      if (!fenced_by_lease(HostName{lost[i]})) lost.DeleteSubrange(i, 1);
  }
  auto& host = hosts.at(request.host);
  request.sent_on = host.session;
  host.last_sent = now;
  effects.push_back(Send{request.host, host.session, request.message, request.common});
  return true;
}

void Core::flush(const HostName& host) {
  if (!usable(host)) return;
  std::set<std::uint64_t> due;
  for (const HostName& whose : {HostName{}, host})
    if (const auto found = unsent.find(whose); found != unsent.end()) {
      due.merge(found->second);
      unsent.erase(found);
    }
  const auto session = hosts.at(host).session;
  for (const auto id : due) {
    const auto found = requests.find(id);
    if (found == requests.end()) continue;  // it is over
    auto& request = found->second;
    if (request.host.empty() || (request.host == host && request.sent_on != session)) transmit(request);
  }
}

void Core::begin_session(const HostName& host) {
  for (const auto& [id, request] : requests)
    if (request.host == host) unsent[host].insert(id);
  flush(host);
}

void Core::send(const HostName& host, wire::ToHost message) {
  const auto found = hosts.find(host);
  if (found == hosts.end() || !found->second.connected) return;
  found->second.last_sent = now;
  effects.push_back(Send{host, found->second.session, std::move(message)});
}

void Core::retry_later(Request request) {
  request.sent_on.reset();
  request.not_before = now + kRetry;
  const auto id = request.id;
  unsent[request.host].insert(id);
  requests.insert_or_assign(id, std::move(request));
}

std::vector<Request> Core::give_up(const HostName& lost) {
  std::vector<Request> given_up;
  for (auto entry = requests.begin(); entry != requests.end();) {
    auto& request = entry->second;
    if (request.host == lost && request.message.has_delete_images()) {
      request.host = HostName{};
      request.message.mutable_delete_images()->set_all_hosts(true);
      request.sent_on.reset();
      transmit(request);
    } else if (request.host == lost && request.owner == Owner::background) {
      given_up.push_back(std::move(request));
      entry = requests.erase(entry);
      continue;
    }
    ++entry;
  }
  return given_up;
}

void Core::cancel(const JobId& id, Owner owner) {
  std::erase_if(requests, [&](const auto& entry) { return entry.second.job == id && entry.second.owner == owner; });
}

void Core::destroy_gang(const JobId& id, Incarnation incarnation, const std::set<HostName>& at) {
  for (const auto& host : at) {
    const bool asked = std::any_of(requests.begin(), requests.end(), [&](const auto& entry) {
      const auto& r = entry.second;
      return r.owner == Owner::background && r.host == host && r.job == id && r.message.has_destroy() &&
             r.message.gang().incarnation() == incarnation.value;
    });
    if (!asked) ask(Owner::background, host, id, incarnation, Epoch{}, [](wire::ToHost& m) { m.mutable_destroy(); });
  }
}

bool Core::is_being_destroyed(const JobId& id, const HostName& host) const {
  return std::any_of(requests.begin(), requests.end(), [&](const auto& entry) {
    const auto& r = entry.second;
    return r.job == id && r.host == host && r.message.has_destroy();
  });
}

bool Core::is_asked(const JobId& id, Owner owner, const HostName& host) const {
  return std::any_of(requests.begin(), requests.end(), [&](const auto& entry) {
    return entry.second.job == id && entry.second.owner == owner && entry.second.host == host;
  });
}

void Core::delete_images(Owner owner, const JobId& id, const std::vector<Epoch>& epochs) {
  if (epochs.empty()) return;
  // One that is silent now may keep its session, and would never be told later. Those that are heard of come first: one
  // of them deletes what is shared.
  std::vector<HostName> up;
  for (const bool heard_of : {true, false})
    for (const auto& [name, host] : hosts)
      if (connected(name) && usable(name) == heard_of) up.push_back(name);
  if (up.empty()) up.emplace_back();
  bool first_of_shared = true, first_of_object_store = true;
  for (const HostName& host : up)
    ask(owner, host, id, Incarnation{}, Epoch{}, [&](wire::ToHost& m) {
      const bool is_own = !host.value.empty() && hosts.at(host).hello.store_is_own();
      for (auto e : epochs) m.mutable_delete_images()->add_epochs(e.value);
      m.mutable_delete_images()->set_all_hosts(is_own || std::exchange(first_of_shared, false));
      if (!host.value.empty() && hosts.at(host).hello.object_store() && std::exchange(first_of_object_store, false))
        for (const auto& [known, record] : catalog.hosts)
          if (fenced_by_lease(known)) m.mutable_delete_images()->add_lost_hosts(known.value);
    });
}

// ---- small helpers

bool holds_gang(JobState state) { return !is_over(state) && state != JobState::pending; }

Error host_failure(const wire::Failure& failure) {
  Error error = from_wire(failure);
  if (error.kind == ErrorKind::not_found) error.kind = ErrorKind::permanent;
  return error;
}

Error host_error(const Request& request, const wire::FromHost& answer) {
  if (!answer.has_failure())
    return Error{ErrorKind::permanent, "answer", at_host("", request.host),
                 "the host answered with another kind of message"};
  Error error = host_failure(answer.failure());
  error.object = at_host(std::move(error.object), request.host);
  return error;
}

Error refused(std::string step, std::string object, std::string cause) {
  return Error{ErrorKind::refused, std::move(step), std::move(object), std::move(cause)};
}

std::string joined(const std::set<HostName>& hosts) {
  std::string text;
  for (const auto& host : hosts) text += (text.empty() ? "" : ", ") + host.value;
  return text;
}

double ms_between(Time from, Time to) { return std::chrono::duration<double, std::milli>(to - from).count(); }

void add_phase(PhaseTimes& phases, std::string_view name, double ms) {
  for (auto& [phase, time] : phases.phases)
    if (phase == name) {
      time += ms;
      return;
    }
  phases.phases.emplace_back(name, ms);
}

std::string ip_of(std::uint32_t guest) { return fmt::format("10.99.{}.{}", (guest + 1) >> 8, (guest + 1) & 255); }

// Locally administered, in the range that virtual machines use; the same in every incarnation, for the guest's memory
// holds it. Two jobs that share one differ in their VXLAN.
std::string mac_of(const JobId& job, std::uint32_t guest) {
  std::uint32_t number = 0;
  for (char c : job.value)
    if (c >= '0' && c <= '9') number = number * 10 + static_cast<std::uint32_t>(c - '0');
  return fmt::format("52:54:{:02x}:{:02x}:{:02x}:{:02x}", (number >> 8) & 255, number & 255, (guest >> 8) & 255,
                     guest & 255);
}

JobId known_as(const EpochRecord& epoch) {
  const bool foreign = !epoch.images.empty() && !epoch.images.front().known_as_job().empty();
  return foreign ? JobId{epoch.images.front().known_as_job()} : epoch.job;
}

CommonPart common_part(const wire::ToHost& message) {
  return std::make_shared<const std::string>(message.SerializeAsString());
}

wire::ToHost whole_message(const Send& send) {
  wire::ToHost message = send.message;
  if (send.common) message.MergeFromString(*send.common);
  return message;
}

wire::GangNetwork network_of(const Core& core, const JobRecord& job) {
  wire::GangNetwork network;
  const auto from = core.catalog.epochs.find(job.restored_from);
  const JobId made_for = from == core.catalog.epochs.end() ? job.job : known_as(from->second);
  network.set_vni(job.vni);
  network.set_prefix_length(16);
  for (const auto& p : job.placement) {
    const auto guest = static_cast<std::uint32_t>(p.guest.value);
    auto& place = *network.add_places();
    place.set_guest(guest);
    place.set_name(fmt::format("guest-{}", guest));
    place.set_ip(ip_of(guest));
    place.set_mac(mac_of(made_for, guest));
    place.set_host(p.host.value);
    place.set_host_address(core.underlay(p.host));
  }
  return network;
}

wire::GuestHardware hardware_of(const JobSpec& spec) {
  wire::GuestHardware hardware;
  hardware.set_vcpus(spec.vcpus);
  hardware.set_memory_bytes(spec.memory_bytes);
  hardware.set_disk_bytes(spec.disk_bytes);
  hardware.set_image(spec.image);
  return hardware;
}

}  // namespace stillpoint::coordinator
