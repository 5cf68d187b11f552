// Images that leave or come, and guests that came: they are spoken to as they know themselves.
#include "node-daemon/core/host_world.h"

namespace stillpoint::node {
namespace {

ToHost piece(World& w, const std::string& data, std::uint64_t offset) {
  ToHost m = w.ask(12);
  m.mutable_write_image()->set_data(data);
  m.mutable_write_image()->set_offset(offset);
  return m;
}

ImageTransferred done(const World& w) {
  const auto work = w.of<TransferImage>();
  REQUIRE(work.size() == 1);
  ImageTransferred event{work[0].token, {}};
  event.answer.mutable_image_written();
  return event;
}

// Restored as epoch 5 of j1, and known to itself as j9, held at epoch 40.
void restore_foreign(World& w) {
  w.incarnation = 2;
  w.connect();
  ToHost restore = w.restore_request(1, 5);
  restore.mutable_restore()->mutable_images(0)->set_known_as_job("j9");
  restore.mutable_restore()->mutable_images(0)->set_known_as_epoch(40);
  w.say(restore);
  w.step(GangPrepared{gang_of(w.guest(0)), 1450, {}});
  REQUIRE(w.of<RestoreGuest>().size() == 1);
  CHECK(w.of<RestoreGuest>()[0].plan.known_as == JobId{"j9"});
  w.step(GuestRestored{w.guest(0), {}});
  w.stored();
}

wire::GuestRequest asked(const World& w) {
  const auto sent = w.of<SendToGuest>();
  REQUIRE(sent.size() == 1);
  CHECK(sent[0].id == w.guest(0));
  CHECK(sent[0].request.gang().job() == "j9");
  CHECK(sent[0].request.gang().incarnation() == 2);
  return sent[0].request;
}

}  // namespace

TEST_CASE("a piece is worked on once; asked for again on a new session it is answered there, and without one nowhere") {
  World w;
  w.connect();
  const ToHost first = piece(w, "bytes", 0);
  w.say(first);
  const auto event = done(w);
  CHECK(w.of<TransferImage>()[0].ask.write_image().data() == "bytes");
  w.step(Disconnected{});
  w.connect();
  w.say(first);
  CHECK(w.of<TransferImage>().empty());
  w.step(event);
  const auto answers = w.of<SendToCoordinator>();
  REQUIRE(answers.size() == 1);
  CHECK(answers[0].message.request() == first.request());
  CHECK(answers[0].message.has_image_written());
  CHECK(answers[0].message.epoch() == 12);

  w.say(piece(w, "more", 5));
  const auto lost = done(w);
  w.step(Disconnected{});
  CHECK(w.step(lost).empty());
}

TEST_CASE("a restored guest of another site is asked by the job and the epoch that it knows") {
  World w;
  restore_foreign(w);
  ToHost resume = w.ask(5);
  resume.mutable_resume();
  w.say(resume);
  w.step(GuestResumed{w.guest(0), {}});
  CHECK(asked(w).epoch() == 40);
  w.all_reply();
  ToHost release = w.ask(5);
  release.mutable_release();
  w.say(release);
  CHECK(asked(w).epoch() == 40);
  wire::GuestReply held;
  held.mutable_release()->set_held(true);
  CHECK(w.all_reply(held) == Lines{"answer 103: held"});
  ToHost ack = w.ask();
  ack.set_request(0);
  ack.mutable_ack_output()->set_offset(7);
  w.say(ack);
  CHECK(asked(w).output_ack().offset() == 7);
}

TEST_CASE("what it says while it is held counts for the epoch that it was restored from; its images carry its name") {
  World w;
  restore_foreign(w);
  wire::FromGuest hello;
  hello.mutable_hello()->set_boot_id("boot-0");
  hello.mutable_hello()->set_phase(wire::GuestHello::HELD);
  hello.mutable_hello()->set_epoch(40);
  w.guest_says(0, hello);
  w.step(Disconnected{});
  w.step(Connected{});
  const auto said = w.of<SendToCoordinator>();
  REQUIRE(said.size() == 1);
  REQUIRE(said[0].message.hello().gangs_size() == 1);
  CHECK(said[0].message.hello().gangs(0).held_epoch() == 5);

  w.connect();
  ToHost resume = w.ask(5);
  resume.mutable_resume();
  w.say(resume);
  w.step(GuestResumed{w.guest(0), {}});
  w.all_reply();
  w.stored();
  w.checkpoint(41, 1);
  w.stored_image(0, 41);
  const auto records = w.of<StoreRecord>();
  REQUIRE(records.size() == 1);
  REQUIRE(records[0].record.stored().images_size() == 1);
  CHECK(records[0].record.stored().images(0).known_as_job() == "j9");
  CHECK(records[0].record.stored().images(0).known_as_epoch() == 0);
}

}  // namespace stillpoint::node
