// Images read back: once, however often it is asked, and answered to whoever asks now.
#include "node-daemon/core/host_world.h"

namespace stillpoint::node {
namespace {

ToHost verify_request(World& w, std::uint64_t epoch) {
  ToHost m = w.ask(epoch);
  m.mutable_verify_images()->add_images()->set_guest(1);
  return m;
}

ImagesVerified done(const World& w) {
  const auto work = w.of<VerifyImages>();
  REQUIRE(work.size() == 1);
  ImagesVerified event{work[0].token, {}};
  event.report.add_images()->set_guest(1);
  return event;
}

}  // namespace

TEST_CASE("images are read back without a gang of the job, and the answer says of which request it is") {
  World w;
  w.connect();
  CHECK(w.say(verify_request(w, 7)) == Lines{"verify 1 images"});
  CHECK(w.step(done(w)) == Lines{"answer 101: verified 1"});
}

TEST_CASE("what is to be read in the S3 store goes along") {
  World w;
  w.connect();
  ToHost ask = verify_request(w, 7);
  ask.mutable_verify_images()->add_object_store()->set_guest(2);
  w.say(ask);
  const auto work = w.of<VerifyImages>();
  REQUIRE(work.size() == 1);
  REQUIRE(work[0].object_store.size() == 1);
  CHECK(work[0].object_store[0].guest() == 2);
}

TEST_CASE("the same request again joins the reading under way; another epoch's is one of its own") {
  World w;
  w.connect();
  w.say(verify_request(w, 7));
  const auto event = done(w);
  CHECK(w.say(verify_request(w, 7)).empty());
  CHECK(w.say(verify_request(w, 8)) == Lines{"verify 1 images"});
  CHECK(w.step(event) == Lines{"answer 101: verified 1", "answer 102: verified 1"});
  CHECK(w.step(event).empty());
}

TEST_CASE("after the session was lost the one that asks again is answered, and nobody else") {
  World w;
  w.connect();
  w.say(verify_request(w, 7));
  const auto event = done(w);
  w.step(Disconnected{});
  w.connect();
  CHECK(w.say(verify_request(w, 7)).empty());
  CHECK(w.step(event) == Lines{"answer 102: verified 1"});
}

TEST_CASE("images are copied once, however often it is asked, and whoever asks now hears where they lie") {
  World w;
  w.connect();
  ToHost ask = w.ask(7);
  ask.mutable_copy_images()->add_images()->set_guest(1);
  ask.mutable_copy_images()->mutable_durability()->set_level(wire::Durability::SITE);
  CHECK(w.say(ask) == Lines{"copy 1 images of 7"});
  const auto work = w.of<CopyImages>();
  REQUIRE(work.size() == 1);
  CHECK(work[0].durability.level() == wire::Durability::SITE);
  ask.set_request(150);
  CHECK(w.say(ask).empty());
  w.step(ImagesCopied{work[0].token, std::vector{work[0].images}});
  const auto said = w.of<SendToCoordinator>();
  REQUIRE(said.size() == 2);
  CHECK(said[1].message.request() == 150);
  CHECK(said[1].message.images_copied().images(0).guest() == 1);

  ask.set_request(151);
  w.say(ask);
  w.step(ImagesCopied{w.of<CopyImages>().at(0).token, Error{ErrorKind::transient, "copy images", "j1", "not now"}});
  CHECK(w.of<SendToCoordinator>().at(0).message.failure().kind() == wire::Failure::TRANSIENT);
}

TEST_CASE("after each welcome the images that are here are named to the coordinator, if there are any") {
  World w;
  w.connect();
  CHECK(w.of<ListImages>().size() == 1);
  wire::HeldImages held;
  CHECK(w.step(ImagesListed{held}).empty());
  held.add_jobs()->set_job("j1");
  CHECK(w.step(ImagesListed{held}) == Lines{"say: images held of 1 jobs"});
  w.step(ImagesListed{Error{ErrorKind::transient, "list", "images", "not mounted"}});
  CHECK(w.of<SendToCoordinator>().empty());
  w.step(Disconnected{});
  CHECK(w.step(ImagesListed{held}).empty());
  w.connect();
  CHECK(w.of<ListImages>().size() == 1);
}

TEST_CASE("what the store takes and how much has to stay free goes with the hello and each pong") {
  World w;
  HostFigures figures{1, 2, {}};
  figures.store.set_packs(3);
  figures.store.set_reserve_bytes(4);
  w.step(figures);
  w.step(Connected{});
  CHECK(w.of<SendToCoordinator>().at(0).message.hello().store().packs() == 3);
  w.connect();
  ToHost ping;
  ping.mutable_ping()->set_number(9);
  w.say(ping);
  const auto pong = w.of<SendToCoordinator>().at(0).message.pong();
  CHECK(pong.image_free_bytes() == 2);
  CHECK(pong.store().reserve_bytes() == 4);
}

TEST_CASE("an answer to a deletion says how much was freed") {
  World w;
  w.connect();
  ToHost m = w.ask();
  m.mutable_delete_images()->add_epochs(3);
  w.say(m);
  w.step(ImagesDeleted{w.of<DeleteImages>().at(0).token, {}, 77});
  CHECK(w.of<SendToCoordinator>().at(0).message.done().freed_bytes() == 77);
}

}  // namespace stillpoint::node
