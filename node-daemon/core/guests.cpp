// What agents say, and what their silence means.
#include <algorithm>

#include "node-daemon/core/host_impl.h"

namespace stillpoint::node {
namespace {

constexpr std::string_view kLeaseAbility = "lease";
constexpr std::size_t kMaxNews = 256;  // launches or rank failures kept for a coordinator that is away

}  // namespace

void Host::Impl::guest_said(const DomainId& id, const wire::FromGuest& message) {
  Gang* gang = find(gang_of(id));
  const auto index = static_cast<std::uint32_t>(id.guest.value);
  if (gang == nullptr || gang->dying || !gang->guests.contains(index) || gang->guests.at(index).lost) return;
  Guest& guest = gang->guests.at(index);
  guest.last_heard = now;
  if (guest.stopped && !guest.next_try) {
    guest.stopped.reset();
    log(Log::Level::info, "machine goes on", gang->id, {}, "guest " + std::to_string(index));
  }
  if (message.has_reply()) return guest_reply(*gang, message.reply());
  if (message.has_hello()) return guest_hello(*gang, index, message.hello());
  // What the guest says by itself counts only under its present incarnation: a restored agent that has not adopted it
  // yet still speaks as the old one, and says it again afterwards.
  if (message.gang().incarnation() != gang->id.incarnation.value) return;

  wire::FromHost news;
  if (message.has_output()) {
    news.mutable_output()->set_guest(index);
    *news.mutable_output()->mutable_output() = message.output();
  } else if (message.has_launch()) {
    if (gang->launches.size() >= kMaxNews) return;
    gang->launches[{index, message.launch().launch()}] = message.launch();
    news.mutable_launch()->set_guest(index);
    *news.mutable_launch()->mutable_launch() = message.launch();
  } else if (message.has_exited()) {
    if (!gang->record.has_exited()) {
      log(Log::Level::info, "program ended", gang->id, {}, "exit code " + std::to_string(message.exited().exit_code()));
      *gang->record.mutable_exited() = message.exited();
      store_record(*gang);
    }
    *news.mutable_job_ended()->mutable_exited() = message.exited();
  } else if (message.has_rank_failed()) {
    if (gang->rank_failures.size() < kMaxNews) gang->rank_failures.push_back(message.rank_failed());
    log(Log::Level::warn, "rank failed", gang->id, {}, "rank " + std::to_string(message.rank_failed().rank()));
    *news.mutable_rank_lost()->mutable_rank() = message.rank_failed();
  } else if (message.has_rank_wish()) {
    *news.mutable_rank_wished()->mutable_wish() = message.rank_wish();
  } else {
    return;
  }
  say(*gang, {}, std::move(news));
}

void Host::Impl::guest_hello(Gang& gang, std::uint32_t index, const wire::GuestHello& hello) {
  Guest& guest = gang.guests.at(index);
  // Another boot of a machine that was already configured: what ran in it is gone.
  if (!guest.boot_id.empty() && !hello.boot_id().empty() && guest.boot_id != hello.boot_id())
    return guest_lost(gang, index, "it was booted again by itself");
  guest.boot_id = hello.boot_id();
  guest.watches_lease = std::ranges::find(hello.abilities(), kLeaseAbility) != hello.abilities().end();
  if (guest.watches_lease && gang.settled()) send_lease(gang, index);
  const auto& record = gang.record;
  const bool by_other_name = record.known_as_epoch() != 0 && hello.epoch() == record.known_as_epoch();
  const Epoch held{by_other_name ? record.restored_from() : hello.epoch()};
  if (hello.phase() == wire::GuestHello::HELD && gang.settled()) gang.held = std::max(gang.held, held);
  if (gang.record.stage() == record::Gang::MAKING && gang.record.restored_from() == 0) return configure(gang, index);
  resend(gang, index);
}

void Host::Impl::configure(Gang& gang, std::uint32_t index) {
  std::string key;
  for (const auto& [k, operation] : gang.operations)
    if (operation.ask.has_start_guests() && operation.waiting.contains(index)) key = k;
  if (key.empty()) return;
  const bool asked =
      std::ranges::any_of(gang.outstanding, [&](const auto& entry) { return entry.second.guest == index; });
  if (asked) return resend(gang, index);
  wire::GuestRequest request;
  *request.mutable_gang() = gang.record.gang();
  auto& configure = *request.mutable_configure();
  configure.set_guest(index);
  configure.set_prefix_length(gang.record.network().prefix_length());
  configure.set_workdir(gang.record.workdir());
  configure.set_mtu(gang.mtu);
  for (const auto& place : gang.record.network().places()) {
    auto& neighbour = *configure.add_gang();
    neighbour.set_guest(place.guest());
    neighbour.set_name(place.name());
    neighbour.set_ip(place.ip());
    neighbour.set_mac(place.mac());
  }
  ask_guest(gang, index, key, std::move(request), true);
}

void Host::Impl::guest_reply(Gang& gang, const wire::GuestReply& reply) {
  auto node = gang.outstanding.extract(reply.id());
  if (node.empty()) return;  // the second answer to something that was sent twice
  const Outstanding& waiting = node.mapped();
  if (waiting.operation.empty()) return;
  if (reply.has_failure()) {
    const Error said = from_wire(reply.failure());
    const auto found = gang.operations.find(waiting.operation);
    if (found == gang.operations.end()) return;
    // Every guest is let go, whatever one of them says.
    if (found->second.ask.has_release()) return guest_done(gang, waiting.operation, waiting.guest, {});
    // An agent in an image from before there was such a request; it examines when its gates are shut.
    if (found->second.ask.has_examine() && said.step == "take a request" && said.cause == "this agent does not know it")
      return guest_done(gang, waiting.operation, waiting.guest, {});
    const std::string name = "guest " + std::to_string(waiting.guest) + " of " + gang.id.job.value;
    return fail(gang, waiting.operation,
                {said.kind, said.step.empty() ? request_name(found->second.ask.body_case()) : said.step,
                 said.object.empty() || said.object == name ? name : name + ", " + said.object, said.cause});
  }
  guest_done(gang, waiting.operation, waiting.guest, reply);
}

void Host::Impl::guest_lost(Gang& gang, std::uint32_t index, const std::string& reason) {
  const auto found = gang.guests.find(index);
  if (found == gang.guests.end() || found->second.lost) return;
  found->second.lost = true;
  found->second.lost_reason = reason;
  log(Log::Level::error, "guest lost", gang.id, {}, "guest " + std::to_string(index) + ": " + reason);
  effects.push_back(CloseLink{domain_of(gang.id, index)});
  std::erase_if(gang.outstanding, [index](const auto& entry) { return entry.second.guest == index; });

  std::vector<std::string> concerned;
  for (const auto& [key, operation] : gang.operations)
    if (operation.waiting.contains(index)) concerned.push_back(key);
  for (const auto& key : concerned) {
    const auto operation = gang.operations.find(key);
    if (operation == gang.operations.end()) continue;
    if (operation->second.ask.has_release() || operation->second.ask.has_query()) guest_done(gang, key, index, {});
    else
      fail(gang, key,
           {ErrorKind::transient, request_name(operation->second.ask.body_case()),
            "guest " + std::to_string(index) + " of " + gang.id.job.value, reason});
  }
  if (gang.dying) return;  // it was still being made: the failed request has its removal begun
  wire::FromHost news;
  news.mutable_guest_lost()->set_guest(index);
  news.mutable_guest_lost()->set_reason(reason);
  say(gang, {}, std::move(news));
}

// The link may have lost what was sent on it.
void Host::Impl::resend(Gang& gang, std::uint32_t guest) {
  for (auto& [id, waiting] : gang.outstanding) {
    if (waiting.guest != guest) continue;
    waiting.next_send = now + settings.resend;
    send_to_guest(gang.id, guest, waiting.request, waiting.stamp_clock);
  }
}

// ---- machines that stand still

void Host::Impl::guest_stopped(const DomainStopped& event) {
  Gang* gang = find_settled(event.id);
  if (gang == nullptr) return;
  Guest& guest = gang->guests.at(static_cast<std::uint32_t>(event.id.guest.value));
  if (guest.lost) return;
  if (!guest.stopped) {
    guest.stopped_since = now;
    log(Log::Level::error, "machine stands still", gang->id, {}, name_of(event.id) + ": " + event.reason);
  }
  guest.stopped = event.reason;
  guest.next_try = now + settings.retry_stopped;
}

void Host::Impl::guest_continued(const GuestContinued& event) {
  Gang* gang = find_settled(event.id);
  if (gang == nullptr) return;
  Guest& guest = gang->guests.at(static_cast<std::uint32_t>(event.id.guest.value));
  if (event.status) {
    guest.last_heard = std::min(guest.last_heard, now - settings.probe_after);  // asked for a sign of life at once
    return;
  }
  log(Log::Level::warn, "machine does not go on yet", gang->id, {}, event.status.error().message());
  if (guest.stopped) guest.next_try = now + settings.retry_stopped;
}

// Tries it again when it is time; true when that has gone on for too long.
bool Host::Impl::watch_stopped(Gang& gang, std::uint32_t index, Guest& guest) {
  if (!guest.stopped || !guest.next_try) return false;
  if (now - guest.stopped_since >= settings.stopped_limit) return true;
  if (*guest.next_try > now) return false;
  guest.next_try.reset();
  effects.push_back(ContinueGuest{domain_of(gang.id, index)});
  return false;
}

// An agent that says nothing for long is asked something; one that does not answer either has lost its guest. While
// a guest is captured it may stand still for long.
void Host::Impl::watch_guests(Gang& gang) {
  const bool running = gang.record.stage() == record::Gang::STARTED || gang.record.stage() == record::Gang::RESUMED;
  if (!running || gang.dying) return;
  std::vector<std::uint32_t> silent;
  for (auto& [index, guest] : gang.guests) {
    if (guest.lost) continue;
    if (watch_stopped(gang, index, guest)) {
      silent.push_back(index);
      continue;
    }
    const bool captured_now =
        std::ranges::any_of(gang.captures, [i = index](const auto& entry) { return entry.second.running.contains(i); });
    if (captured_now || guest.next_try) guest.last_heard = now;
    if (now - guest.last_heard >= settings.silent_limit) {
      silent.push_back(index);
      continue;
    }
    const bool asked =
        std::ranges::any_of(gang.outstanding, [i = index](const auto& entry) { return entry.second.guest == i; });
    if (now - guest.last_heard < settings.probe_after || asked) continue;
    wire::GuestRequest request;
    *request.mutable_gang() = gang.record.gang();
    request.mutable_query_ranks();
    ask_guest(gang, index, "", std::move(request), false);
  }
  for (std::uint32_t index : silent)
    guest_lost(
        gang, index,
        gang.guests.at(index).stopped
            ? "its machine stands still: " + *gang.guests.at(index).stopped
            : "its agent has been silent for " +
                  std::to_string(std::chrono::duration_cast<std::chrono::seconds>(settings.silent_limit).count()) +
                  " s");
}

}  // namespace stillpoint::node
