// Checkpoints: captures, images, holds, disks.
#include "node-daemon/core/host_world.h"

namespace stillpoint::node {
namespace {

TEST_CASE("a checkpoint: prepared, closed, frozen, captured, released, stored, reported") {
  World w;
  w.start(2);
  CHECK(w.say(w.prepare_request(5)) == Lines{"store record", "prepare guest 0", "prepare guest 1"});
  CHECK(w.stored().empty());
  CHECK(w.capture_ready(1, 5).empty());
  CHECK(w.capture_ready(0, 5) == Lines{"answer 102: done"});
  ToHost close = w.ask(5);
  close.mutable_close()->set_deadline_ms(5000);
  for (const std::uint32_t guest : {0u, 1u}) {
    auto& expected = *close.mutable_close()->add_expected();
    expected.set_guest(guest);
    expected.set_ranks(2 + guest);
  }
  CHECK(w.say(close) == Lines{"ask guest 0: close expecting 2", "ask guest 1: close expecting 3"});
  CHECK(w.all_reply() == Lines{"answer 103: round of 2"});
  ToHost freeze = w.ask(5);
  freeze.mutable_freeze();
  CHECK(w.say(freeze) == Lines{"ask guest 0: freeze", "ask guest 1: freeze"});
  CHECK(w.all_reply() == Lines{"answer 104: cut of 2"});
  ToHost capture = w.ask(5);
  capture.mutable_capture();
  CHECK(w.say(capture) == Lines{"watch taps", "capture guest 0", "capture guest 1"});
  CHECK(w.capture_done(1, 5).empty());
  CHECK(w.capture_done(0, 5) == Lines{"answer 105: captured 2"});
  ToHost release = w.ask(5);
  release.mutable_release();
  CHECK(w.say(release) == Lines{"read taps"});
  CHECK(w.step(TapsRead{gang_of(w.guest(0)), {5}, 0, {}}) == Lines{"ask guest 0: release", "ask guest 1: release"});
  wire::GuestReply held;
  held.mutable_release()->set_held(true);
  CHECK(w.all_reply(held) == Lines{"answer 106: held"});
  CHECK(w.say(release) == Lines{"answer 106: held"});  // from memory: the guests are not held any more
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

TEST_CASE("a capture is prepared only when the record says that there may be images") {
  World w;
  w.start(1);
  CHECK(w.say(w.prepare_request(5)) == Lines{"store record", "prepare guest 0"});
  const auto record = w.of<StoreRecord>()[0];
  CHECK(record.record.capturing() == 5);
  CHECK(w.capture_ready(0, 5).empty());
  CHECK(w.step(RecordStored{gang_of(w.guest(0)), record.version, {}}) == Lines{"answer 102: done"});
}

TEST_CASE("no instant is taken that was not prepared, and none twice") {
  World w;
  w.start(1);
  ToHost capture = w.ask(5);
  capture.mutable_capture();
  CHECK(w.say(capture) == Lines{"answer 102: failure: it was not prepared here"});
  w.prepare_capture(5, 1);
  CHECK(w.say(w.prepare_request(5)) == Lines{"answer 104: done"});  // asked again
  CHECK(w.say(capture) == Lines{"watch taps", "capture guest 0"});
  CHECK(w.say(capture).empty());  // joins the one under way
  CHECK(w.capture_done(0, 5) == Lines{"answer 102: captured 1", "answer 102: captured 1"});
  CHECK(w.say(capture) == Lines{"answer 102: captured 1"});
}

TEST_CASE("a preparation that comes behind its epoch's end is refused") {
  World w;
  w.start(1);
  ToHost release = w.ask(5);
  release.mutable_release()->set_discard(true);
  w.say(release);
  w.all_reply();
  CHECK(w.say(w.prepare_request(5)) == Lines{"answer 103: failure: this epoch was given up before"});
  CHECK(w.say(w.prepare_request(6)) == Lines{"store record", "prepare guest 0"});
}

TEST_CASE("a capture that only waits for its instant is no image, and ends when its epoch is given up") {
  World w;
  w.start(1);
  w.prepare_capture(5, 1);
  w.step(Disconnected{});
  w.step(Connected{});
  REQUIRE(w.of<SendToCoordinator>().size() == 1);
  CHECK(w.of<SendToCoordinator>()[0].message.hello().gangs(0).captured_epoch() == 0);
  ToHost welcome;
  welcome.mutable_welcome()->set_coordinator("c1");
  welcome.mutable_welcome()->set_lease_ms(10'000);
  w.say(welcome);
  ToHost release = w.ask(5);
  release.mutable_release()->set_discard(true);
  CHECK(w.say(release) == Lines{"cancel capture guest 0", "read taps", "ask guest 0: release"});
  CHECK(w.step(GuestStored{w.guest(0), {5}, Error{ErrorKind::refused, "capture", "", "given up"}, 2}) ==
        Lines{"delete images of 5"});
  ToHost capture = w.ask(5);
  capture.mutable_capture();
  CHECK(w.say(capture) == Lines{"answer 104: failure: this epoch was discarded here"});
}

TEST_CASE("a capture that waits for an instant that will not come makes way for a newer epoch") {
  World w;
  w.start(1);
  w.prepare_capture(5, 1);
  // The coordinator gave epoch 5 up while nobody could say so here, and its successor knows of the newest one alone.
  const auto cancelled = [&] {
    return w.step(GuestStored{w.guest(0), {5}, Error{ErrorKind::refused, "capture", "", "given up"}, 2});
  };
  SUBCASE("when that is given up") {
    ToHost release = w.ask(6);
    release.mutable_release()->set_discard(true);
    CHECK(w.say(release) == Lines{"cancel capture guest 0", "ask guest 0: release"});
    CHECK(cancelled() == Lines{"delete images of 5"});
    CHECK(w.say(w.prepare_request(7)) == Lines{"store record", "prepare guest 0"});
  }
  SUBCASE("when that is prepared") {
    CHECK(w.say(w.prepare_request(6)) == Lines{"cancel capture guest 0", "store record", "prepare guest 0"});
    CHECK(cancelled() == Lines{"delete images of 5"});
  }
}

TEST_CASE("a guest that cannot be prepared fails the request before the job is held") {
  World w;
  w.start(2);
  w.say(w.prepare_request(5));
  w.stored();
  w.capture_ready(0, 5);
  const Error full{ErrorKind::storage_full, "write", "/images/x", "no space left on device"};
  CHECK(w.step(GuestStored{w.guest(1), {5}, full, 2}) ==
        Lines{"cancel capture guest 0", "answer 102: failure: no space left on device"});
  CHECK(w.say(w.prepare_request(5)) == Lines{"answer 103: failure: no space left on device"});
}

TEST_CASE("what the taps saw during the hold is told with the release, and told the same again") {
  World w;
  w.start(1);
  w.prepare_capture(5, 1);
  ToHost capture = w.ask(5);
  capture.mutable_capture();
  w.say(capture);
  w.capture_done(0, 5);
  ToHost release = w.ask(5);
  release.mutable_release();
  w.say(release);
  CHECK(w.say(release).empty());  // asked again while the taps are read
  CHECK(w.step(TapsRead{gang_of(w.guest(0)), {5}, 2, "TCP a -> b"}) == Lines{"ask guest 0: release"});
  wire::GuestReply held;
  held.mutable_release()->set_held(true);
  const Lines told = w.all_reply(held);
  CHECK(std::ranges::count(told, "answer 104: held, saw TCP a -> b") >= 1);
  CHECK(w.say(release) == Lines{"answer 104: held, saw TCP a -> b"});
}

TEST_CASE("guests are examined twice, each time anew; one says what it refuses") {
  World w;
  w.start(2);
  const auto examine = [&](bool again) {
    ToHost ask = w.ask(5);
    ask.mutable_examine()->set_again(again);
    return w.say(ask);
  };
  CHECK(examine(false) == Lines{"ask guest 0: examine", "ask guest 1: examine"});
  CHECK(examine(true) == Lines{"ask guest 0: examine", "ask guest 1: examine"});
  wire::GuestReply refused;
  refused.mutable_failure()->set_kind(wire::Failure::REFUSED);
  refused.mutable_failure()->set_step("prepare the checkpoint");
  refused.mutable_failure()->set_cause("rank 1 (heat, pid 71): it has a connection to 192.0.2.7:1055");
  const Lines told = w.all_reply(refused);
  CHECK(std::ranges::count_if(told, [](const string& line) { return line.find("192.0.2.7:1055") != string::npos; }) >=
        1);
}

TEST_CASE("an agent from before there was an examination does it when its gates are shut: it passes") {
  World w;
  w.start(1);
  ToHost examine = w.ask(5);
  examine.mutable_examine();
  w.say(examine);
  wire::GuestReply unknown;  // such words are in images: they do not change
  unknown.mutable_failure()->set_kind(wire::Failure::REFUSED);
  unknown.mutable_failure()->set_step("take a request");
  unknown.mutable_failure()->set_cause("this agent does not know it");
  CHECK(w.all_reply(unknown) == Lines{"answer 102: done"});
}

TEST_CASE("gates are opened again without an end of the hold, and closed anew for the same epoch") {
  World w;
  w.start(1);
  for (int i = 0; i < 2; ++i) {
    ToHost close = w.ask(5);
    close.mutable_close()->set_defer_ms(200);
    CHECK(w.say(close) == Lines{"ask guest 0: close expecting 0"});
    CHECK(w.of<SendToGuest>()[0].request.close_gates().defer_ms() == 200);
    w.all_reply();
    ToHost reopen = w.ask(5);
    reopen.mutable_reopen();
    CHECK(w.say(reopen) == Lines{"ask guest 0: reopen"});
    CHECK(w.all_reply().size() == 1);
  }
}

TEST_CASE("an order that comes behind a later one of its epoch is refused, and tells no guest anything") {
  World w;
  w.start(1);
  const auto order = [&](std::uint64_t epoch, std::uint64_t step) {
    ToHost m = w.ask(epoch);
    m.set_step(step);
    return m;
  };
  ToHost close = order(5, 1), reopen = order(5, 2), again = order(5, 3);
  close.mutable_close();
  reopen.mutable_reopen();
  again.mutable_close();
  CHECK(w.say(close) == Lines{"ask guest 0: close expecting 0"});
  CHECK(w.of<SendToGuest>()[0].request.step() == 1);
  w.all_reply();
  CHECK(w.say(reopen) == Lines{"ask guest 0: reopen"});
  CHECK(w.say(reopen).empty());  // joins the one under way
  w.step(LinkOpened{w.guest(0)});
  w.all_reply();
  CHECK(w.say(again) == Lines{"ask guest 0: close expecting 0"});
  w.all_reply();
  CHECK(w.say(reopen) == Lines{"answer 103: failure: step 2 of epoch 5 comes behind step 3"});
  ToHost release = w.ask(5);  // of a coordinator that gives the attempt of its predecessor up
  release.mutable_release()->set_discard(true);
  CHECK(w.say(release) == Lines{"ask guest 0: release"});
  w.all_reply();
  ToHost next = order(6, 1);
  next.mutable_close();
  CHECK(w.say(next) == Lines{"ask guest 0: close expecting 0"});
}

TEST_CASE("a program's wish is passed on") {
  World w;
  w.start(1);
  wire::FromGuest m;
  m.mutable_rank_wish()->set_rank(3);
  CHECK(w.guest_says(0, m) == Lines{"say: rank_wished"});
  CHECK(w.of<SendToCoordinator>()[0].message.rank_wished().wish().rank() == 3);
}

TEST_CASE("a record that cannot be written fails the capture") {
  World w;
  w.start(1);
  w.say(w.prepare_request(5));
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
  before.say(before.prepare_request(6));
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
  CHECK(w.say(welcome) ==
        Lines{"say: images of 1", "say: images failed: the node daemon stopped before they were durable"});
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
  w.prepare_capture(5, 2);
  ToHost capture = w.ask(5);
  capture.mutable_capture();
  w.say(capture);
  w.capture_done(0, 5);
  const Error full{ErrorKind::storage_full, "write", "/images/hosts/h1/packs/5f.pack", "no space left on device"};
  CHECK(w.step(GuestStored{w.guest(1), {5}, full, 2}) ==
        Lines{"cancel capture guest 0", "answer 103: failure: no space left on device"});
  CHECK(w.of<SendToCoordinator>()[0].message.failure().kind() == wire::Failure::STORAGE_FULL);
  CHECK(w.step(GuestStored{w.guest(0), {5}, Error{ErrorKind::refused, "capture", "", "given up"}, 3}) ==
        Lines{"delete images of 5"});
  CHECK(w.say(capture) == Lines{"answer 103: failure: no space left on device"});  // asked again, failed the same
}

TEST_CASE("an upload that fails after the capture is reported by itself") {
  World w;
  w.start(1);
  w.checkpoint(5, 1);
  const Error full{ErrorKind::storage_full, "write", "/images/x", "no space left on device"};
  CHECK(w.step(GuestStored{w.guest(0), {5}, full, 3}) ==
        Lines{"say: images failed: no space left on device", "delete images of 5"});
}

TEST_CASE("an aborted epoch's captures are cancelled and its images deleted") {
  World w;
  w.start(2);
  w.checkpoint(5, 2);
  ToHost release = w.ask(5);
  release.mutable_release()->set_discard(true);
  CHECK(w.say(release) == Lines{"cancel capture guest 0", "cancel capture guest 1", "read taps", "answer 106: held"});
  CHECK(w.stored_image(0, 5).empty());  // it was faster than the cancelling
  CHECK(w.step(GuestStored{w.guest(1), {5}, Error{ErrorKind::refused, "capture", "", "given up"}, 3}) ==
        Lines{"delete images of 5"});
}

TEST_CASE("an image that was stored after its epoch was given up is named as held, until all are told to delete it") {
  World w;
  w.settings.store_is_own = true;
  w.host = std::make_unique<Host>(w.settings);
  w.start(2);
  w.checkpoint(5, 2);
  w.stored_image(0, 5);  // and copied to a partner
  w.step(Disconnected{});
  const auto listed = [&] { return w.step(ImagesListed{wire::HeldImages{}}); };
  CHECK(w.after(milliseconds(10'000)).size() > 0);  // the lease ends: the gang goes
  CHECK(w.step(GuestStored{w.guest(1), {5}, Error{ErrorKind::refused, "capture", "", "cancelled"}, 2}).empty());
  w.step(GuestDestroyed{w.guest(0), {}});
  w.step(GuestDestroyed{w.guest(1), {}});
  CHECK(w.step(GangRemoved{gang_of(w.guest(0)), {}}) == Lines{"delete images of 5"});
  CHECK(listed().empty());
  for (int session = 0; session < 2; ++session) {
    w.connect();
    CHECK(w.of<ListImages>().size() == 1);
    CHECK(listed() == Lines{"say: images held of 1 jobs"});
    CHECK(w.of<SendToCoordinator>()[0].message.held().jobs(0).epochs(0) == 5);
    w.step(Disconnected{});
  }
  w.connect();
  ToHost gone = w.ask();
  gone.mutable_delete_images()->add_epochs(5);
  w.say(gone);
  CHECK(listed().empty());
}

TEST_CASE("a long disk chain is shortened after the upload") {
  World w;
  w.start(1);
  w.checkpoint(5, 1);
  w.stored_image(0, 5, 6);
  CHECK(w.stored() == Lines{"say: images of 1", "flatten guest 0"});
}

TEST_CASE("a disk chain that failed attempts made long is shortened too") {
  World w;
  w.start(1);
  w.checkpoint(5, 1);
  const Error full{ErrorKind::storage_full, "write", "/images/x", "no space left on device"};
  CHECK(w.step(GuestStored{w.guest(0), {5}, full, 6}) ==
        Lines{"say: images failed: no space left on device", "delete images of 5", "flatten guest 0"});
}

TEST_CASE("a disk chain is shortened after the release of a gang that was held when its attempt failed") {
  World w;
  w.start(1);
  ToHost freeze = w.ask(5);
  freeze.mutable_freeze();
  w.say(freeze);
  w.all_reply();
  w.prepare_capture(5, 1);
  ToHost capture = w.ask(5);
  capture.mutable_capture();
  w.say(capture);
  const Error full{ErrorKind::storage_full, "write", "/images/x", "no space left on device"};
  CHECK(w.step(GuestStored{w.guest(0), {5}, full, 6}) ==
        Lines{"answer 104: failure: no space left on device", "delete images of 5"});
  ToHost release = w.ask(5);
  release.mutable_release()->set_discard(true);
  CHECK(w.say(release) == Lines{"delete images of 5", "read taps", "ask guest 0: release"});
  wire::GuestReply held;
  held.mutable_release()->set_held(true);
  CHECK(w.all_reply(held) == Lines{"flatten guest 0", "answer 105: held"});
}

TEST_CASE("a disk chain that cannot be shortened any more is not made longer for ever") {
  World w;
  w.start(1);
  const Error busy{ErrorKind::transient, "flatten disk", "vdb", "the block commit failed"};
  const Error full{ErrorKind::storage_full, "write", "/images/x", "no space left on device"};
  for (std::uint64_t epoch = 5; epoch < 16; ++epoch) {
    w.checkpoint(epoch, 1);
    w.step(GuestStored{w.guest(0), {epoch}, full, static_cast<std::uint32_t>(epoch + 1)});
    w.step(DiskFlattened{w.guest(0), busy});
  }
  const Lines refused = w.say(w.prepare_request(16));
  REQUIRE(refused.size() == 1);
  CHECK(refused[0].find("its disk has 16 layers") != string::npos);
  CHECK(w.of<SendToCoordinator>()[0].message.failure().kind() == wire::Failure::TRANSIENT);
}

}  // namespace
}  // namespace stillpoint::node
