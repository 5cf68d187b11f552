#include "node-daemon/core/host.h"

#include <algorithm>

#include "node-daemon/core/host_impl.h"
#include "node-daemon/core/invariants.h"

namespace stillpoint::node {

Host::Host(HostSettings settings)
    : impl_(std::make_unique<Impl>(std::move(settings))), invariants_(std::make_unique<Invariants>()) {}
Host::~Host() = default;

Effects Host::start(HostFindings found, Time now) {
  impl_->now = now;
  // Where nobody knows when the coordinator last spoke the lease counts from here.
  impl_->last_word = std::min(found.last_word.value_or(now), now);
  impl_->take_up(std::move(found));
  impl_->check_lease();
  return checked(std::exchange(impl_->effects, {}));
}

Effects Host::step(Event event, Time now) {
  impl_->now = std::max(impl_->now, now);
  impl_->check_lease();  // first: what comes too late must not be taken for a word in time
  impl_->handle(event);
  return checked(std::exchange(impl_->effects, {}));
}

Effects Host::checked(Effects effects) {
  if (impl_->settings.check_invariants) invariants_->check(impl_->gangs, impl_->destroyed, effects);
  return effects;
}

std::vector<std::string> Host::broken_invariants() const { return invariants_->broken(); }

std::optional<Time> Host::next_deadline() const { return impl_->next_deadline(); }

void Host::Impl::log(Log::Level level, std::string what, const GangId& gang, Epoch epoch, std::string detail) {
  effects.push_back(Log{level, std::move(what), gang, epoch, std::move(detail)});
}

milliseconds Host::Impl::lease() const {
  return host.lease_ms() > 0 ? milliseconds(host.lease_ms()) : settings.default_lease;
}

void Host::Impl::handle(Event& event) {
  std::visit(
      [this](auto& e) {
        using E = std::decay_t<decltype(e)>;
        if constexpr (std::is_same_v<E, Connected>) on_connected();
        else if constexpr (std::is_same_v<E, Disconnected>) on_disconnected();
        else if constexpr (std::is_same_v<E, CoordinatorSaid>) coordinator_said(e.message);
        else if constexpr (std::is_same_v<E, LinkOpened>) {
          if (Gang* gang = find_settled(e.id))
            gang->guests.at(static_cast<std::uint32_t>(e.id.guest.value)).last_heard = now;
          if (Gang* gang = find(gang_of(e.id))) resend(*gang, static_cast<std::uint32_t>(e.id.guest.value));
        } else if constexpr (std::is_same_v<E, GuestSaid>) guest_said(e.id, e.message);
        else if constexpr (std::is_same_v<E, DomainEnded>) {
          Gang* gang = find(gang_of(e.id));
          if (gang != nullptr && !gang->dying)
            guest_lost(*gang, static_cast<std::uint32_t>(e.id.guest.value), e.reason);
        } else if constexpr (std::is_same_v<E, DomainStopped>) guest_stopped(e);
        else if constexpr (std::is_same_v<E, GuestContinued>) guest_continued(e);
        else if constexpr (std::is_same_v<E, GangPrepared>) gang_prepared(e);
        else if constexpr (std::is_same_v<E, RecordStored>) record_stored(e);
        else if constexpr (std::is_same_v<E, HostStored>) host_stored(e);
        else if constexpr (std::is_same_v<E, GuestStarted>) guest_started(e);
        else if constexpr (std::is_same_v<E, GuestRestored>) guest_restored(e);
        else if constexpr (std::is_same_v<E, GuestResumed>) guest_resumed(e);
        else if constexpr (std::is_same_v<E, GuestReady>) guest_ready(e);
        else if constexpr (std::is_same_v<E, GuestCaptured>) guest_captured(e);
        else if constexpr (std::is_same_v<E, GuestStored>) guest_stored(e);
        else if constexpr (std::is_same_v<E, DiskFlattened>) disk_flattened(e);
        else if constexpr (std::is_same_v<E, GuestDestroyed>) guest_destroyed(e);
        else if constexpr (std::is_same_v<E, GangRemoved>) gang_removed(e);
        else if constexpr (std::is_same_v<E, TapsRead>) taps_read(e);
        else if constexpr (std::is_same_v<E, ImagesDeleted>) images_deleted(e);
        else if constexpr (std::is_same_v<E, ImagesListed>) images_listed(std::move(e));
        else if constexpr (std::is_same_v<E, ImagesVerified>) images_verified(e);
        else if constexpr (std::is_same_v<E, ImageTransferred>) image_transferred(e);
        else if constexpr (std::is_same_v<E, ImagesCopied>) images_copied(e);
        else if constexpr (std::is_same_v<E, HostFigures>) figures = e;
        else {
          static_assert(std::is_same_v<E, Tick>);
          tick();
        }
      },
      event);
}

// ---- what a starting daemon finds

void Host::Impl::take_up(HostFindings found) {
  host = found.host;
  figures = found.figures;
  std::set<DomainId> running(found.running.begin(), found.running.end());
  for (auto& record : found.gangs) {
    const GangId id = gang_of(record.gang());
    Gang& gang = gangs[id];
    gang.id = id;
    gang.record = std::move(record);
    for (std::uint32_t index : gang.record.guests()) {
      Guest& guest = gang.guests[index];
      guest.last_heard = now;
      if (running.erase(domain_of(id, index)) == 0) {
        guest.lost = true;
        guest.lost_reason = "its machine was not running any more when the node daemon started";
      }
    }
    if (!gang.settled()) {
      tear_down(gang, "the node daemon stopped while it was being made");
      continue;
    }
    if (gang.record.has_stored()) {
      Capture& capture = gang.captures[Epoch{gang.record.stored().epoch()}];
      for (const auto& guest : gang.record.stored().capture().guests())
        capture.captured[guest.guest()] = {guest.pause_ms(), guest.capture_ms()};
      for (const auto& image : gang.record.stored().images()) capture.images[image.guest()] = image;
      capture.taken = capture.reported = capture.durable = capture.repeat_report = true;
    }
    if (const Epoch lost{gang.record.capturing()}; lost.value != 0) {
      Capture& capture = gang.captures[lost];
      capture.failure = Error{ErrorKind::transient, "store images", "job " + id.job.value,
                              "the node daemon stopped before they were durable"};
      capture.taken = capture.reported = capture.repeat_report = true;
      drop_discarded(gang, lost);
    }
    effects.push_back(PrepareGang{gang.record});  // its network, should it be gone
    for (const auto& [index, guest] : gang.guests)
      if (!guest.lost) effects.push_back(OpenLink{domain_of(id, index)});
    log(Log::Level::info, "gang taken up", id);
  }
  for (const DomainId& id : running) {
    log(Log::Level::warn, "domain without a record destroyed", gang_of(id), {}, name_of(id));
    effects.push_back(DestroyGuest{id});
  }
}

// ---- the coordinator's session

void Host::Impl::on_connected() {
  connected = true;
  welcomed = false;
  last_said = now;
  last_ping = 0;
  wire::FromHost message;
  *message.mutable_hello() = hello();
  effects.push_back(SendToCoordinator{std::move(message)});
}

void Host::Impl::on_disconnected() {
  connected = welcomed = false;
  // Request ids belong to a session: an answer on a later one would be taken for another request's.
  for (auto& [id, gang] : gangs)
    for (auto& [key, operation] : gang.operations) operation.waiters.clear();
  for (auto& [token, work] : image_work) work.waiters.clear();
  for (auto& [token, transfer] : transfers) transfer.request = 0;
  destroy_waits.clear();
  deletions.clear();
  deferred.clear();
}

wire::HostHello Host::Impl::hello() const {
  wire::HostHello hello;
  hello.set_protocol(1);
  hello.set_host(settings.name.value);
  hello.set_address(settings.address);
  hello.set_accelerator(settings.probe.accelerator == Accelerator::kvm ? "kvm" : "tcg");
  hello.set_accelerator_reason(settings.probe.accelerator_reason);
  hello.set_capture_mode(settings.probe.capture_mode == CaptureMode::background_snapshot ? "background-snapshot"
                                                                                         : "paused-save");
  hello.set_capture_reason(settings.probe.capture_reason);
  hello.set_cpus(settings.cpus);
  hello.set_memory_bytes(settings.memory_bytes);
  hello.set_memory_free_bytes(figures.memory_free);
  hello.set_image_free_bytes(figures.image_free);
  *hello.mutable_store() = figures.store;
  hello.set_version(settings.version);
  hello.set_pid(settings.pid);
  hello.set_store_id(settings.store_id);
  hello.set_store_is_own(settings.store_is_own);
  hello.set_store_endpoint(settings.store_endpoint);
  hello.set_object_store(settings.object_store);
  hello.set_domain(settings.domain);
  for (const auto& [id, gang] : gangs) {
    if (gang.dying) continue;
    auto& presence = *hello.add_gangs();
    *presence.mutable_gang() = gang.record.gang();
    for (const auto& [index, guest] : gang.guests)
      if (!guest.lost) presence.add_guests(index);
    presence.set_held_epoch(gang.held.value);
    for (const auto& [epoch, capture] : gang.captures) {
      if (capture.discarded || capture.failure || !capture.taken) continue;
      presence.set_captured_epoch(epoch.value);  // the newest stays
    }
  }
  return hello;
}

void Host::Impl::on_welcome(const wire::Welcome& welcome) {
  if (!host.coordinator().empty() && host.coordinator() != welcome.coordinator()) {
    effects.push_back(DropCoordinator{"it is coordinator " + welcome.coordinator() + ", but this host belongs to " +
                                      host.coordinator() +
                                      "; remove host.record from the state directory to let it change"});
    return;
  }
  if (welcomed) return log(Log::Level::warn, "a second welcome in one session");
  if (host.coordinator() != welcome.coordinator() || host.lease_ms() != welcome.lease_ms()) {
    host.set_coordinator(welcome.coordinator());
    host.set_lease_ms(welcome.lease_ms());
    store_host();
  }
  heard();  // the lease that guests are told of is the new one
  welcomed = true;
  repeat_news();
  effects.push_back(ListImages{});  // the coordinator says which of them should have gone while this host was away
}

// One that comes twice tells nothing of whether its pong arrived.
void Host::Impl::on_ping(const wire::Ping& ping) {
  if (ping.number() <= last_ping)
    return log(Log::Level::warn, "ping not answered", {}, {}, "its number is not above the last one of this session");
  last_ping = ping.number();
  heard();
  last_said = now;
  wire::FromHost message;
  auto& pong = *message.mutable_pong();
  pong.set_number(ping.number());
  pong.set_memory_free_bytes(figures.memory_free);
  pong.set_image_free_bytes(figures.image_free);
  *pong.mutable_store() = figures.store;
  effects.push_back(SendToCoordinator{std::move(message)});
}

// What the coordinator may have missed while it was not there.
void Host::Impl::repeat_news() {
  for (auto& [id, gang] : gangs) {
    if (gang.dying) continue;
    for (const auto& [index, guest] : gang.guests) {
      if (!guest.lost) continue;
      wire::FromHost message;
      message.mutable_guest_lost()->set_guest(index);
      message.mutable_guest_lost()->set_reason(guest.lost_reason);
      say(gang, {}, std::move(message));
    }
    for (const auto& failed : gang.rank_failures) {
      wire::FromHost message;
      *message.mutable_rank_lost()->mutable_rank() = failed;
      say(gang, {}, std::move(message));
    }
    for (const auto& [key, launch] : gang.launches) {
      wire::FromHost message;
      message.mutable_launch()->set_guest(key.first);
      *message.mutable_launch()->mutable_launch() = launch;
      say(gang, {}, std::move(message));
    }
    if (gang.record.has_exited()) {
      wire::FromHost message;
      *message.mutable_job_ended()->mutable_exited() = gang.record.exited();
      say(gang, {}, std::move(message));
    }
    for (const auto& [epoch, capture] : gang.captures)
      if (capture.repeat_report) report_images(gang, epoch);
  }
}

// ---- time

void Host::Impl::check_lease() {
  if (now - last_word < lease()) return;
  bool any = false;
  for (auto& [id, gang] : gangs) {
    if (gang.dying) continue;
    any = true;
    tear_down(gang, "the coordinator was silent for longer than the lease; it may have restarted the job elsewhere");
  }
  // The session may outlive the silence, and then nothing would ever tell the coordinator: the next hello does.
  if (any && connected) effects.push_back(DropCoordinator{"it was silent for longer than the lease"});
}

void Host::Impl::heard() {
  last_word = std::max(last_word, last_said);
  // With the lease of before, which may be longer, a successor would have the gangs live for longer than the
  // coordinator waits: it gets no newer word than its lease goes with.
  if (hosts_under_way == 0 && !host_is_stored) store_host();
  if (hosts_under_way == 0) effects.push_back(StoreLastWord{last_word});
  tell_of_lease();
}

void Host::Impl::store_host() {
  host_is_stored = false;
  ++hosts_under_way;
  effects.push_back(StoreHost{host});
}

void Host::Impl::host_stored(const HostStored& event) {
  host_is_stored = event.status.has_value();
  if (--hosts_under_way == 0 && host_is_stored) effects.push_back(StoreLastWord{last_word});
  if (!event.status)
    log(Log::Level::error, "host record not stored", {}, {},
        event.status.error().message() + "; until it is, a restart of this daemon may end its guests");
}

// Should this daemon die or stand still, agents end what it cannot end when the lease is over. They count from their
// last word.
void Host::Impl::tell_of_lease() {
  for (const auto& [id, gang] : gangs) tell_of_lease(gang);
}

void Host::Impl::tell_of_lease(const Gang& gang) {
  if (!gang.settled()) return;
  for (const auto& [index, guest] : gang.guests)
    if (!guest.lost && guest.watches_lease) send_lease(gang, index);
}

void Host::Impl::tick() {
  for (auto& [id, gang] : gangs) {
    if (gang.dying) {
      if (gang.retry_removal && *gang.retry_removal <= now) {
        gang.retry_removal.reset();
        destroy_guests(gang);
      }
      continue;
    }
    std::vector<std::string> late;
    for (const auto& [key, operation] : gang.operations)
      if (operation.deadline <= now && operation.stored_version == 0) late.push_back(key);
    for (const auto& key : late) {
      const auto found = gang.operations.find(key);
      if (found == gang.operations.end()) continue;  // ended by the failure of another
      std::string silent;
      for (std::uint32_t guest : found->second.waiting)
        silent += (silent.empty() ? "guest " : ", guest ") + std::to_string(guest);
      fail(gang, key,
           {ErrorKind::deadline, request_name(found->second.ask.body_case()), "job " + id.job.value,
            "no answer in time from " + silent});
    }
    for (auto& [request, waiting] : gang.outstanding) {
      if (waiting.next_send > now) continue;
      waiting.next_send = now + settings.resend;
      send_to_guest(id, waiting.guest, waiting.request, waiting.stamp_clock);
    }
    watch_guests(gang);
  }
}

std::optional<Time> Host::Impl::next_deadline() const {
  std::optional<Time> next;
  auto at = [&next](Time time) { next = next ? std::min(*next, time) : time; };
  for (const auto& [id, gang] : gangs) {
    if (gang.dying) {
      if (gang.retry_removal) at(*gang.retry_removal);
      continue;
    }
    at(last_word + lease());
    for (const auto& [key, operation] : gang.operations)
      if (operation.stored_version == 0) at(operation.deadline);
    for (const auto& [request, waiting] : gang.outstanding) at(waiting.next_send);
    for (const auto& [index, guest] : gang.guests) {
      const Time probe = guest.last_heard + settings.probe_after;
      if (!guest.lost && gang.settled()) at(probe > now ? probe : now + settings.resend);
      if (!guest.lost && guest.next_try) at(*guest.next_try);
    }
  }
  return next;
}

}  // namespace stillpoint::node
