// Checkpoints read back: what is found is kept, and decides what a restart takes.
#include <doctest/doctest.h>

#include "coordinator/core/copies.h"
#include "coordinator/core/tests/world.h"

using namespace stillpoint;
using namespace stillpoint::coordinator;
using namespace stillpoint::coordinator::testing;
using State = EpochCheck::State;

namespace {

bool says(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// Images of this world lie under JOB/eEPOCH: no host's name is in front, so any host reads them.
std::string image_of(const JobId& job, Epoch epoch, int guest) {
  return job.value + "/e" + std::to_string(epoch.value) + "/guest-" + std::to_string(guest);
}

RequestId ask_verify(World& w, const JobId& job, std::optional<Epoch> epoch = std::nullopt) {
  return w.ask([&](RequestId r) { return VerifyJob{r, job, epoch}; });
}

std::vector<EpochCheck> verified(World& w, const JobId& job, std::optional<Epoch> epoch = std::nullopt) {
  const auto result = w.answer(ask_verify(w, job, epoch));
  REQUIRE_MESSAGE(result.has_value(), (result.has_error() ? result.error().message() : ""));
  return std::get<Verified>(result.value()).epochs;
}

// Hosts with images of their own and an S3 store, and a checkpoint of two guests, on h1 and h2, that is in both.
struct WithObjectStore : World {
  WithObjectStore() : World(3) {
    for (auto& [name, one] : hosts) {
      one.own_images = one.object_store = true;
      drop_session(name);
      connect(name);
    }
    JobSpec job = spec();
    job.hosts = {{"h1"}, {"h2"}};
    job.durability = "local";
    job.later_durability = "site";
    id = running(job);
    run_for(milliseconds(1'000));
    number = committed(id);
    REQUIRE(until([&] { return copies::level(epoch(number)) == "site"; }));
  }
  EpochCheck check() { return verified(*this, id, number).at(0); }
  std::string image(int guest) const { return image_of(id, number, guest); }
  // Who was asked to read what in the S3 store.
  void watch() {
    script.failure = [this](const HostName& host, const wire::ToHost& m) -> std::optional<Error> {
      for (const auto& one : m.verify_images().object_store()) asked[one.guest()] = host.value;
      return std::nullopt;
    };
  }
  JobId id;
  Epoch number;
  std::map<std::uint32_t, std::string> asked;
};

}  // namespace

TEST_CASE("the copy in the S3 store is read, by the host that stored it, and each place's is told") {
  WithObjectStore w;
  w.watch();
  const EpochCheck check = w.check();
  CHECK(check.state == State::ok);
  CHECK(check.bytes == 300);
  REQUIRE(check.copies.size() == 3);
  CHECK(check.copies.at("h1").bytes == 100);
  CHECK(check.copies.at("s3").bytes == 100);
  for (const auto& [place, copy] : check.copies) CHECK(copy.state == State::ok);
  CHECK(w.asked == std::map<std::uint32_t, std::string>{{0, "h1"}, {1, "h2"}});
  CHECK(w.epoch(w.number).verified != 0);
}

TEST_CASE("a checkpoint is damaged only if no place has it whole") {
  WithObjectStore w;
  w.store.damaged_in_object_store.insert(w.image(1));
  EpochCheck check = w.check();
  CHECK(check.state == State::unchecked);
  CHECK(check.copies.at("s3").state == State::damaged);
  CHECK(check.copies.at("h2").state == State::ok);
  REQUIRE(check.problems.size() == 1);
  CHECK(says(check.problems[0], "guest 1, in the S3 store, read by h2: verify image of h2/" + w.image(1)));
  CHECK(w.epoch(w.number).state == EpochState::committed);
  w.store.damaged.insert(w.image(0));  // of another guest: that one is whole in the S3 store
  CHECK(w.check().state == State::unchecked);
  CHECK(w.epoch(w.number).state == EpochState::committed);
  w.store.damaged.insert(w.image(1));
  check = w.check();
  CHECK(check.state == State::damaged);
  CHECK(w.epoch(w.number).state == EpochState::damaged);
  // Whole again in one place: restarts take it.
  w.store.damaged_in_object_store.clear();
  CHECK(w.check().state == State::unchecked);
  CHECK(w.epoch(w.number).state == EpochState::committed);
  CHECK(w.broken() == "");
}

TEST_CASE("an S3 store that cannot be reached is said, and is no damage") {
  WithObjectStore w;
  w.store.object_store_down = true;
  const EpochCheck check = w.check();
  CHECK(check.state == State::unchecked);
  CHECK(check.copies.at("s3").state == State::unchecked);
  CHECK(check.copies.at("h1").state == State::ok);
  REQUIRE(check.problems.size() == 2);
  CHECK(says(check.problems[0], "in the S3 store, read by h"));
  CHECK(w.epoch(w.number).state == EpochState::committed);
}

TEST_CASE("where hosts are lost another one reads what they have in the S3 store") {
  WithObjectStore w;
  w.kill(HostName{"h1"});
  w.watch();
  w.kill(HostName{"h2"});
  w.run_for(milliseconds(30'000));
  const EpochCheck check = w.check();
  CHECK(check.state == State::ok);
  REQUIRE(check.copies.size() == 1);
  CHECK(check.copies.at("s3").state == State::ok);
  CHECK(w.asked == std::map<std::uint32_t, std::string>{{0, "h3"}, {1, "h3"}});
  w.kill(HostName{"h3"});
  w.run_for(milliseconds(30'000));
  const EpochCheck nobody = w.check();
  CHECK(nobody.state == State::unchecked);
  CHECK(says(nobody.problems.at(0), "in the S3 store: no host is up that can use it"));
}

TEST_CASE("a host that is lost while it reads in the S3 store hands that on") {
  WithObjectStore w;
  w.script.swallow = [](const HostName& host, const wire::ToHost& m) {
    return m.has_verify_images() && host.value == "h1";
  };
  const auto request = ask_verify(w, w.id, w.number);
  w.run_for(milliseconds(500));
  CHECK_FALSE(w.replies.contains(request));
  w.kill(HostName{"h1"});
  const auto result = w.answer(request);
  REQUIRE(result.has_value());
  const EpochCheck check = std::get<Verified>(result.value()).epochs.at(0);
  CHECK(check.copies.at("s3").state == State::ok);
  CHECK(check.copies.at("s3").bytes == 100);
  CHECK_FALSE(check.copies.contains("h1"));
  CHECK(check.copies.at("h2").state == State::ok);
}

TEST_CASE("all checkpoints of a job, or the one that is named, are read back; when is kept") {
  World w(2);
  const JobId id = w.running(spec());
  CHECK(verified(w, id).empty());
  const Epoch first = w.committed(id), second = w.committed(id);
  const auto all = verified(w, id);
  REQUIRE(all.size() == 2);
  CHECK(all[0].epoch == first);
  CHECK(all[0].state == State::ok);
  CHECK(all[0].bytes == 200);
  CHECK(w.epoch(first).verified != 0);
  const auto one = verified(w, id, second);
  REQUIRE(one.size() == 1);
  CHECK(one[0].epoch == second);
  CHECK(w.broken() == "");
}

TEST_CASE("what is damaged is marked, passed over by restarts, and whole again when it is found whole") {
  World w(3);
  const JobId id = w.running(spec());
  const Epoch first = w.committed(id), second = w.committed(id);
  w.store.damaged.insert(image_of(id, second, 1));
  const auto checks = verified(w, id);
  REQUIRE(checks.size() == 2);
  CHECK(checks[0].state == State::ok);
  CHECK(checks[1].state == State::damaged);
  REQUIRE(checks[1].problems.size() == 1);
  CHECK(says(checks[1].problems[0], "guest 1, read by h2: verify image of h2/" + image_of(id, second, 1)));
  CHECK(w.epoch(second).state == EpochState::damaged);
  CHECK(says(w.epoch(second).reason, "a block is not what was written"));

  const auto named = w.answer(w.restart(id, second));
  REQUIRE(named.has_error());
  CHECK(named.error().kind == ErrorKind::damaged);
  CHECK(says(named.error().message(), "stillpoint verify " + id.value));
  CHECK(w.job(id).state == JobState::running);  // the gang was not given up for it
  const auto back = w.answer(w.restart(id));
  REQUIRE(back.has_value());
  const auto& restarted = std::get<Restarted>(back.value());
  CHECK(restarted.epoch == first);
  CHECK(says(restarted.story, "checkpoint 2 is damaged"));
  CHECK(says(restarted.story, "checkpoint 1 is taken instead"));

  w.store.damaged.clear();
  CHECK(verified(w, id, second)[0].state == State::ok);
  CHECK(w.epoch(second).state == EpochState::committed);
  CHECK(w.epoch(second).reason.empty());
  CHECK(w.answer(w.restart(id, second)).has_value());
  CHECK(w.broken() == "");
}

TEST_CASE("what could not be read for another reason changes nothing") {
  World w(2);
  const JobId id = w.running(spec());
  const Epoch epoch = w.committed(id);
  w.store.unreachable.insert(image_of(id, epoch, 0));
  auto checks = verified(w, id);
  CHECK(checks.at(0).state == State::unchecked);
  CHECK(says(checks[0].problems.at(0), "is it mounted here?"));
  CHECK(w.epoch(epoch).state == EpochState::committed);
  CHECK(w.epoch(epoch).verified == 0);
  w.store.damaged.insert(image_of(id, epoch, 1));  // of both kinds: it is damaged
  checks = verified(w, id);
  CHECK(checks.at(0).state == State::damaged);
  CHECK(checks[0].problems.size() == 2);
  w.script.failure = [](const HostName&, const wire::ToHost& m) -> std::optional<Error> {
    if (!m.has_verify_images()) return std::nullopt;
    return Error{ErrorKind::refused, "request", "", "this version does not know that request"};
  };
  checks = verified(w, id);
  CHECK(checks.at(0).state == State::unchecked);
  CHECK(w.epoch(epoch).state == EpochState::damaged);  // nothing new is known
}

TEST_CASE(
    "a damaged checkpoint keeps its images: over a restart of the coordinator, and when a host reports them again") {
  World w(2);
  const JobId id = w.running(spec());
  const Epoch epoch = w.committed(id);
  w.store.damaged.insert(image_of(id, epoch, 1));
  verified(w, id);
  w.drop_session(HostName{"h1"});
  w.connect(HostName{"h1"});
  w.crash();
  w.run_for(milliseconds(5'000));
  CHECK(w.epoch(epoch).state == EpochState::damaged);
  CHECK(w.store.images.contains(image_of(id, epoch, 0)));
  CHECK(w.store.images.contains(image_of(id, epoch, 1)));
  CHECK(w.broken() == "");
}

TEST_CASE("a damaged checkpoint counts for nothing in what is kept, and goes with its age and with its job") {
  World w(2);
  auto job = spec();
  job.keep = 2;
  const JobId id = w.running(job);
  const Epoch first = w.committed(id), second = w.committed(id);
  w.store.damaged.insert(image_of(id, second, 1));
  verified(w, id);
  const Epoch third = w.committed(id);
  CHECK(w.epoch(first).state == EpochState::committed);
  CHECK(w.epoch(second).state == EpochState::damaged);
  CHECK(w.epoch(third).state == EpochState::committed);
  w.committed(id);
  CHECK(w.epoch(first).state == EpochState::pruned);
  CHECK(w.epoch(second).state == EpochState::pruned);
  CHECK(w.epoch(third).state == EpochState::committed);
  w.run_for(milliseconds(1'000));
  CHECK(w.store.images.size() == 4);
  CHECK(w.broken() == "");
}

TEST_CASE("a host that is lost hands its part to another one; without any, the rest is unchecked") {
  World w(3);
  const JobId id = w.running(spec());
  w.committed(id);
  w.script.swallow = [](const HostName& host, const wire::ToHost& m) {
    return m.has_verify_images() && host.value == "h1";
  };
  const auto request = ask_verify(w, id);
  w.run_for(milliseconds(500));
  CHECK_FALSE(w.replies.contains(request));
  w.kill(HostName{"h1"});
  auto result = w.answer(request);
  REQUIRE(result.has_value());
  CHECK(std::get<Verified>(result.value()).epochs.at(0).state == State::ok);
  w.kill(HostName{"h2"});
  w.kill(HostName{"h3"});
  w.run_for(milliseconds(15'000));
  const auto checks = verified(w, id);
  CHECK(checks.at(0).state == State::unchecked);
  CHECK(says(checks[0].problems.at(0), "no host that keeps its image is up"));
}

TEST_CASE("a host that says nothing is waited for only so long, and named") {
  World w(2);
  const JobId id = w.running(spec());
  w.committed(id);
  w.script.swallow = [](const HostName&, const wire::ToHost& m) { return m.has_verify_images(); };
  const auto checks = verified(w, id);
  CHECK(checks.at(0).state == State::unchecked);
  CHECK(says(checks[0].problems.at(0), "no answer in time from h1"));
}

TEST_CASE("requests to verify that make no sense, and one beside another or beside a removal") {
  World w(2);
  const JobId id = w.running(spec());
  CHECK(w.answer(ask_verify(w, JobId{"j9"})).error().kind == ErrorKind::not_found);
  CHECK(w.answer(ask_verify(w, id, Epoch{9})).error().kind == ErrorKind::not_found);
  w.script.failure = [](const HostName&, const wire::ToHost& m) -> std::optional<Error> {
    if (!m.has_freeze()) return std::nullopt;
    return Error{ErrorKind::permanent, "freeze", "", "no"};
  };
  CHECK(w.answer(w.checkpoint(id)).has_error());
  w.script.failure = nullptr;
  CHECK(says(w.answer(ask_verify(w, id, Epoch{1})).error().message(), "it is aborted"));
  const Epoch epoch = w.committed(id);
  w.script.swallow = [](const HostName&, const wire::ToHost& m) { return m.has_verify_images(); };
  const auto first = ask_verify(w, id);
  CHECK(says(w.answer(ask_verify(w, id)).error().message(),
             "checkpoint " + std::to_string(epoch.value) + " is being verified already"));
  CHECK(w.answer(w.ask([&](RequestId r) { return StopJob{r, id}; })).has_value());
  CHECK(w.answer(w.ask([&](RequestId r) { return RemoveJob{r, id}; })).has_value());
  CHECK(says(w.answer(first).error().message(), "the job is being removed"));
  CHECK(w.broken() == "");
}

TEST_CASE("a job whose only checkpoint is damaged is not started anew by itself") {
  World w(3);
  auto job = spec();
  job.restart_on_failure = true;
  const JobId id = w.running(job);
  const Epoch epoch = w.committed(id);
  w.store.damaged.insert(image_of(id, epoch, 1));
  verified(w, id);
  w.kill(HostName{"h2"});
  REQUIRE(w.until_state(id, JobState::failed));
  CHECK(says(w.job(id).reason, "it has no checkpoint that is whole: checkpoint 1 is damaged"));
  const auto refused = w.answer(w.restart(id));
  REQUIRE(refused.has_error());
  CHECK(refused.error().kind == ErrorKind::damaged);
  w.store.damaged.clear();
  CHECK(verified(w, id)[0].state == State::ok);
  CHECK(w.answer(w.restart(id)).has_value());
}
