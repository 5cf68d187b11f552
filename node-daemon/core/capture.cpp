// Checkpoint images of this host's guests: captured, stored, reported, thrown away.
#include <algorithm>

#include "node-daemon/core/host_impl.h"

namespace stillpoint::node {

namespace {

constexpr std::size_t kMaxStrays = 256;  // epochs of a job

std::uint32_t index_of(const DomainId& id) { return static_cast<std::uint32_t>(id.guest.value); }

}  // namespace

wire::CaptureReport capture_report(const Capture& capture) {
  wire::CaptureReport report;
  for (const auto& [index, times] : capture.captured) {
    auto& guest = *report.add_guests();
    guest.set_guest(index);
    guest.set_pause_ms(times.pause_ms);
    guest.set_capture_ms(times.capture_ms);
  }
  return report;
}

bool Gang::disk_busy() const {
  return std::ranges::any_of(guests, [](const auto& entry) { return entry.second.flattening; }) ||
         std::ranges::any_of(captures, [](const auto& entry) { return !entry.second.running.empty(); });
}

std::optional<Error> Host::Impl::obstacle_to(const Gang& gang, Epoch epoch) const {
  const auto of_guest = [&](std::uint32_t index) {
    return "guest " + std::to_string(index) + " of " + gang.id.job.value;
  };
  for (const auto& [index, guest] : gang.guests)
    if (guest.lost) return Error{ErrorKind::not_found, "capture", of_guest(index), guest.lost_reason};
  const std::string object = "job " + gang.id.job.value;
  if (!gang.captures.empty() && gang.captures.rbegin()->first > epoch)
    return Error{ErrorKind::refused, "capture", object, "a newer epoch was captured already"};
  if (std::ranges::any_of(gang.captures,
                          [](const auto& e) { return !e.second.running.empty() && !e.second.discarded; }))
    return Error{ErrorKind::transient, "capture", object, "images of the epoch before are still being stored"};
  for (const auto& [index, guest] : gang.guests)
    if (guest.layers >= settings.max_layers)
      return Error{ErrorKind::transient, "capture", of_guest(index),
                   "its disk has " + std::to_string(guest.layers) +
                       " layers, which have to be joined before one more is added; try again later"};
  return std::nullopt;
}

// Why nothing more will come of a capture that was begun.
std::optional<Error> Capture::over(const GangId& gang) const {
  if (!discarded) return failure;
  return Error{ErrorKind::refused, "capture", "job " + gang.job.value, "this epoch was discarded here"};
}

// While the job works: what has to wait, for disk work or for the images of an epoch that was given up, waits here.
void Host::Impl::prepare_capture(Gang& gang, const wire::ToHost& ask) {
  const Epoch epoch{ask.epoch()};
  if (const auto found = gang.captures.find(epoch); found != gang.captures.end()) {
    if (const auto over = found->second.over(gang.id)) return answer_failure(ask, ask.request(), *over);
    wire::FromHost message;  // a request under way would have been joined: it was answered before
    message.mutable_done();
    return answer(ask, ask.request(), std::move(message));
  }
  // It came late: nobody would ever end it.
  if (epoch <= gang.given_up)
    return answer_failure(
        ask, ask.request(),
        {ErrorKind::refused, "prepare", "job " + gang.id.job.value, "this epoch was given up before"});
  discard_prepared_before(gang, epoch);
  if (const auto obstacle = obstacle_to(gang, epoch)) return answer_failure(ask, ask.request(), *obstacle);
  forget_older(gang, epoch);
  Capture& capture = gang.captures[epoch];
  // Durable before anybody counts on images: whoever finds the record knows that some may be there.
  gang.record.set_capturing(epoch.value);
  store_record(gang);
  begin(gang, ask, gang.local()).needs_version = gang.version;
  for (std::uint32_t guest : gang.local()) {
    capture.running.insert(guest);
    effects.push_back(PrepareCapture{domain_of(gang.id, guest), epoch, ask.prepare_capture().durability()});
  }
}

void Host::Impl::guest_ready(const GuestReady& event) {
  Gang* gang = find_settled(event.id);
  if (gang == nullptr) return;
  for (const auto& [key, operation] : gang->operations)
    if (operation.ask.has_prepare_capture() && operation.ask.epoch() == event.epoch.value)
      return guest_done(*gang, std::string(key), index_of(event.id), {});
}

void Host::Impl::capture_gang(Gang& gang, const wire::ToHost& ask) {
  const Epoch epoch{ask.epoch()};
  const auto found = gang.captures.find(epoch);
  if (found == gang.captures.end())
    return answer_failure(ask, ask.request(),
                          {ErrorKind::refused, "capture", "job " + gang.id.job.value, "it was not prepared here"});
  Capture& capture = found->second;
  if (const auto over = capture.over(gang.id)) return answer_failure(ask, ask.request(), *over);
  if (capture.taken) {  // a request under way would have been joined: it was answered before
    wire::FromHost message;
    *message.mutable_capture() = capture_report(capture);
    return answer(ask, ask.request(), std::move(message));
  }
  capture.taken = true;
  begin(gang, ask, gang.local());
  // All hosts are frozen and verified by now, and none lets go before all are captured: what the taps carry from here
  // to the release was sent against the cut.
  effects.push_back(WatchTaps{gang.id, gang.record.network().vni(), epoch});
  for (std::uint32_t guest : gang.local()) effects.push_back(TakeInstant{domain_of(gang.id, guest), epoch});
}

void Host::Impl::guest_captured(const GuestCaptured& event) {
  Gang* gang = find_settled(event.id);
  if (gang == nullptr || !gang->captures.contains(event.epoch)) return;
  Capture& capture = gang->captures.at(event.epoch);
  if (capture.failure || capture.discarded) return;
  capture.captured[index_of(event.id)] = event.times;
  for (const auto& [key, operation] : gang->operations) {
    if (!operation.ask.has_capture() || operation.ask.epoch() != event.epoch.value) continue;
    if (operation.waiting.size() == 1) {
      log(Log::Level::info, "captured", gang->id, event.epoch);
      capture.reported = true;
    }
    return guest_done(*gang, std::string(key), index_of(event.id), {});
  }
}

void Host::Impl::taps_read(const TapsRead& event) {
  Gang* gang = find(event.gang);
  if (gang == nullptr || gang->dying) return;
  if (event.packets != 0)
    log(Log::Level::error, "packets during the hold", gang->id, event.epoch,
        std::to_string(event.packets) + ", the first: " + event.first);
  for (auto& [key, operation] : gang->operations) {
    if (!operation.awaits_taps || operation.ask.epoch() != event.epoch.value) continue;
    operation.awaits_taps = false;
    operation.taps = event;
    return ask_operation_guests(*gang, key, operation);
  }
}

void Host::Impl::guest_stored(const GuestStored& event) {
  Gang* gang = find(gang_of(event.id));
  if (gang == nullptr || !gang->captures.contains(event.epoch)) return;
  const std::uint32_t index = index_of(event.id);
  Capture& capture = gang->captures.at(event.epoch);
  capture.running.erase(index);
  if (event.layers > 0) gang->guests.at(index).layers = event.layers;
  gang->guests.at(index).last_heard = now;
  if (event.image) {
    auto& image = capture.images[index] = *event.image;
    image.set_known_as_job(gang->record.known_as_job());
  } else if (!capture.discarded && !gang->dying) {
    capture_failed(*gang, event.epoch, event.image.error());
  }
  if (gang->dying) return;  // gang_removed() clears up
  if (!capture.running.empty()) return;
  if (capture.discarded || capture.failure) {
    note_stray(*gang, event.epoch);
    drop_discarded(*gang, event.epoch);
    flatten_long_chains(*gang);  // every attempt adds a layer, one that failed too
  } else {
    gang->record.clear_capturing();
    auto& stored = *gang->record.mutable_stored();
    stored.Clear();
    stored.set_epoch(event.epoch.value);
    *stored.mutable_capture() = capture_report(capture);
    for (const auto& [guest, image] : capture.images) *stored.add_images() = image;
    store_record(*gang);
    capture.stored_version = gang->version;  // then images_durable()
  }
}

void Host::Impl::capture_failed(Gang& gang, Epoch epoch, const Error& error) {
  const auto found = gang.captures.find(epoch);
  if (found == gang.captures.end() || found->second.failure || found->second.discarded) return;
  Capture& capture = found->second;
  capture.failure = error;
  for (std::uint32_t guest : capture.running) effects.push_back(CancelCapture{domain_of(gang.id, guest), epoch});
  std::vector<std::string> keys;
  for (const auto& [key, operation] : gang.operations)
    if ((operation.ask.has_capture() || operation.ask.has_prepare_capture()) && operation.ask.epoch() == epoch.value)
      keys.push_back(key);
  for (const auto& key : keys) fail(gang, key, error);
  if (!capture.reported) return;
  log(Log::Level::warn, "images not stored", gang.id, epoch, error.message());
  capture.repeat_report = true;
  report_images(gang, epoch);
}

void Host::Impl::images_durable(Gang& gang, Epoch epoch) {
  Capture& capture = gang.captures.at(epoch);
  capture.repeat_report = true;
  capture.durable = !capture.failure;
  if (capture.durable) log(Log::Level::info, "images stored", gang.id, epoch);
  report_images(gang, epoch);
  flatten_long_chains(gang);
}

void Host::Impl::report_images(Gang& gang, Epoch epoch) {
  const Capture& capture = gang.captures.at(epoch);
  wire::FromHost message;
  auto& report = *message.mutable_images();
  if (capture.failure) *report.mutable_failure() = to_wire(*capture.failure);
  else
    for (const auto& [guest, image] : capture.images) *report.add_images() = image;
  say(gang, epoch, std::move(message));
}

// ---- throwing away

// The attempt was aborted: what it left here goes, now or as soon as the streams under way have ended.
void Host::Impl::discard(Gang& gang, Epoch epoch) {
  discard_prepared_before(gang, epoch);
  gang.given_up = std::max(gang.given_up, epoch);
  const auto found = gang.captures.find(epoch);
  if (found == gang.captures.end() || found->second.discarded) return;
  Capture& capture = found->second;
  capture.discarded = true;
  capture.repeat_report = false;
  for (std::uint32_t guest : capture.running) effects.push_back(CancelCapture{domain_of(gang.id, guest), epoch});
  std::vector<std::string> keys;
  for (const auto& [key, operation] : gang.operations)
    if ((operation.ask.has_capture() || operation.ask.has_prepare_capture()) && operation.ask.epoch() == epoch.value)
      keys.push_back(key);
  for (const auto& key : keys)
    fail(gang, key, {ErrorKind::refused, "capture", "job " + gang.id.job.value, "the coordinator gave this epoch up"});
  if (gang.record.stored().epoch() == epoch.value) {
    gang.record.clear_stored();
    store_record(gang);
  }
  if (capture.running.empty()) drop_discarded(gang, epoch);
}

// A job's attempts come one after the other: the instant of an older one will not be asked for any more. Its end may
// never be said here: a coordinator that starts again speaks of the newest attempt alone.
void Host::Impl::discard_prepared_before(Gang& gang, Epoch epoch) {
  std::vector<Epoch> waiting;
  for (const auto& [older, capture] : gang.captures)
    if (older < epoch && !capture.taken && !capture.discarded && !capture.failure) waiting.push_back(older);
  for (const Epoch older : waiting) discard(gang, older);
}

void Host::Impl::drop_discarded(Gang& gang, Epoch epoch) {
  Capture& capture = gang.captures.at(epoch);
  capture.images.clear();
  effects.push_back(DeleteImages{gang.id.job, {epoch}, false, 0});
}

// An image was stored here, and perhaps copied to a partner, whose epoch had been given up by then: the partner may
// have deleted what it had before the copy came. Images that all know of are deleted by all.
void Host::Impl::note_stray(const Gang& gang, Epoch epoch) {
  if (!settings.store_is_own || gang.captures.at(epoch).images.empty()) return;
  auto& known = strays[gang.id.job];
  if (known.size() >= kMaxStrays || !known.insert(epoch).second) return;
  if (welcomed) effects.push_back(ListImages{});  // else with the next welcome
}

// A newer attempt has begun: nobody will ask for the older ones' reports again.
void Host::Impl::forget_older(Gang& gang, Epoch epoch) {
  std::erase_if(gang.captures,
                [epoch](const auto& entry) { return entry.first < epoch && entry.second.running.empty(); });
}

void Host::Impl::delete_images(const wire::ToHost& ask) {
  const std::uint64_t token = next_token++;
  DeleteImages work{{ask.gang().job()}, {}, ask.delete_images().all_hosts(), token};
  for (const std::string& lost : ask.delete_images().lost_hosts()) work.lost_hosts.push_back({lost});
  for (std::uint64_t number : ask.delete_images().epochs()) {
    work.epochs.push_back(Epoch{number});
    if (const auto known = strays.find(work.job); known != strays.end()) known->second.erase(Epoch{number});
    for (auto& [id, gang] : gangs)
      if (id.job == work.job && !gang.dying) discard(gang, Epoch{number});
  }
  std::erase_if(strays, [](const auto& entry) { return entry.second.empty(); });
  deletions[token] = ask;
  effects.push_back(std::move(work));
}

void Host::Impl::images_deleted(const ImagesDeleted& event) {
  if (!event.status) log(Log::Level::warn, "images not deleted", {}, {}, event.status.error().message());
  auto node = deletions.extract(event.token);
  if (node.empty()) return;
  if (!event.status) return answer_failure(node.mapped(), node.mapped().request(), event.status.error());
  wire::FromHost message;
  message.mutable_done()->set_freed_bytes(event.freed_bytes);
  answer(node.mapped(), node.mapped().request(), std::move(message));
}

// ---- the disk chain

// After an upload, an attempt that failed, a release: never while anything else is being done with the disk, nor while
// the gang is held, which would be for longer then.
void Host::Impl::flatten_long_chains(Gang& gang) {
  if (gang.disk_busy() || gang.held.value != 0) return;
  for (auto& [index, guest] : gang.guests) {
    if (guest.lost || guest.layers < settings.flatten_layers) continue;
    guest.flattening = true;
    effects.push_back(FlattenDisk{domain_of(gang.id, index)});
  }
}

void Host::Impl::disk_flattened(const DiskFlattened& event) {
  Gang* gang = find_settled(event.id);
  if (gang == nullptr) return;
  Guest& guest = gang->guests.at(index_of(event.id));
  guest.flattening = false;
  if (event.status) guest.layers = 2;
  else log(Log::Level::warn, "disk chain not shortened", gang->id, {}, event.status.error().message());
}

}  // namespace stillpoint::node
