// What the coordinator asks: rejected if stale, attached to the same request under way, or begun.
#include <algorithm>

#include "common/framing.h"
#include "node-daemon/core/host_impl.h"

namespace stillpoint::node {

using wire::ToHost;

namespace {

constexpr std::size_t kAround = 4096;  // the gang's name and the like, around what a guest is asked

}  // namespace

void Host::Impl::coordinator_said(const ToHost& ask) {
  if (ask.has_welcome()) return on_welcome(ask.welcome());
  if (!welcomed) return;  // a coordinator that this host does not belong to, or one that skipped the introduction
  if (ask.has_ping()) return on_ping(ask.ping());
  if (ask.has_delete_images()) return delete_images(ask);
  if (ask.has_verify_images()) return verify_images(ask);
  if (ask.has_read_image() || ask.has_write_image() || ask.has_keep_images() || ask.has_keep_record() ||
      ask.has_read_records())
    return transfer(ask);
  if (ask.has_copy_images()) return copy_images(ask);
  if (ask.has_destroy()) return destroy(ask);

  const GangId id = gang_of(ask.gang());
  if (const Incarnation known = newest(id.job); id.incarnation < known)
    return answer_failure(ask, ask.request(),
                          {ErrorKind::refused, request_name(ask.body_case()), "job " + id.job.value,
                           "incarnation " + std::to_string(id.incarnation.value) + " is stale: this host knows " +
                               std::to_string(known.value)});
  if (ask.has_start_guests() || ask.has_restore()) return make_gang(ask);
  Gang* gang = find(id);
  if (gang == nullptr || gang->dying)
    return answer_failure(
        ask, ask.request(),
        {ErrorKind::not_found, request_name(ask.body_case()), "job " + id.job.value, "this host runs no guest of it"});
  gang_request(*gang, ask);
}

bool Gang::overtaken(const ToHost& ask) {
  const std::pair asked{Epoch{ask.epoch()}, ask.step()};
  if (ask.step() == 0 || asked.first < step.first) return false;  // an older epoch is refused for what it is
  if (asked < step) return true;
  step = asked;
  return false;
}

void Host::Impl::gang_request(Gang& gang, const ToHost& ask) {
  if (ask.has_ack_output()) {
    if (gang.guests.contains(0)) send_ack(gang, ask.ack_output().offset());
    return;
  }
  if (gang.overtaken(ask))
    return answer_failure(ask, ask.request(),
                          {ErrorKind::refused, request_name(ask.body_case()), "job " + gang.id.job.value,
                           "step " + std::to_string(ask.step()) + " of epoch " + std::to_string(ask.epoch()) +
                               " comes behind step " + std::to_string(gang.step.second)});
  const std::string key = request_key(ask);
  if (const auto running = gang.operations.find(key); running != gang.operations.end()) {
    running->second.waiters.push_back(ask.request());
    return;
  }
  if (!gang.settled())
    return answer_failure(ask, ask.request(),
                          {ErrorKind::refused, request_name(ask.body_case()), "job " + gang.id.job.value,
                           "its guests are still being made"});
  if (ask.has_prepare_capture()) return prepare_capture(gang, ask);
  if (ask.has_capture()) return capture_gang(gang, ask);
  if (ask.has_resume()) return resume_gang(gang, ask);
  if (is_relayed(ask)) return relay(gang, ask);
  answer_failure(ask, ask.request(),
                 {ErrorKind::refused, request_name(ask.body_case()), "job " + gang.id.job.value,
                  "this version does not know that request"});
}

// ---- requests that guests answer

namespace {

// A guest that came from another site answers to the job, and during its restore to the epoch, that it was captured in.
void name_as_known(const Gang& gang, wire::GuestRequest& request) {
  const auto& record = gang.record;
  if (!record.known_as_job().empty()) request.mutable_gang()->set_job(record.known_as_job());
  if (record.known_as_epoch() != 0 && request.epoch() == record.restored_from())
    request.set_epoch(record.known_as_epoch());
}

}  // namespace

void Host::Impl::send_ack(Gang& gang, std::uint64_t offset) {
  wire::GuestRequest request;
  *request.mutable_gang() = gang.record.gang();
  request.set_id(next_request++);
  request.mutable_output_ack()->set_offset(offset);
  name_as_known(gang, request);
  send_to_guest(gang.id, 0, std::move(request));
}

void Host::Impl::send_lease(const Gang& gang, std::uint32_t guest) {
  wire::GuestRequest request;
  *request.mutable_gang() = gang.record.gang();
  request.set_id(next_request++);
  request.mutable_host_lease();
  name_as_known(gang, request);
  send_to_guest(gang.id, guest, std::move(request));
}

// How long the lease lasts is said at each sending anew.
void Host::Impl::send_to_guest(const GangId& gang, std::uint32_t guest, wire::GuestRequest request, bool stamp_clock) {
  const auto left = last_word + lease() - now;
  if (left.count() > 0) request.set_lease_ms(static_cast<std::uint32_t>(left.count()));
  effects.push_back(SendToGuest{domain_of(gang, guest), std::move(request), stamp_clock});
}

void Host::Impl::relay(Gang& gang, const ToHost& ask) {
  const Epoch epoch{ask.epoch()};
  std::vector<std::uint32_t> targets = request_targets(ask, gang.local());
  if (targets.empty())
    return answer_failure(ask, ask.request(),
                          {ErrorKind::not_found, request_name(ask.body_case()), "job " + gang.id.job.value,
                           "the guest it is for is not on this host"});
  if (guest_request(ask, targets.front()).ByteSizeLong() + kAround > kMaxGuestPayload)
    return answer_failure(
        ask, ask.request(),
        {ErrorKind::refused, request_name(ask.body_case()), "job " + gang.id.job.value,
         "it is larger than a guest's channel takes: " + std::to_string(kMaxGuestPayload >> 10) + " KiB"});
  if (ask.has_release()) {
    if (ask.release().discard()) {
      discard(gang, epoch);
      if (gang.captures.contains(epoch)) effects.push_back(ReadTaps{gang.id, epoch});  // nobody listens any more
    }
    // Its answer may have been lost; the guests, no longer held, could only say so.
    if (gang.released && gang.released->first == epoch) {
      wire::FromHost message;
      *message.mutable_release() = gang.released->second;
      return answer(ask, ask.request(), std::move(message));
    }
  } else {
    for (std::uint32_t index : targets)
      if (gang.guests.at(index).lost && !ask.has_query())
        return answer_failure(
            ask, ask.request(),
            {ErrorKind::not_found, request_name(ask.body_case()),
             "guest " + std::to_string(index) + " of " + gang.id.job.value, gang.guests.at(index).lost_reason});
  }
  if (ask.has_answer_launch())
    std::erase_if(gang.launches,
                  [&](const auto& entry) { return entry.first.second == ask.answer_launch().outcome().launch(); });
  if (ask.has_close() || ask.has_freeze()) {
    gang.held = epoch;
    forget_older(gang, epoch);
  }
  std::erase_if(targets, [&](std::uint32_t index) { return gang.guests.at(index).lost; });
  const std::string key = request_key(ask);
  Operation& operation = begin(gang, ask, targets);
  if (targets.empty()) return finish(gang, key);
  if (ask.has_release() && !ask.release().discard() && gang.captures.contains(epoch)) {
    operation.awaits_taps = true;
    effects.push_back(ReadTaps{gang.id, epoch});
    return;  // taps_read() goes on
  }
  ask_operation_guests(gang, key, operation);
}

void Host::Impl::ask_operation_guests(Gang& gang, const std::string& key, Operation& operation) {
  const ToHost& ask = operation.ask;
  // A restored guest's clock stood still; one that was only held has kept its own.
  const bool restored = ask.epoch() != 0 && gang.record.restored_from() == ask.epoch();
  const bool stamp = ask.has_check_links() || (ask.has_release() && restored);
  for (std::uint32_t guest : std::set(operation.waiting)) ask_guest(gang, guest, key, guest_request(ask, guest), stamp);
}

Operation& Host::Impl::begin(Gang& gang, const ToHost& ask, const std::vector<std::uint32_t>& guests) {
  Operation& operation = gang.operations[request_key(ask)];
  operation.ask = ask;
  operation.waiters.push_back(ask.request());
  operation.waiting.insert(guests.begin(), guests.end());
  operation.deadline = now + request_deadline(ask);
  return operation;
}

void Host::Impl::ask_guest(Gang& gang, std::uint32_t guest, const std::string& key, wire::GuestRequest request,
                           bool stamp_clock) {
  request.set_id(next_request++);
  name_as_known(gang, request);
  send_to_guest(gang.id, guest, request, stamp_clock);
  const std::uint64_t id = request.id();
  gang.outstanding[id] = {guest, key, std::move(request), stamp_clock, now + settings.resend};
}

void Host::Impl::guest_done(Gang& gang, const std::string& key, std::uint32_t guest, wire::GuestReply reply) {
  const auto found = gang.operations.find(key);
  if (found == gang.operations.end() || found->second.waiting.erase(guest) == 0) return;
  found->second.replies[guest] = std::move(reply);
  if (!found->second.waiting.empty()) return;
  // What is being made is done when its record says so; everything else now.
  if (found->second.ask.has_start_guests() || found->second.ask.has_restore()) {
    gang.record.set_stage(found->second.ask.has_restore() ? record::Gang::LOADED : record::Gang::STARTED);
    tell_of_lease(gang);  // before anything of the job is begun in them
    return finish_when_stored(gang, key);
  }
  if (found->second.ask.has_resume() && gang.record.stage() == record::Gang::LOADED) {
    gang.record.set_stage(record::Gang::RESUMED);
    store_record(gang);
  }
  if (found->second.needs_version > gang.durable_version)
    found->second.stored_version = found->second.needs_version;  // record_stored() goes on
  else finish(gang, key);
}

void Host::Impl::finish_when_stored(Gang& gang, const std::string& key) {
  store_record(gang);
  gang.operations.at(key).stored_version = gang.version;
}

void Host::Impl::finish(Gang& gang, const std::string& key) {
  auto node = gang.operations.extract(key);
  Operation& operation = node.mapped();
  const wire::FromHost message = answer_of(gang, operation);
  if (operation.ask.has_release()) {
    gang.released = {Epoch{operation.ask.epoch()}, message.release()};
    gang.held = {};
    flatten_long_chains(gang);
    if (!message.release().held())
      log(Log::Level::warn, "released, but not held until then", gang.id, Epoch{operation.ask.epoch()});
  }
  if (operation.ask.has_start_guests()) log(Log::Level::info, "guests started", gang.id);
  if (operation.ask.has_restore()) log(Log::Level::info, "guests restored", gang.id, Epoch{operation.ask.epoch()});
  if (operation.ask.has_resume()) log(Log::Level::info, "guests resumed", gang.id, Epoch{operation.ask.epoch()});
  for (std::uint64_t waiter : operation.waiters) answer(operation.ask, waiter, message);
}

void Host::Impl::fail(Gang& gang, const std::string& key, const Error& error) {
  auto node = gang.operations.extract(key);
  if (node.empty()) return;
  const Operation& operation = node.mapped();
  std::erase_if(gang.outstanding, [&](const auto& entry) { return entry.second.operation == key; });
  log(Log::Level::warn, request_name(operation.ask.body_case()) + " failed", gang.id, Epoch{operation.ask.epoch()},
      error.message());
  for (std::uint64_t waiter : operation.waiters) answer_failure(operation.ask, waiter, error);
  if (operation.ask.has_start_guests() || operation.ask.has_restore())
    tear_down(gang, "it could not be made: " + error.message());
  else if (operation.ask.has_capture() || operation.ask.has_prepare_capture())
    capture_failed(gang, Epoch{operation.ask.epoch()}, error);
}

wire::FromHost Host::Impl::answer_of(Gang& gang, const Operation& operation) {
  const ToHost& ask = operation.ask;
  wire::FromHost message;
  if (ask.has_start_guests()) {
    for (const auto& [index, guest] : gang.guests) message.mutable_guests_started()->add_boot_ids(guest.boot_id);
  } else if (ask.has_capture()) {
    *message.mutable_capture() = capture_report(gang.captures.at(Epoch{ask.epoch()}));
  } else {
    message = combined_answer(ask, operation.replies);
    // A guest that is gone was not held, whatever the others say.
    const bool one_is_lost = std::ranges::any_of(gang.guests, [](const auto& entry) { return entry.second.lost; });
    if (ask.has_release() && one_is_lost) message.mutable_release()->set_held(false);
    if (ask.has_release() && operation.taps.packets != 0) {
      message.mutable_release()->set_packets(operation.taps.packets);
      message.mutable_release()->set_first_packet(operation.taps.first);
    }
  }
  return message;
}

// ---- words to the coordinator

void Host::Impl::answer(const ToHost& ask, std::uint64_t request, wire::FromHost message) {
  if (request == 0) return;  // nobody waits for it
  message.set_request(request);
  *message.mutable_gang() = ask.gang();
  message.set_epoch(ask.epoch());
  effects.push_back(SendToCoordinator{std::move(message)});
}

void Host::Impl::answer_failure(const ToHost& ask, std::uint64_t request, const Error& error) {
  wire::FromHost message;
  *message.mutable_failure() = to_wire(error);
  answer(ask, request, std::move(message));
}

void Host::Impl::say(const Gang& gang, Epoch epoch, wire::FromHost message) {
  if (!welcomed) return;  // repeat_news() or the agent says it again
  *message.mutable_gang() = gang.record.gang();
  message.set_epoch(epoch.value);
  effects.push_back(SendToCoordinator{std::move(message)});
}

}  // namespace stillpoint::node
