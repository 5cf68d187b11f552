// The host's core in a scripted world: what it does is written as a transcript, one effect a line. For tests.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "node-daemon/core/host.h"

namespace stillpoint::node {

using std::string;
using wire::FromHost;
using wire::ToHost;
using Lines = std::vector<string>;

inline string guest_body(const wire::GuestRequest& r) {
  if (r.has_configure()) return "configure";
  if (r.has_put_file()) return "put_file " + r.put_file().path();
  if (r.has_start_job()) return "start_job";
  if (r.has_examine_ranks()) return "examine";
  if (r.has_close_gates()) return "close expecting " + std::to_string(r.close_gates().expected_ranks());
  if (r.has_count_round()) return "count";
  if (r.has_freeze_ranks()) return "freeze";
  if (r.has_reopen_gates()) return "reopen";
  if (r.has_thaw_ranks()) return "thaw";
  if (r.has_release_ranks()) return "release";
  if (r.has_adopt()) return "adopt " + std::to_string(r.adopt().new_incarnation());
  if (r.has_check_links()) return "check_links";
  if (r.has_query_ranks()) return "query";
  if (r.has_output_ack()) return "output_ack " + std::to_string(r.output_ack().offset());
  if (r.has_launch_outcome()) return "launch_outcome";
  return "?";
}

inline string host_body(const FromHost& m) {
  if (m.has_failure()) return "failure: " + m.failure().cause();
  if (m.has_hello()) return "hello";
  if (m.has_pong()) return "pong";
  if (m.has_done()) return "done";
  if (m.has_guests_started()) return "guests_started";
  if (m.has_round()) return "round of " + std::to_string(m.round().guests_size());
  if (m.has_cut()) return "cut of " + std::to_string(m.cut().guests_size());
  if (m.has_capture()) return "captured " + std::to_string(m.capture().guests_size());
  if (m.has_release())
    return (m.release().held() ? "held" : "not held") +
           (m.release().packets() ? ", saw " + m.release().first_packet() : string());
  if (m.has_rank_wished()) return "rank_wished";
  if (m.has_images())
    return m.images().has_failure() ? "images failed: " + m.images().failure().cause()
                                    : "images of " + std::to_string(m.images().images_size());
  if (m.has_held()) return "images held of " + std::to_string(m.held().jobs_size()) + " jobs";
  if (m.has_verified()) return "verified " + std::to_string(m.verified().images_size());
  if (m.has_links()) return "links";
  if (m.has_ranks()) return "ranks";
  if (m.has_output()) return "output";
  if (m.has_launch()) return "launch";
  if (m.has_job_ended()) return "job_ended";
  if (m.has_guest_lost()) return "guest_lost " + std::to_string(m.guest_lost().guest());
  if (m.has_rank_lost()) return "rank_lost";
  return "?";
}

inline string line(const Effect& effect) {
  auto g = [](const DomainId& id) { return "guest " + std::to_string(id.guest.value); };
  return std::visit(
      [&](const auto& e) -> string {
        using E = std::decay_t<decltype(e)>;
        if constexpr (std::is_same_v<E, SendToCoordinator>)
          return (e.message.request() ? "answer " + std::to_string(e.message.request()) + ": " : "say: ") +
                 host_body(e.message);
        else if constexpr (std::is_same_v<E, DropCoordinator>) return "drop coordinator";
        else if constexpr (std::is_same_v<E, SendToGuest>)
          return "ask " + g(e.id) + ": " + guest_body(e.request) + (e.stamp_clock ? " (clock)" : "");
        else if constexpr (std::is_same_v<E, OpenLink>) return "open link " + g(e.id);
        else if constexpr (std::is_same_v<E, CloseLink>) return "close link " + g(e.id);
        else if constexpr (std::is_same_v<E, PrepareGang>) return "prepare gang";
        else if constexpr (std::is_same_v<E, StoreRecord>) return "store record";
        else if constexpr (std::is_same_v<E, StoreHost>) return "store host";
        else if constexpr (std::is_same_v<E, StoreLastWord>) return "";  // with every ping
        else if constexpr (std::is_same_v<E, StartGuest>) return "start " + g(e.plan.id);
        else if constexpr (std::is_same_v<E, RestoreGuest>) return "restore " + g(e.plan.id);
        else if constexpr (std::is_same_v<E, ResumeGuest>) return "resume " + g(e.id);
        else if constexpr (std::is_same_v<E, ContinueGuest>) return "continue " + g(e.id);
        else if constexpr (std::is_same_v<E, PrepareCapture>) return "prepare " + g(e.id);
        else if constexpr (std::is_same_v<E, TakeInstant>) return "capture " + g(e.id);
        else if constexpr (std::is_same_v<E, CancelCapture>) return "cancel capture " + g(e.id);
        else if constexpr (std::is_same_v<E, WatchTaps>) return "watch taps";
        else if constexpr (std::is_same_v<E, ReadTaps>) return "read taps";
        else if constexpr (std::is_same_v<E, FlattenDisk>) return "flatten " + g(e.id);
        else if constexpr (std::is_same_v<E, DestroyGuest>) return "destroy " + name_of(e.id);
        else if constexpr (std::is_same_v<E, RemoveGang>) return "remove gang " + to_string(e.gang);
        else if constexpr (std::is_same_v<E, DeleteImages>)
          return "delete images of " + std::to_string(e.epochs.at(0).value);
        else if constexpr (std::is_same_v<E, ListImages>) return "";  // with every welcome
        else if constexpr (std::is_same_v<E, VerifyImages>)
          return "verify " + std::to_string(e.images.size()) + " images";
        else if constexpr (std::is_same_v<E, CopyImages>)
          return "copy " + std::to_string(e.images.size()) + " images of " + std::to_string(e.epoch.value);
        else return "";  // logs say nothing that the others do not
      },
      effect);
}

struct World {
  HostSettings settings;
  std::unique_ptr<Host> host;
  Time now{milliseconds(1'000'000)};
  Effects last;
  std::uint64_t request = 100;
  std::uint64_t pings = 0;
  std::uint64_t incarnation = 1;

