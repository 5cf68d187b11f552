// The host's core against scripted worlds: what it does is written as a transcript, one effect a line.
#include <doctest/doctest.h>

#include <algorithm>

#include "node-daemon/core/host.h"

namespace stillpoint::node {
namespace {

using std::string;
using wire::FromHost;
using wire::ToHost;
using Lines = std::vector<string>;

string guest_body(const wire::GuestRequest& r) {
  if (r.has_configure()) return "configure";
  if (r.has_put_file()) return "put_file " + r.put_file().path();
  if (r.has_start_job()) return "start_job";
  if (r.has_close_gates()) return "close expecting " + std::to_string(r.close_gates().expected_ranks());
  if (r.has_count_round()) return "count";
  if (r.has_freeze_ranks()) return "freeze";
  if (r.has_thaw_ranks()) return "thaw";
  if (r.has_release_ranks()) return "release";
  if (r.has_adopt()) return "adopt " + std::to_string(r.adopt().new_incarnation());
  if (r.has_check_links()) return "check_links";
  if (r.has_query_ranks()) return "query";
  if (r.has_output_ack()) return "output_ack " + std::to_string(r.output_ack().offset());
  if (r.has_launch_outcome()) return "launch_outcome";
  return "?";
}

string host_body(const FromHost& m) {
  if (m.has_failure()) return "failure: " + m.failure().cause();
  if (m.has_hello()) return "hello";
  if (m.has_pong()) return "pong";
  if (m.has_done()) return "done";
  if (m.has_guests_started()) return "guests_started";
  if (m.has_round()) return "round of " + std::to_string(m.round().guests_size());
  if (m.has_cut()) return "cut of " + std::to_string(m.cut().guests_size());
  if (m.has_capture()) return "captured " + std::to_string(m.capture().guests_size());
  if (m.has_release()) return m.release().held() ? "held" : "not held";
  if (m.has_images()) return m.images().has_failure() ? "images failed: " + m.images().failure().cause() : "images of " + std::to_string(m.images().images_size());
  if (m.has_links()) return "links";
  if (m.has_ranks()) return "ranks";
  if (m.has_output()) return "output";
  if (m.has_launch()) return "launch";
  if (m.has_job_ended()) return "job_ended";
  if (m.has_guest_lost()) return "guest_lost " + std::to_string(m.guest_lost().guest());
  if (m.has_rank_lost()) return "rank_lost";
  return "?";
}

string line(const Effect& effect) {
  auto g = [](const DomainId& id) { return "guest " + std::to_string(id.guest.value); };
  return std::visit(
      [&](const auto& e) -> string {
        using E = std::decay_t<decltype(e)>;
        if constexpr (std::is_same_v<E, SendToCoordinator>) return (e.message.request() ? "answer " + std::to_string(e.message.request()) + ": " : "say: ") + host_body(e.message);
        else if constexpr (std::is_same_v<E, DropCoordinator>) return "drop coordinator";
        else if constexpr (std::is_same_v<E, SendToGuest>) return "ask " + g(e.id) + ": " + guest_body(e.request) + (e.stamp_clock ? " (clock)" : "");
        else if constexpr (std::is_same_v<E, OpenLink>) return "open link " + g(e.id);
        else if constexpr (std::is_same_v<E, CloseLink>) return "close link " + g(e.id);
        else if constexpr (std::is_same_v<E, PrepareGang>) return "prepare gang";
        else if constexpr (std::is_same_v<E, StoreRecord>) return "store record";
        else if constexpr (std::is_same_v<E, StoreHost>) return "store host";
        else if constexpr (std::is_same_v<E, StartGuest>) return "start " + g(e.plan.id);
        else if constexpr (std::is_same_v<E, RestoreGuest>) return "restore " + g(e.plan.id);
        else if constexpr (std::is_same_v<E, ResumeGuest>) return "resume " + g(e.id);
        else if constexpr (std::is_same_v<E, CaptureGuest>) return "capture " + g(e.id);
        else if constexpr (std::is_same_v<E, CancelCapture>) return "cancel capture " + g(e.id);
        else if constexpr (std::is_same_v<E, FlattenDisk>) return "flatten " + g(e.id);
        else if constexpr (std::is_same_v<E, DestroyGuest>) return "destroy " + name_of(e.id);
        else if constexpr (std::is_same_v<E, RemoveGang>) return "remove gang " + to_string(e.gang);
        else if constexpr (std::is_same_v<E, DeleteImages>) return "delete images of " + std::to_string(e.epochs.at(0).value);
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
  std::uint64_t incarnation = 1;

  explicit World(HostFindings found = {}) {
    settings.name = {"h1"};
    host = std::make_unique<Host>(settings);
    last = host->start(std::move(found), now);
  }

  Lines step(Event event) {
    last = host->step(std::move(event), now);
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
  // A capture is asked for, and the record that says so is durable before the first guest is captured.
  Lines say_capture(const ToHost& m) {
    const Lines out = say(m);
    stored();
    return out;
  }
  Lines capture_done(std::uint32_t g, std::uint64_t epoch) { return step(GuestCaptured{guest(g), {epoch}, {4, 200}}); }
  Lines stored_image(std::uint32_t g, std::uint64_t epoch, std::uint32_t layers = 3) {
    wire::GuestImage image;
    image.set_guest(g);
    return step(GuestStored{guest(g), {epoch}, image, layers});
  }
  // Closed, frozen, captured, released; images under way.
  void checkpoint(std::uint64_t epoch, std::uint32_t guests) {
    ToHost close = ask(epoch);
    close.mutable_close()->set_deadline_ms(5000);
    say(close);
    all_reply();
    ToHost capture = ask(epoch);
    capture.mutable_capture();
    say_capture(capture);
    for (std::uint32_t g = 0; g < guests; ++g) capture_done(g, epoch);
    ToHost release = ask(epoch);
    release.mutable_release();
    say(release);
    wire::GuestReply held;
    held.mutable_release()->set_held(true);
    all_reply(held);
  }
};

TEST_CASE("a gang starts: network, machines, hello, configuration, record, answer") {
  World w;
  w.connect();
  CHECK(w.say(w.start_request(2)) == Lines{"prepare gang"});
  CHECK(w.step(GangPrepared{gang_of(w.guest(0)), 1450, {}}) == Lines{"start guest 0", "start guest 1"});
  CHECK(w.step(GuestStarted{w.guest(1), {}}) == Lines{"open link guest 1"});
  CHECK(w.step(GuestStarted{w.guest(0), {}}) == Lines{"open link guest 0"});
  CHECK(w.hello(0) == Lines{"ask guest 0: configure (clock)"});
  CHECK(w.of<SendToGuest>()[0].request.configure().mtu() == 1450);
  CHECK(w.all_reply().empty());
  CHECK(w.hello(1) == Lines{"ask guest 1: configure (clock)"});
  CHECK(w.all_reply() == Lines{"store record"});
  CHECK(w.of<StoreRecord>()[0].record.stage() == record::Gang::STARTED);
  CHECK(w.stored() == Lines{"answer 101: guests_started"});
  CHECK(w.say(w.start_request(2)) == Lines{"answer 102: guests_started"});  // asked again, answered the same
}

TEST_CASE("a request that comes again while it is under way is answered for both receipts") {
  World w;
  w.start(2);
  ToHost count = w.ask(5);
  count.mutable_count()->set_round(1);
  CHECK(w.say(count) == Lines{"ask guest 0: count", "ask guest 1: count"});
  const Effects first = w.last;
  count.set_request(900);
  CHECK(w.say(count).empty());
  w.last = first;
  CHECK(w.all_reply() == Lines{"answer 102: round of 2", "answer 900: round of 2"});
}

TEST_CASE("what an agent does not answer is sent again with the same id, and in the end fails") {
  World w;
  w.start(1);
  ToHost thaw = w.ask(5);
  thaw.mutable_thaw();
  w.say(thaw);
  const auto id = w.of<SendToGuest>()[0].request.id();
  CHECK(w.after(milliseconds(500)).empty());
  CHECK(w.after(milliseconds(500)) == Lines{"ask guest 0: thaw"});
  CHECK(w.of<SendToGuest>()[0].request.id() == id);
  CHECK(w.step(LinkOpened{w.guest(0)}) == Lines{"ask guest 0: thaw"});  // the link may have lost it
  ToHost ping;
  ping.mutable_ping();
  w.now += milliseconds(8'900);
  CHECK(w.say(ping) == Lines{"say: pong"});
  const Lines late = w.after(milliseconds(200));
  REQUIRE(late.size() == 1);
  CHECK(late[0] == "answer 102: failure: no answer in time from guest 0");
  CHECK(w.after(milliseconds(2'000)).empty());
}

TEST_CASE("a checkpoint: closed, frozen, captured, released, stored, reported") {
  World w;
  w.start(2);
  ToHost close = w.ask(5);
  close.mutable_close()->set_deadline_ms(5000);
  close.mutable_close()->add_ranks_per_guest(2);
  close.mutable_close()->add_ranks_per_guest(3);
  CHECK(w.say(close) == Lines{"ask guest 0: close expecting 2", "ask guest 1: close expecting 3"});
  CHECK(w.all_reply() == Lines{"answer 102: round of 2"});
  ToHost freeze = w.ask(5);
  freeze.mutable_freeze();
  CHECK(w.say(freeze) == Lines{"ask guest 0: freeze", "ask guest 1: freeze"});
  CHECK(w.all_reply() == Lines{"answer 103: cut of 2"});
  ToHost capture = w.ask(5);
  capture.mutable_capture();
  CHECK(w.say_capture(capture) == Lines{"store record", "capture guest 0", "capture guest 1"});
  CHECK(w.capture_done(1, 5).empty());
  CHECK(w.capture_done(0, 5) == Lines{"answer 104: captured 2"});
  ToHost release = w.ask(5);
  release.mutable_release();
  CHECK(w.say(release) == Lines{"ask guest 0: release", "ask guest 1: release"});
  wire::GuestReply held;
  held.mutable_release()->set_held(true);
  CHECK(w.all_reply(held) == Lines{"answer 105: held"});
  CHECK(w.say(release) == Lines{"answer 105: held"});  // from memory: the guests are not held any more
  CHECK(w.stored_image(0, 5).empty());
  CHECK(w.stored_image(1, 5) == Lines{"store record"});
  CHECK(w.stored() == Lines{"say: images of 2"});
  w.step(Disconnected{});
  w.step(Connected{});
  ToHost welcome;
  welcome.mutable_welcome()->set_coordinator("c1");
  welcome.mutable_welcome()->set_lease_ms(10'000);
  CHECK(w.say(welcome) == Lines{"say: images of 2"});  // nobody knows whether it arrived
}

TEST_CASE("a capture is reported only when the record says that images were promised") {
  World w;
  w.start(1);
  ToHost capture = w.ask(5);
  capture.mutable_capture();
  CHECK(w.say(capture) == Lines{"store record", "capture guest 0"});
  const auto record = w.of<StoreRecord>()[0];
  CHECK(record.record.capturing() == 5);
  CHECK(w.capture_done(0, 5).empty());
  CHECK(w.step(RecordStored{gang_of(w.guest(0)), record.version, {}}) == Lines{"answer 102: captured 1"});
}

TEST_CASE("a record that cannot be written fails the capture") {
  World w;
  w.start(1);
  ToHost capture = w.ask(5);
  capture.mutable_capture();
  w.say(capture);
  const auto version = w.of<StoreRecord>()[0].version;
  const Error full{ErrorKind::storage_full, "write", "/state", "no space left on device"};
  CHECK(w.step(RecordStored{gang_of(w.guest(0)), version, full}) ==
        Lines{"answer 102: failure: no space left on device", "cancel capture guest 0"});
}

TEST_CASE("a daemon that died during an upload says so, and removes what it left; the committed one before stays") {
  World before;
  before.start(1);
  before.checkpoint(5, 1);
  before.stored_image(0, 5);
  before.stored();
  ToHost capture = before.ask(6);
  capture.mutable_capture();
  before.say(capture);
  HostFindings found;
  found.host.set_coordinator("c1");
  found.gangs.push_back(before.of<StoreRecord>().at(0).record);
  found.running = {before.guest(0)};
  World w(found);
  CHECK(w.lines() == Lines{"delete images of 6", "prepare gang", "open link guest 0"});
  w.step(Connected{});
  CHECK(w.of<SendToCoordinator>()[0].message.hello().gangs(0).captured_epoch() == 5);
  ToHost welcome;
  welcome.mutable_welcome()->set_coordinator("c1");
  CHECK(w.say(welcome) == Lines{"say: images of 1", "say: images failed: the node daemon stopped before they were durable"});
  ToHost destroy = w.ask();
  destroy.mutable_destroy();
  w.say(destroy);
  w.step(GuestDestroyed{w.guest(0), {}});
  CHECK(w.step(GangRemoved{gang_of(w.guest(0)), {}}) == Lines{"answer 101: done"});  // and no image of 5 is deleted
}

TEST_CASE("a hold that one guest broke is reported as not held") {
  World w;
  w.start(2);
  ToHost release = w.ask(5);
  release.mutable_release();
  w.say(release);
  const auto sent = w.of<SendToGuest>();
  for (std::size_t i = 0; i < 2; ++i) {
    wire::FromGuest m;
    m.mutable_reply()->set_id(sent[i].request.id());
    m.mutable_reply()->mutable_release()->set_held(i == 0);
    const Lines out = w.guest_says(static_cast<std::uint32_t>(i), m);
    if (i == 1) CHECK(out == Lines{"answer 102: not held"});
  }
}

TEST_CASE("a capture that fails in one guest fails the request, and nothing of it stays") {
  World w;
  w.start(2);
  ToHost capture = w.ask(5);
  capture.mutable_capture();
  w.say_capture(capture);
  w.capture_done(0, 5);
  const Error full{ErrorKind::storage_full, "write", "/images/j1/e5/guest-1.ram.zst", "no space left on device"};
  CHECK(w.step(GuestStored{w.guest(1), {5}, full, 2}) == Lines{"cancel capture guest 0", "answer 102: failure: no space left on device"});
  CHECK(w.of<SendToCoordinator>()[0].message.failure().kind() == wire::Failure::STORAGE_FULL);
  CHECK(w.step(GuestStored{w.guest(0), {5}, Error{ErrorKind::refused, "capture", "", "given up"}, 3}) == Lines{"delete images of 5"});
  CHECK(w.say(capture) == Lines{"answer 102: failure: no space left on device"});  // asked again, failed the same
}

TEST_CASE("an upload that fails after the capture is reported by itself") {
  World w;
  w.start(1);
  w.checkpoint(5, 1);
  const Error full{ErrorKind::storage_full, "write", "/images/x", "no space left on device"};
  CHECK(w.step(GuestStored{w.guest(0), {5}, full, 3}) == Lines{"say: images failed: no space left on device", "delete images of 5"});
}

TEST_CASE("an aborted epoch's captures are cancelled and its images deleted") {
  World w;
  w.start(2);
  w.checkpoint(5, 2);
  ToHost release = w.ask(5);
  release.mutable_release()->set_discard(true);
  CHECK(w.say(release) == Lines{"cancel capture guest 0", "cancel capture guest 1", "answer 105: held"});
  CHECK(w.stored_image(0, 5).empty());  // it was faster than the cancelling
  CHECK(w.step(GuestStored{w.guest(1), {5}, Error{ErrorKind::refused, "capture", "", "given up"}, 3}) == Lines{"delete images of 5"});
}

TEST_CASE("a long disk chain is shortened after the upload; a checkpoint waits for it before its gates shut") {
  World w;
  w.start(1);
  w.checkpoint(5, 1);
  w.stored_image(0, 5, 6);
  CHECK(w.stored() == Lines{"say: images of 1", "flatten guest 0"});
  ToHost close = w.ask(6);
  close.mutable_close()->set_deadline_ms(5000);
  CHECK(w.say(close).empty());
  CHECK(w.step(DiskFlattened{w.guest(0), {}}) == Lines{"ask guest 0: close expecting 0"});
  CHECK(w.all_reply() == Lines{"answer 105: round of 1"});
}

TEST_CASE("a restart: restored, resumed, adopted, links checked, released with the clock set") {
  World w;
  w.incarnation = 2;
  w.connect();
  CHECK(w.say(w.restore_request(2, 5)) == Lines{"prepare gang"});
  CHECK(w.step(GangPrepared{gang_of(w.guest(0)), 1450, {}}) == Lines{"restore guest 0", "restore guest 1"});
  CHECK(w.step(GuestRestored{w.guest(0), {}}) == Lines{"open link guest 0"});
  CHECK(w.step(GuestRestored{w.guest(1), {}}) == Lines{"open link guest 1", "store record"});
  CHECK(w.stored() == Lines{"answer 101: done"});
  ToHost resume = w.ask(5);
  resume.mutable_resume();
  CHECK(w.say(resume) == Lines{"resume guest 0", "resume guest 1"});
  CHECK(w.step(GuestResumed{w.guest(0), {}}) == Lines{"ask guest 0: adopt 2"});
  // Before it has adopted the incarnation, what the agent says by itself is the old incarnation's.
  wire::FromGuest old;
  old.mutable_gang()->set_incarnation(1);
  old.mutable_output()->set_data("x");
  const Effects adopt = w.last;
  CHECK(w.guest_says(0, old).empty());
  w.last = adopt;
  CHECK(w.all_reply().empty());
  CHECK(w.step(GuestResumed{w.guest(1), {}}) == Lines{"ask guest 1: adopt 2"});
  CHECK(w.all_reply() == Lines{"store record", "answer 102: done"});
  ToHost links = w.ask(5);
  links.mutable_check_links()->set_deadline_ms(1000);
  CHECK(w.say(links) == Lines{"ask guest 0: check_links (clock)", "ask guest 1: check_links (clock)"});
  CHECK(w.all_reply() == Lines{"answer 103: links"});
  ToHost release = w.ask(5);
  release.mutable_release();
  CHECK(w.say(release) == Lines{"ask guest 0: release (clock)", "ask guest 1: release (clock)"});
}

TEST_CASE("a restore that fails leaves nothing behind") {
  World w;
  w.connect();
  w.say(w.restore_request(2, 5));
  w.step(GangPrepared{gang_of(w.guest(0)), 1450, {}});
  w.step(GuestRestored{w.guest(0), {}});
  const Error damaged{ErrorKind::damaged, "verify image", "/images/j1/e5/guest-1.ram.zst", "its SHA-256 is not the recorded one"};
  const Lines out = w.step(GuestRestored{w.guest(1), damaged});
  CHECK(out == Lines{"answer 101: failure: its SHA-256 is not the recorded one", "close link guest 0", "close link guest 1",
                     "destroy j1/1/guest-0", "destroy j1/1/guest-1"});
  CHECK(w.step(GuestDestroyed{w.guest(0), {}}).empty());
  CHECK(w.step(GuestDestroyed{w.guest(1), {}}) == Lines{"remove gang j1/1"});
  CHECK(w.step(GangRemoved{gang_of(w.guest(0)), {}}).empty());
  CHECK(w.say(w.restore_request(2, 4)) == Lines{"prepare gang"});  // an older checkpoint, the same incarnation
}

TEST_CASE("stale incarnations are rejected first, also those that were destroyed") {
  World w;
  w.incarnation = 3;
  w.start(1);
  w.incarnation = 2;
  ToHost count = w.ask(5);
  count.mutable_count();
  CHECK(w.say(count) == Lines{"answer 102: failure: incarnation 2 is stale: this host knows 3"});
  CHECK(w.say(w.start_request(1)) == Lines{"answer 103: failure: incarnation 2 is stale: this host knows 3"});
  w.incarnation = 3;
  ToHost destroy = w.ask();
  destroy.mutable_destroy();
  CHECK(w.say(destroy) == Lines{"close link guest 0", "destroy j1/3/guest-0"});
  CHECK(w.step(GuestDestroyed{w.guest(0), {}}) == Lines{"remove gang j1/3"});
  CHECK(w.step(GangRemoved{gang_of(w.guest(0)), {}}) == Lines{"answer 104: done"});
  CHECK(w.say(w.start_request(1)) == Lines{"answer 105: failure: incarnation 3 is stale: this host knows 4"});
  CHECK(w.say(destroy) == Lines{"answer 104: done"});
}

TEST_CASE("the output's acknowledgement goes to guest 0, and nobody is answered") {
  World w;
  w.start(2);
  ToHost ack = w.ask();
  ack.set_request(0);
  ack.mutable_ack_output()->set_offset(77);
  CHECK(w.say(ack) == Lines{"ask guest 0: output_ack 77"});
  CHECK(w.after(milliseconds(2'000)).empty());
  ack.mutable_gang()->set_incarnation(0);
  CHECK(w.say(ack).empty());
}

TEST_CASE("a newer incarnation waits until the older one is gone") {
  World w;
  w.start(1);
  w.incarnation = 2;
  CHECK(w.say(w.start_request(1)) == Lines{"close link guest 0", "destroy j1/1/guest-0"});
  w.incarnation = 1;
  CHECK(w.step(GuestDestroyed{w.guest(0), {}}) == Lines{"remove gang j1/1"});
  CHECK(w.step(GangRemoved{gang_of(w.guest(0)), {}}) == Lines{"prepare gang"});
}

TEST_CASE("a removal that fails is reported and tried again") {
  World w;
  w.start(1);
  ToHost destroy = w.ask();
  destroy.mutable_destroy();
  w.say(destroy);
  CHECK(w.step(GuestDestroyed{w.guest(0), Error{ErrorKind::transient, "destroy", "", "busy"}}) == Lines{"answer 102: failure: busy"});
  CHECK(w.after(milliseconds(5'000)) == Lines{"destroy j1/1/guest-0"});
}

TEST_CASE("without a word from the coordinator for the lease the gangs are destroyed") {
  World w;
  w.start(1);
  w.step(Disconnected{});
  CHECK(w.after(milliseconds(9'999)).empty());
  REQUIRE(w.host->next_deadline().has_value());
  CHECK(*w.host->next_deadline() == w.now + milliseconds(1));
  CHECK(w.after(milliseconds(1)) == Lines{"close link guest 0", "destroy j1/1/guest-0"});
}

TEST_CASE("a guest that is lost is reported, and what waited for it fails") {
  World w;
  w.start(2);
  ToHost freeze = w.ask(5);
  freeze.mutable_freeze();
  w.say(freeze);
  CHECK(w.step(DomainEnded{w.guest(1), "QEMU ended"}) == Lines{"close link guest 1", "answer 102: failure: QEMU ended", "say: guest_lost 1"});
  CHECK(w.step(DomainEnded{w.guest(1), "QEMU ended"}).empty());
}

TEST_CASE("an agent that is silent for long is asked, and then its guest is lost") {
  World w;
  w.start(1);
  ToHost ping;
  ping.mutable_ping();
  Lines seen;
  for (int i = 0; i < 61; ++i) {
    w.say(ping);
    for (const auto& text : w.after(milliseconds(1'000))) seen.push_back(text);
  }
  CHECK(std::ranges::count(seen, "ask guest 0: query") > 10);
  CHECK(seen.back() == "say: guest_lost 0");
}

TEST_CASE("launches and the program's end are said again to a coordinator that was away") {
  World w;
  w.start(1);
  w.step(Disconnected{});
  wire::FromGuest launch;
  launch.mutable_launch()->set_launch(1);
  CHECK(w.guest_says(0, launch).empty());
  wire::FromGuest exited;
  exited.mutable_exited()->set_exit_code(3);
  CHECK(w.guest_says(0, exited) == Lines{"store record"});
  w.step(Connected{});
  ToHost welcome;
  welcome.mutable_welcome()->set_coordinator("c1");
  welcome.mutable_welcome()->set_lease_ms(10'000);
  CHECK(w.say(welcome) == Lines{"say: launch", "say: job_ended"});
}

TEST_CASE("a coordinator that is not this host's is turned away") {
  World w;
  w.connect();
  ToHost welcome;
  welcome.mutable_welcome()->set_coordinator("another");
  CHECK(w.say(welcome) == Lines{"drop coordinator"});
}

TEST_CASE("a daemon that starts again takes its machines up, and removes what nobody recorded") {
  World before;
  before.start(2);
  before.checkpoint(5, 2);
  before.stored_image(0, 5);
  before.stored_image(1, 5);
  HostFindings found;
  found.host.set_coordinator("c1");
  found.host.set_lease_ms(4'000);
  found.gangs.push_back(before.of<StoreRecord>().at(0).record);
  record::Gang unfinished = found.gangs[0];
  unfinished.mutable_gang()->set_job("j2");
  unfinished.set_stage(record::Gang::MAKING);
  found.gangs.push_back(unfinished);
  found.running = {{{"j1"}, {1}, {0}}, {{"j2"}, {1}, {1}}, {{"j9"}, {4}, {0}}};
  World w(found);
  CHECK(w.lines() == Lines{"prepare gang", "open link guest 0", "close link guest 0", "close link guest 1",
                           "destroy j2/1/guest-0", "destroy j2/1/guest-1", "destroy j9/4/guest-0"});
  CHECK(w.step(Connected{}) == Lines{"say: hello"});
  const wire::HostHello hello = w.of<SendToCoordinator>()[0].message.hello();
  REQUIRE(hello.gangs_size() == 1);
  CHECK(hello.gangs(0).gang().job() == "j1");
  REQUIRE(hello.gangs(0).guests_size() == 1);  // guest 1 did not survive
  CHECK(hello.gangs(0).captured_epoch() == 5);
  ToHost welcome;
  welcome.mutable_welcome()->set_coordinator("c1");
  welcome.mutable_welcome()->set_lease_ms(4'000);
  CHECK(w.say(welcome) == Lines{"say: guest_lost 1", "say: images of 2"});
  // The lease counts from the start, with the length that was last told.
  CHECK(w.after(milliseconds(3'999)) == Lines{});
  CHECK(w.after(milliseconds(1)).size() == 4);
}

}  // namespace
}  // namespace stillpoint::node
