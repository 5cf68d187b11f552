// Gangs come (boot, restore, resume) and go (destroy, fence, failed making).
#include <algorithm>

#include "node-daemon/core/host_impl.h"

namespace stillpoint::node {

using wire::ToHost;

namespace {

constexpr std::size_t kMaxDeferred = 64;

std::uint32_t index_of(const DomainId& id) { return static_cast<std::uint32_t>(id.guest.value); }

const wire::GangNetwork& network_of(const ToHost& ask) {
  return ask.has_restore() ? ask.restore().network() : ask.start_guests().network();
}

std::vector<std::uint32_t> guests_of(const ToHost& ask) {
  if (ask.has_start_guests()) return {ask.start_guests().guests().begin(), ask.start_guests().guests().end()};
  std::vector<std::uint32_t> guests;
  for (const auto& image : ask.restore().images()) guests.push_back(image.guest());
  return guests;
}

}  // namespace

Gang* Host::Impl::find(const GangId& id) {
  const auto found = gangs.find(id);
  return found == gangs.end() ? nullptr : &found->second;
}

// Its gang, if the guest is one of it and nothing is being torn down.
Gang* Host::Impl::find_settled(const DomainId& id) {
  Gang* gang = find(gang_of(id));
  return gang != nullptr && gang->settled() && gang->guests.contains(index_of(id)) ? gang : nullptr;
}

Incarnation Host::Impl::newest(const JobId& job) const {
  Incarnation known;
  if (const auto found = destroyed.find(job); found != destroyed.end()) known = found->second.next();
  for (const auto& [id, gang] : gangs)
    if (id.job == job && !gang.dying) known = std::max(known, id.incarnation);
  return known;
}

// ---- making

std::optional<Error> Host::Impl::refuse_making(const ToHost& ask) const {
  const std::string step = request_name(ask.body_case()), object = "job " + ask.gang().job();
  const std::vector<std::uint32_t> guests = guests_of(ask);
  if (guests.empty()) return Error{ErrorKind::refused, step, object, "it names no guest for this host"};
  std::size_t present = 0;
  for (const auto& [id, gang] : gangs) present += gang.guests.size();
  if (present + guests.size() > settings.max_guests)
    return Error{ErrorKind::refused, step, object,
                 "this host runs " + std::to_string(present) + " guests, and takes " +
                     std::to_string(settings.max_guests) + " at most"};
  const auto& network = network_of(ask);
  if (network.vni() == 0 || network.vni() >= 1u << 24)
    return Error{ErrorKind::refused, step, object,
                 "VXLAN id " + std::to_string(network.vni()) + " is not between 1 and 2^24 - 1"};
  for (std::uint32_t guest : guests)
    if (std::ranges::none_of(network.places(), [guest](const auto& place) { return place.guest() == guest; }))
      return Error{ErrorKind::refused, step, object, "the network has no place for guest " + std::to_string(guest)};
  return std::nullopt;
}

void Host::Impl::make_gang(const ToHost& ask) {
  const GangId id = gang_of(ask.gang());
  if (Gang* gang = find(id); gang != nullptr && !gang->dying) return answer_made(*gang, ask);

  bool waits = false;
  for (auto& [other, gang] : gangs) {
    if (other.job != id.job) continue;
    waits = true;
    if (!gang.dying) tear_down(gang, "incarnation " + std::to_string(id.incarnation.value) + " takes its place");
  }
  if (waits) {
    if (deferred.size() < kMaxDeferred) return deferred.push_back(ask);
    return answer_failure(ask, ask.request(),
                          {ErrorKind::transient, request_name(ask.body_case()), "job " + id.job.value,
                           "an older incarnation is still being removed"});
  }
  if (auto error = refuse_making(ask)) return answer_failure(ask, ask.request(), *error);

  Gang& gang = gangs[id];
  gang.id = id;
  *gang.record.mutable_gang() = ask.gang();
  *gang.record.mutable_network() = network_of(ask);
  *gang.record.mutable_hardware() = ask.has_restore() ? ask.restore().hardware() : ask.start_guests().hardware();
  if (ask.has_start_guests()) gang.record.set_workdir(ask.start_guests().workdir());
  if (ask.has_restore()) {
    gang.record.set_restored_from(ask.epoch());
    for (const auto& image : ask.restore().images()) {  // the same in all of them
      gang.record.set_known_as_job(image.known_as_job());
      gang.record.set_known_as_epoch(image.known_as_epoch());
    }
  }
  const std::vector<std::uint32_t> guests = guests_of(ask);
  for (std::uint32_t guest : guests) {
    gang.record.add_guests(guest);
    gang.guests[guest].last_heard = now;
  }
  begin(gang, ask, guests);
  effects.push_back(PrepareGang{gang.record});
}

// The gang is there already: under way, done, or something else than what is asked for.
void Host::Impl::answer_made(Gang& gang, const ToHost& ask) {
  if (const auto running = gang.operations.find(request_key(ask)); running != gang.operations.end()) {
    running->second.waiters.push_back(ask.request());
    return;
  }
  const bool same = ask.has_restore() ? gang.record.restored_from() == ask.epoch() && ask.epoch() != 0
                                      : gang.record.restored_from() == 0;
  if (!same || !gang.settled())
    return answer_failure(ask, ask.request(),
                          {ErrorKind::refused, request_name(ask.body_case()), "job " + gang.id.job.value,
                           "this incarnation is here already, made another way"});
  Operation done;
  done.ask = ask;
  answer(ask, ask.request(), answer_of(gang, done));
}

GuestPlan Host::Impl::plan(const Gang& gang, std::uint32_t guest) const {
  GuestPlan plan{
      domain_of(gang.id, guest), gang.record.hardware(), gang.record.network().vni(), {}, {gang.record.known_as_job()}};
  for (const auto& place : gang.record.network().places())
    if (place.guest() == guest) plan.mac = place.mac();
  return plan;
}

void Host::Impl::gang_prepared(const GangPrepared& event) {
  Gang* gang = find(event.gang);
  if (gang == nullptr || gang->dying) return;
  gang->mtu = event.mtu;
  if (gang->settled()) {
    if (!event.status)
      log(Log::Level::error, "network of a running gang is not whole", gang->id, {}, event.status.error().message());
    return;
  }
  if (!event.status) return making_failed(*gang, gang->record.guests(0), event.status.error());
  for (const auto& [key, operation] : gang->operations) {
    if (operation.ask.has_start_guests())
      for (std::uint32_t guest : operation.waiting) effects.push_back(StartGuest{plan(*gang, guest)});
    else if (operation.ask.has_restore())
      for (const auto& image : operation.ask.restore().images()) {
        const auto& peers = operation.ask.restore().peers();
        effects.push_back(RestoreGuest{plan(*gang, image.guest()), image, {peers.begin(), peers.end()}});
      }
  }
}

void Host::Impl::making_failed(Gang& gang, std::uint32_t guest, const Error& error) {
  for (const auto& [key, operation] : gang.operations)
    if (operation.waiting.contains(guest) && !is_relayed(operation.ask)) return fail(gang, std::string(key), error);
}

void Host::Impl::guest_started(const GuestStarted& event) {
  Gang* gang = find(gang_of(event.id));
  if (gang == nullptr || gang->dying) return;
  if (!event.status) return making_failed(*gang, index_of(event.id), event.status.error());
  effects.push_back(OpenLink{event.id});  // its agent's hello is answered with the configuration
}

void Host::Impl::guest_restored(const GuestRestored& event) {
  Gang* gang = find(gang_of(event.id));
  if (gang == nullptr || gang->dying) return;
  if (!event.status) return making_failed(*gang, index_of(event.id), event.status.error());
  effects.push_back(OpenLink{event.id});
  for (const auto& [key, operation] : gang->operations)
    if (operation.ask.has_restore()) return guest_done(*gang, std::string(key), index_of(event.id), {});
}

void Host::Impl::resume_gang(Gang& gang, const ToHost& ask) {
  if (gang.record.stage() == record::Gang::RESUMED) {
    Operation done;
    done.ask = ask;
    return answer(ask, ask.request(), answer_of(gang, done));
  }
  if (gang.record.stage() != record::Gang::LOADED || gang.record.restored_from() != ask.epoch())
    return answer_failure(
        ask, ask.request(),
        {ErrorKind::refused, "resume", "job " + gang.id.job.value, "nothing of that epoch was restored here"});
  begin(gang, ask, gang.local());
  for (std::uint32_t guest : gang.local()) effects.push_back(ResumeGuest{domain_of(gang.id, guest)});
}

void Host::Impl::guest_resumed(const GuestResumed& event) {
  Gang* gang = find(gang_of(event.id));
  if (gang == nullptr || gang->dying) return;
  const std::uint32_t index = index_of(event.id);
  if (!event.status) return making_failed(*gang, index, event.status.error());
  gang->guests.at(index).last_heard = now;
  gang->held = Epoch{gang->record.restored_from()};
  for (const auto& [key, operation] : gang->operations) {
    if (!operation.ask.has_resume()) continue;
    wire::GuestRequest request;
    *request.mutable_gang() = gang->record.gang();
    request.set_epoch(gang->record.restored_from());
    request.mutable_adopt()->set_new_incarnation(gang->id.incarnation.value);
    return ask_guest(*gang, index, std::string(key), std::move(request), false);
  }
}

// ---- the record

void Host::Impl::store_record(Gang& gang) { effects.push_back(StoreRecord{gang.record, ++gang.version}); }

void Host::Impl::record_stored(const RecordStored& event) {
  Gang* gang = find(event.gang);
  if (gang == nullptr || gang->dying) return;
  if (!event.status) {
    log(Log::Level::error, "record not stored", gang->id, {}, event.status.error().message());
    // Being made, it would not survive a restart of the daemon: better to say so now.
    std::vector<std::string> waiting;
    for (const auto& [key, operation] : gang->operations)
      if (operation.stored_version == event.version || operation.needs_version == event.version) waiting.push_back(key);
    for (const auto& key : waiting) fail(*gang, key, event.status.error());
    if (gang->dying) return;
    for (auto& [epoch, capture] : gang->captures)
      if (capture.stored_version == event.version) capture.failure = event.status.error();
  } else {
    gang->durable_version = std::max(gang->durable_version, event.version);
    std::vector<std::string> waiting;
    for (const auto& [key, operation] : gang->operations)
      if (operation.stored_version != 0 && operation.stored_version <= event.version) waiting.push_back(key);
    for (const auto& key : waiting) finish(*gang, key);
  }
  for (auto& [epoch, capture] : gang->captures)
    if (capture.stored_version != 0 && capture.stored_version <= event.version && !capture.repeat_report &&
        !capture.discarded)
      images_durable(*gang, epoch);
}

// ---- going

void Host::Impl::destroy(const ToHost& ask) {
  const JobId job{ask.gang().job()};
  const Incarnation upto{ask.gang().incarnation()};
  destroyed[job] = std::max(destroyed[job], upto);
  std::erase_if(deferred, [&](const ToHost& other) {
    return other.gang().job() == job.value && other.gang().incarnation() <= upto.value;
  });
  destroy_waits.push_back({job, upto, ask});
  for (auto& [id, gang] : gangs) {
    if (id.job != job || id.incarnation > upto) continue;
    if (!gang.dying) {
      tear_down(gang, "the coordinator asked for it");
    } else if (gang.retry_removal) {  // it failed before; the coordinator's asking is a reason to try at once
      gang.retry_removal.reset();
      destroy_guests(gang);
    }
  }
  settle_destroy_waits(job, std::nullopt);
}

void Host::Impl::tear_down(Gang& gang, const std::string& why) {
  gang.dying = true;
  log(Log::Level::info, "gang is being removed", gang.id, {}, why);
  for (auto& [key, operation] : std::exchange(gang.operations, {}))
    for (std::uint64_t waiter : operation.waiters)
      answer_failure(operation.ask, waiter,
                     {ErrorKind::refused, request_name(operation.ask.body_case()), "job " + gang.id.job.value,
                      "the gang is being removed: " + why});
  gang.outstanding.clear();
  for (auto& [epoch, capture] : gang.captures)
    for (std::uint32_t guest : capture.running) effects.push_back(CancelCapture{domain_of(gang.id, guest), epoch});
  for (const auto& [index, guest] : gang.guests) effects.push_back(CloseLink{domain_of(gang.id, index)});
  destroy_guests(gang);
}

void Host::Impl::destroy_guests(Gang& gang) {
  for (const auto& [index, guest] : gang.guests) gang.undestroyed.insert(index);
  for (std::uint32_t index : gang.undestroyed) effects.push_back(DestroyGuest{domain_of(gang.id, index)});
}

void Host::Impl::guest_destroyed(const GuestDestroyed& event) {
  Gang* gang = find(gang_of(event.id));
  if (gang == nullptr || !gang->dying) return;
  if (!event.status) return removal_failed(*gang, event.status.error());
  gang->undestroyed.erase(index_of(event.id));
  if (gang->undestroyed.empty()) effects.push_back(RemoveGang{gang->id, gang->record.network().vni()});
}

void Host::Impl::gang_removed(const GangRemoved& event) {
  Gang* gang = find(event.gang);
  if (gang == nullptr || !gang->dying) return;
  if (!event.status) return removal_failed(*gang, event.status.error());
  for (const auto& [epoch, capture] : gang->captures)
    if (!capture.images.empty() && (capture.discarded || !capture.durable)) {
      note_stray(*gang, epoch);
      drop_discarded(*gang, epoch);
    }
  log(Log::Level::info, "gang removed", gang->id);
  const JobId job = event.gang.job;
  gangs.erase(event.gang);
  settle_destroy_waits(job, std::nullopt);
  for (const ToHost& ask : std::exchange(deferred, {})) {
    if (ask.gang().job() == job.value) coordinator_said(ask);
    else deferred.push_back(ask);
  }
}

void Host::Impl::removal_failed(Gang& gang, const Error& error) {
  log(Log::Level::error, "gang not removed yet", gang.id, {}, error.message());
  gang.retry_removal = now + settings.retry_removal;
  settle_destroy_waits(gang.id.job, error);
}

void Host::Impl::settle_destroy_waits(const JobId& job, const std::optional<Error>& failure) {
  std::vector<DestroyWait> left;
  for (DestroyWait& wait : destroy_waits) {
    const bool here = std::ranges::any_of(
        gangs, [&](const auto& entry) { return entry.first.job == wait.job && entry.first.incarnation <= wait.upto; });
    if (wait.job != job || (here && !failure)) {
      left.push_back(std::move(wait));
    } else if (here) {
      answer_failure(wait.ask, wait.ask.request(), *failure);
    } else {
      wire::FromHost message;
      message.mutable_done();
      answer(wait.ask, wait.ask.request(), std::move(message));
    }
  }
  destroy_waits = std::move(left);
}

}  // namespace stillpoint::node
