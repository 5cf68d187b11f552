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

}  // namespace stillpoint::node