  explicit World(HostFindings found = {}) {
    settings.name = {"h1"};
    settings.check_invariants = true;
    host = std::make_unique<Host>(settings);
    last = host->start(std::move(found), now);
  }

  Lines step(Event event) {
    last = host->step(std::move(event), now);
    CHECK(host->broken_invariants() == Lines{});
    return lines();
  }
  Lines lines() const {
    Lines out;
    for (const Effect& effect : last)
      if (string text = line(effect); !text.empty()) out.push_back(std::move(text));
    return out;
  }
  Lines after(milliseconds pause) {
    now += pause;
    return step(Tick{});
  }
  template <class E>
  std::vector<E> of() const {
    std::vector<E> found;
    for (const Effect& effect : last)
      if (const E* e = std::get_if<E>(&effect)) found.push_back(*e);
    return found;
  }

  void connect(std::uint32_t lease = 10'000) {
    step(Connected{});
    ToHost welcome;
    welcome.mutable_welcome()->set_coordinator("c1");
    welcome.mutable_welcome()->set_lease_ms(lease);
    step(CoordinatorSaid{welcome});
    const Effects done = last;
    if (!of<StoreHost>().empty()) step(HostStored{});
    last = done;
  }
  ToHost ping() {
    ToHost m;
    m.mutable_ping()->set_number(++pings);
    return m;
  }
  ToHost ask(std::uint64_t epoch = 0) {
    ToHost m;
    m.set_request(++request);
    m.mutable_gang()->set_job("j1");
    m.mutable_gang()->set_incarnation(incarnation);
    m.set_epoch(epoch);
    return m;
  }
  Lines say(const ToHost& m) { return step(CoordinatorSaid{m}); }

