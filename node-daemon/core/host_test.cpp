// Gangs, requests, sessions and leases.
#include "node-daemon/core/host_world.h"

namespace stillpoint::node {
namespace {

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
  for (int i = 0; i < 2; ++i) {
    w.now += milliseconds(4'450);
    CHECK(w.say(w.ping()) == Lines{"say: pong"});
  }
  const Lines late = w.after(milliseconds(200));
  REQUIRE(late.size() == 1);
  CHECK(late[0] == "answer 102: failure: no answer in time from guest 0");
  CHECK(w.after(milliseconds(2'000)).empty());
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

TEST_CASE("a daemon that died between a resume and its record resumes again when it is asked") {
  World before;
  before.incarnation = 2;
  before.connect();
  before.say(before.restore_request(1, 5));
  before.step(GangPrepared{gang_of(before.guest(0)), 1450, {}});
  before.step(GuestRestored{before.guest(0), {}});
  HostFindings found;
  found.host.set_coordinator("c1");
  found.gangs.push_back(before.of<StoreRecord>().at(0).record);
  found.running = {before.guest(0)};
  World w(found);
  w.incarnation = 2;
  w.connect();
  ToHost resume = w.ask(5);
  resume.mutable_resume();
  CHECK(w.say(resume) == Lines{"resume guest 0"});
  CHECK(w.step(GuestResumed{w.guest(0), {}}) == Lines{"ask guest 0: adopt 2"});
  CHECK(w.all_reply() == Lines{"store record", "answer 101: done"});
  CHECK(w.say(resume) == Lines{"answer 101: done"});
}

TEST_CASE("a restore that fails leaves nothing behind") {
  World w;
  w.connect();
  w.say(w.restore_request(2, 5));
  w.step(GangPrepared{gang_of(w.guest(0)), 1450, {}});
  w.step(GuestRestored{w.guest(0), {}});
  const Error damaged{ErrorKind::damaged, "verify image", "/images/hosts/h1/images/j1/e5/guest-1.ram",
                      "its SHA-256 is not the recorded one"};
  const Lines out = w.step(GuestRestored{w.guest(1), damaged});
  CHECK(out == Lines{"answer 101: failure: its SHA-256 is not the recorded one", "close link guest 0",
                     "close link guest 1", "destroy j1/1/guest-0", "destroy j1/1/guest-1"});
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
  CHECK(w.step(GuestDestroyed{w.guest(0), Error{ErrorKind::transient, "destroy", "", "busy"}}) ==
        Lines{"answer 102: failure: busy"});
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

TEST_CASE("a ping that was long under way does not make the lease longer than the coordinator waits") {
  World w;
  w.start(1);
  w.now += milliseconds(2'000);
  w.say(w.ping());  // answers the hello of 2 s ago; its pong is the last that the coordinator hears
  CHECK(w.of<StoreLastWord>().at(0).last_word == w.now - milliseconds(2'000));
  w.now += milliseconds(7'000);
  w.say(w.ping());  // sent when that pong had come, held up on the way for 7 s
  CHECK(w.after(milliseconds(2'999)).empty());
  // The session lives on, so the coordinator hears by a new hello that the gang is gone.
  CHECK(w.after(milliseconds(1)) == Lines{"close link guest 0", "destroy j1/1/guest-0", "drop coordinator"});
}

TEST_CASE("a ping or a welcome that comes twice does not make the lease longer") {
  World w;
  w.start(1);
  const ToHost ping = w.ping();
  w.now += milliseconds(2'000);
  CHECK(w.say(ping) == Lines{"say: pong"});
  SUBCASE("a ping") { CHECK(w.say(ping).empty()); }
  SUBCASE("a welcome") {
    ToHost welcome;
    welcome.mutable_welcome()->set_coordinator("c1");
    welcome.mutable_welcome()->set_lease_ms(10'000);
    CHECK(w.say(welcome).empty());
  }
  CHECK(w.after(milliseconds(7'999)).empty());
  CHECK(w.after(milliseconds(1)) == Lines{"close link guest 0", "destroy j1/1/guest-0", "drop coordinator"});
}

TEST_CASE("a lease that could not be stored is stored again, and no newer word than it is") {
  World w;
  w.start(1);
  w.step(Disconnected{});
  w.step(Connected{});
  ToHost welcome;
  welcome.mutable_welcome()->set_coordinator("c1");
  welcome.mutable_welcome()->set_lease_ms(5'000);
  w.say(welcome);
  CHECK(w.of<StoreHost>().size() == 1);
  CHECK(w.of<StoreLastWord>().empty());
  w.pings = 0;
  w.say(w.ping());
  CHECK(w.of<StoreHost>().empty());  // under way
  CHECK(w.of<StoreLastWord>().empty());
  w.step(HostStored{Error{ErrorKind::storage_full, "write", "host.record", "no space left on device"}});
  w.say(w.ping());
  CHECK(w.of<StoreHost>().size() == 1);
  CHECK(w.of<StoreLastWord>().empty());
  w.step(HostStored{});
  CHECK(w.of<StoreLastWord>().size() == 1);
  w.say(w.ping());
  CHECK(w.of<StoreHost>().empty());
  CHECK(w.of<StoreLastWord>().size() == 1);
}

TEST_CASE("a new session's pings count anew") {
  World w;
  w.start(1);
  w.say(w.ping());
  w.say(w.ping());
  w.step(Disconnected{});
  w.connect();
  w.pings = 0;
  w.now += milliseconds(1'000);
  CHECK(w.say(w.ping()) == Lines{"say: pong"});
}

TEST_CASE("no request makes the lease longer, and none is heard after its end") {
  World w;
  w.start(1);
  ToHost count = w.ask(5);
  count.mutable_count();
  w.now += milliseconds(9'000);
  CHECK(w.say(count) == Lines{"ask guest 0: count"});
  w.now += milliseconds(1'000);
  CHECK(w.say(w.ping()) ==
        Lines{"answer 102: failure: the gang is being removed: the coordinator was silent for longer "
              "than the lease; it may have restarted the job elsewhere",
              "close link guest 0", "destroy j1/1/guest-0", "drop coordinator", "say: pong"});
}

TEST_CASE("a daemon's restart does not make the lease longer") {
  World before;
  before.start(1);
  HostFindings found;
  found.host.set_coordinator("c1");
  found.host.set_lease_ms(10'000);
  wire::FromGuest exited;
  exited.mutable_exited()->set_exit_code(0);
  before.guest_says(0, exited);
  found.gangs.push_back(before.of<StoreRecord>().at(0).record);
  found.running = {before.guest(0)};
  SUBCASE("within it the machines are taken up, for what is left of it") {
    found.last_word = before.now - milliseconds(9'000);
    World w(found);
    CHECK(w.after(milliseconds(999)).empty());
    CHECK(w.after(milliseconds(1)) == Lines{"close link guest 0", "destroy j1/1/guest-0"});
  }
  SUBCASE("after it they are destroyed at once") {
    found.last_word = before.now - milliseconds(10'000);
    World w(found);
    CHECK(w.lines().back() == "destroy j1/1/guest-0");
  }
}

TEST_CASE("agents that watch over the lease hear how long it lasts, with each heartbeat and each request") {
  World w;
  w.start(2);
  const auto lease_words = [&] {
    std::vector<std::pair<std::uint64_t, std::uint32_t>> words;  // guest, ms
    for (const auto& sent : w.of<SendToGuest>())
      if (sent.request.has_host_lease()) words.emplace_back(sent.id.guest.value, sent.request.lease_ms());
    return words;
  };
  using Words = std::vector<std::pair<std::uint64_t, std::uint32_t>>;
  const auto ping = [&](std::uint64_t number) {
    ToHost m;
    m.mutable_ping()->set_number(number);
    w.say(m);
    return lease_words();
  };
  CHECK(ping(1) == Words{});  // an agent from before there were abilities
  wire::FromGuest hello;
  hello.mutable_hello()->set_boot_id("boot-1");
  hello.mutable_hello()->add_abilities("steps");
  hello.mutable_hello()->add_abilities("lease");
  w.now += milliseconds(1'000);
  w.guest_says(1, hello);
  CHECK(lease_words() == Words{{1, 9'000}});
  w.step(Disconnected{});
  w.connect(20'000);  // a coordinator that goes by a longer lease: they hear of it at once
  CHECK(lease_words() == Words{{1, 20'000}});
  w.step(Disconnected{});
  w.connect(10'000);
  CHECK(lease_words() == Words{{1, 10'000}});
  w.now += milliseconds(500);
  // The coordinator may not have heard of this host since the pong before.
  CHECK(ping(1) == Words{{1, 9'500}});
  w.now += milliseconds(500);
  CHECK(ping(2) == Words{{1, 9'500}});
  ToHost query = w.ask();
  query.mutable_query();
  w.now += milliseconds(2'000);
  w.say(query);
  REQUIRE(w.of<SendToGuest>().size() == 2);
  CHECK(w.of<SendToGuest>()[0].request.lease_ms() == 7'500);
  w.after(milliseconds(1'000));  // sent again: so much less
  REQUIRE(w.of<SendToGuest>().size() == 2);
  CHECK(w.of<SendToGuest>()[1].request.lease_ms() == 6'500);
}

TEST_CASE("a daemon that starts again within the lease says what is left of it") {
  World first;
  first.start(1);
  HostFindings found;
  found.host.set_coordinator("c1");
  found.host.set_lease_ms(10'000);
  record::Gang gang;
  gang.mutable_gang()->set_job("j1");
  gang.mutable_gang()->set_incarnation(1);
  gang.set_stage(record::Gang::STARTED);
  gang.add_guests(0);
  found.gangs.push_back(gang);
  found.running.push_back(first.guest(0));
  found.last_word = first.now - milliseconds(7'000);
  World w(std::move(found));
  wire::FromGuest hello;
  hello.mutable_hello()->set_boot_id("boot-0");
  hello.mutable_hello()->add_abilities("lease");
  w.guest_says(0, hello);
  REQUIRE(w.of<SendToGuest>().size() == 1);
  CHECK(w.of<SendToGuest>()[0].request.has_host_lease());
  CHECK(w.of<SendToGuest>()[0].request.lease_ms() == 3'000);
}

TEST_CASE("a request that an agent would not read is refused, not lost") {
  World w;
  w.start(1);
  ToHost put = w.ask();
  put.mutable_put_file()->mutable_piece()->set_data(string(2u << 20, 'x'));
  CHECK(w.say(put) == Lines{"answer 102: failure: it is larger than a guest's channel takes: 1024 KiB"});
}

TEST_CASE("a guest that is lost is reported, and what waited for it fails") {
  World w;
  w.start(2);
  ToHost freeze = w.ask(5);
  freeze.mutable_freeze();
  w.say(freeze);
  CHECK(w.step(DomainEnded{w.guest(1), "QEMU ended"}) ==
        Lines{"close link guest 1", "answer 102: failure: QEMU ended", "say: guest_lost 1"});
  CHECK(w.step(DomainEnded{w.guest(1), "QEMU ended"}).empty());
}

TEST_CASE("an agent that is silent for long is asked, and then its guest is lost") {
  World w;
  w.start(1);
  Lines seen;
  for (int i = 0; i < 61; ++i) {
    w.say(w.ping());
    for (const auto& text : w.after(milliseconds(1'000))) seen.push_back(text);
  }
  CHECK(std::ranges::count(seen, "ask guest 0: query") > 10);
  CHECK(seen.back() == "say: guest_lost 0");
}

Lines a_while(World& w, int seconds) {
  Lines seen;
  for (int i = 0; i < seconds; ++i) {
    w.say(w.ping());
    for (const auto& text : w.after(milliseconds(1'000))) seen.push_back(text);
  }
  return seen;
}

TEST_CASE("a machine that stands still for want of room is tried until it goes on") {
  World w;
  w.start(1);
  for (int i = 0; i < 20; ++i) {
    CHECK(w.step(DomainStopped{w.guest(0), "no space on the host's state disk"}).empty());
    CHECK(a_while(w, 5) == Lines{"continue guest 0"});
    CHECK(w.step(GuestContinued{w.guest(0), {}}).empty());
  }
  // It is asked for a sign of life, and gives one.
  CHECK(w.after(milliseconds(1)) == Lines{"ask guest 0: query"});
  w.all_reply();
  CHECK(a_while(w, 14).empty());
}

TEST_CASE("a machine that stands still for long is lost, with the reason") {
  World w;
  w.start(1);
  const string full = "no space on the host's state disk";
  w.step(DomainStopped{w.guest(0), full});
  Lines seen;
  for (int i = 0; i < 120 && (seen.empty() || seen.back() != "say: guest_lost 0"); ++i) {
    for (const auto& text : a_while(w, 5)) seen.push_back(text);
    if (seen.back() == "continue guest 0")
      w.step(GuestContinued{w.guest(0), Error{ErrorKind::transient, "carry on", "", "busy"}});
  }
  REQUIRE(seen.back() == "say: guest_lost 0");
  CHECK(w.of<SendToCoordinator>()[0].message.guest_lost().reason() == "its machine stands still: " + full);
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
  CHECK(w.after(milliseconds(1)).size() == 5);
}

}  // namespace
}  // namespace stillpoint::node