  ToHost start_request(std::uint32_t guests) {
    ToHost m = ask();
    auto& start = *m.mutable_start_guests();
    fill(*start.mutable_network(), guests);
    for (std::uint32_t g = 0; g < guests; ++g) start.add_guests(g);
    start.set_workdir("/job");
    return m;
  }
  ToHost restore_request(std::uint32_t guests, std::uint64_t epoch) {
    ToHost m = ask(epoch);
    fill(*m.mutable_restore()->mutable_network(), guests);
    for (std::uint32_t g = 0; g < guests; ++g) m.mutable_restore()->add_images()->set_guest(g);
    return m;
  }
  static void fill(wire::GangNetwork& network, std::uint32_t guests) {
    network.set_vni(7);
    for (std::uint32_t g = 0; g < guests; ++g) {
      auto& place = *network.add_places();
      place.set_guest(g);
      place.set_mac("52:54:00:00:00:0" + std::to_string(g));
    }
  }
  DomainId guest(std::uint32_t index) const { return {{"j1"}, {incarnation}, {index}}; }
  Lines guest_says(std::uint32_t index, wire::FromGuest m) {
    m.mutable_gang()->set_job("j1");
    if (m.gang().incarnation() == 0) m.mutable_gang()->set_incarnation(incarnation);
    return step(GuestSaid{guest(index), std::move(m)});
  }
  Lines hello(std::uint32_t index) {
    wire::FromGuest m;
    m.mutable_hello()->set_boot_id("boot-" + std::to_string(index));
    return guest_says(index, m);
  }
  // Every guest asked in the last step answers with this body.
  Lines all_reply(wire::GuestReply body = {}) {
    Lines out;
    for (const auto& sent : of<SendToGuest>()) {
      wire::FromGuest m;
      *m.mutable_reply() = body;
      m.mutable_reply()->set_id(sent.request.id());
      for (auto& text : guest_says(static_cast<std::uint32_t>(sent.id.guest.value), m)) out.push_back(text);
    }
    return out;
  }
  Lines stored() {
    const auto records = of<StoreRecord>();
    REQUIRE(records.size() == 1);
    return step(RecordStored{gang_of(records[0].record.gang()), records[0].version, {}});
  }
  void start(std::uint32_t guests) {
    connect();
    say(start_request(guests));
    step(GangPrepared{gang_of(guest(0)), 1450, {}});
    for (std::uint32_t g = 0; g < guests; ++g) {
      step(GuestStarted{guest(g), {}});
      hello(g);
      all_reply();
    }
    stored();
  }
  ToHost prepare_request(std::uint64_t epoch) {
    ToHost m = ask(epoch);
    m.mutable_prepare_capture();
    return m;
  }
  // Asked for, its record durable, every guest ready.
  void prepare_capture(std::uint64_t epoch, std::uint32_t guests) {
    say(prepare_request(epoch));
    stored();
    for (std::uint32_t g = 0; g < guests; ++g) capture_ready(g, epoch);
  }
  Lines capture_ready(std::uint32_t g, std::uint64_t epoch) { return step(GuestReady{guest(g), {epoch}}); }
  Lines capture_done(std::uint32_t g, std::uint64_t epoch) { return step(GuestCaptured{guest(g), {epoch}, {4, 200}}); }
  Lines stored_image(std::uint32_t g, std::uint64_t epoch, std::uint32_t layers = 3) {
    wire::GuestImage image;
    image.set_guest(g);
    return step(GuestStored{guest(g), {epoch}, image, layers});
  }
  // Closed, frozen, captured, released; images under way.
  void checkpoint(std::uint64_t epoch, std::uint32_t guests) {
    prepare_capture(epoch, guests);
    ToHost close = ask(epoch);
    close.mutable_close()->set_deadline_ms(5000);
    say(close);
    all_reply();
    ToHost capture = ask(epoch);
    capture.mutable_capture();
    say(capture);
    for (std::uint32_t g = 0; g < guests; ++g) capture_done(g, epoch);
    ToHost release = ask(epoch);
    release.mutable_release();
    say(release);
    step(TapsRead{gang_of(guest(0)), {epoch}, 0, {}});
    wire::GuestReply held;
    held.mutable_release()->set_held(true);
    all_reply(held);
  }
};

}  // namespace stillpoint::node
