// Checkpoints: the way they go, each way they fail, and that a failure never harms the job.
#include <doctest/doctest.h>

#include "common/failure.h"
#include "coordinator/core/tests/world.h"

using namespace stillpoint;
using namespace stillpoint::coordinator;
using namespace stillpoint::coordinator::testing;

namespace {

bool says(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// The job runs on by itself after what happened: same incarnation, new steps, nobody held, nothing of the epoch left.
void unharmed(World& w, const JobId& id) {
  w.run_for(milliseconds(1'000));
  CHECK(w.job(id).state == JobState::running);
  CHECK_FALSE(w.job(id).attempt.has_value());
  CHECK(w.job(id).incarnation == Incarnation{1});
  const auto before = w.output[id].size();
  w.run_for(milliseconds(2'000));
  CHECK(w.output[id].size() > before);
  for (const auto& [number, epoch] : w.durable.epochs)
    if (epoch.state == EpochState::aborted)
      for (const auto& [path, image] : w.store.images)
        CHECK_FALSE(says(path, "/e" + std::to_string(number.value) + "/"));
  CHECK(w.broken() == "");
}

std::optional<Error> full(const wire::ToHost&) {
  return Error{ErrorKind::storage_full, "capture", "guest 1", "no space left on device"};
}

}  // namespace

TEST_CASE("a checkpoint is committed and says what it cost; the job runs on") {
  World w(2);
  const JobId id = w.running(spec());
  const auto result = w.answer(w.checkpoint(id));
  REQUIRE(result.has_value());
  const auto& epoch = std::get<CheckpointTaken>(result.value()).epoch;
  CHECK(epoch.epoch == Epoch{1});
  CHECK(epoch.state == EpochState::committed);
  CHECK(epoch.images.size() == 2);
  CHECK(epoch.cut.size() == 2);
  CHECK(epoch.bytes_raw == 2000);
  CHECK(epoch.bytes_stored == 200);
  std::string phases;
  for (const auto& [phase, ms] : epoch.phases.phases) phases += phase + " ";
  CHECK(phases == "examine prepare close freeze capture release upload ");
  unharmed(w, id);
  CHECK(w.committed(id) == Epoch{2});
}

TEST_CASE("the stall ends before the upload does, and no other checkpoint begins meanwhile") {
  World w(2);
  w.script.upload = milliseconds(5'000);
  auto job = spec();
  job.while_uploading = "refuse";
  const JobId id = w.running(job);
  const auto request = w.checkpoint(id);
  w.run_for(milliseconds(300));
  CHECK(w.job(id).state == JobState::running);
  CHECK(w.core().phase(id) == "upload");
  CHECK_FALSE(w.replies.contains(request));
  const auto second = w.answer(w.checkpoint(id));
  REQUIRE(second.has_error());
  CHECK(second.error().kind == ErrorKind::refused);
  CHECK(says(second.error().message(), "checkpoint 1 is still under way (upload)"));
  const auto result = w.answer(request);
  REQUIRE(result.has_value());
  CHECK(std::get<CheckpointTaken>(result.value()).epoch.stall_ms < 1'000);
  CHECK(std::get<CheckpointTaken>(result.value()).epoch.commit_ms >= 4'900);
}

TEST_CASE("a checkpoint that is asked for while one is under way waits for its turn, in order") {
  World w(2);
  w.script.upload = milliseconds(5'000);
  const JobId id = w.running(spec());
  const auto first = w.checkpoint(id);
  const auto second = w.checkpoint(id), third = w.checkpoint(id);
  w.run_for(milliseconds(2'000));
  CHECK(w.durable.epochs.size() == 1);
  const auto epoch_of = [&](RequestId request) {
    const auto result = w.answer(request);
    REQUIRE(result.has_value());
    return std::get<CheckpointTaken>(result.value()).epoch.epoch;
  };
  CHECK(epoch_of(first) == Epoch{1});
  CHECK_FALSE(w.replies.contains(second));
  CHECK(epoch_of(second) == Epoch{2});
  CHECK_FALSE(w.replies.contains(third));
  CHECK(epoch_of(third) == Epoch{3});
  unharmed(w, id);
}

TEST_CASE("the turn comes also when the checkpoint before it is aborted") {
  World w(2);
  const JobId id = w.running(spec());
  w.script.failure = [](const HostName&, const wire::ToHost& m) { return m.has_capture() ? full(m) : std::nullopt; };
  w.script.swallow = [](const HostName& host, const wire::ToHost& m) { return m.has_freeze() && host.value == "h1"; };
  const auto first = w.checkpoint(id), second = w.checkpoint(id);
  w.run_for(milliseconds(500));
  w.script.swallow = nullptr;
  w.script.failure = nullptr;
  CHECK(w.answer(first).has_error());
  CHECK(w.answer(second).has_value());
  unharmed(w, id);
}

TEST_CASE("who waits for a turn is told when there will be none") {
  World w(3);
  w.script.upload = milliseconds(60'000);
  const JobId id = w.running(spec());
  w.committed(id);
  const auto says_why = [&](const std::string& why, const auto& end) {
    w.checkpoint(id);
    w.run_for(milliseconds(500));
    const auto second = w.checkpoint(id);
    end();
    const auto result = w.answer(second);
    REQUIRE(result.has_error());
    CHECK_MESSAGE(says(result.error().message(), why), result.error().message());
  };
  says_why("the job is being restarted", [&] { w.restart(id); });
  REQUIRE(w.until_state(id, JobState::running));
  says_why("job j1 is stopped", [&] { w.ask([&](RequestId r) { return StopJob{r, id}; }); });
  CHECK(w.broken() == "");
}

TEST_CASE("only so many wait for their turn") {
  World w(2);
  w.script.upload = milliseconds(60'000);
  const JobId id = w.running(spec());
  w.checkpoint(id);
  for (int i = 0; i < 16; ++i) w.checkpoint(id);
  const auto result = w.answer(w.checkpoint(id));
  REQUIRE(result.has_error());
  CHECK(says(result.error().message(), "is still under way"));
}

TEST_CASE(
    "no checkpoint begins on a host whose store is nearly full: the job is not touched, and what to delete is said") {
  World w(2);
  auto job = spec();
  job.interval_seconds = 1'000;
  const JobId id = w.running(job);
  w.host("h2").image_free = 500ull << 20;
  w.run_for(milliseconds(1'000));  // a heartbeat tells
  auto refused = w.answer(w.checkpoint(id));
  REQUIRE(refused.has_error());
  CHECK(refused.error().kind == ErrorKind::storage_full);
  CHECK(says(refused.error().message(),
             "host h2 has 500 MiB free for images and begins nothing with less than 1024 MiB"));
  CHECK(says(refused.error().message(), "no job holds checkpoints"));
  CHECK(w.durable.epochs.empty());

  w.host("h2").image_free = 100ull << 30;
  w.run_for(milliseconds(1'000));
  w.committed(id);
  w.committed(id);
  w.host("h2").image_free = 500ull << 20;
  w.run_for(milliseconds(1'000));
  refused = w.answer(w.checkpoint(id));
  CHECK(says(refused.error().message(),
             "job j1 (heat) holds most, 0 MiB in 2 checkpoints: stillpoint prune j1 --keep 1"));
  // One that nobody asked for is left out, again and again, and that is in the history.
  w.run_for(milliseconds(2'500'000));
  CHECK(w.durable.epochs.size() == 2);
  CHECK(w.job(id).state == JobState::running);
  w.host("h2").image_free = 1ull << 30;
  w.run_for(milliseconds(1'000'000));
  CHECK(w.durable.epochs.size() == 3);
  CHECK(w.broken() == "");
}

TEST_CASE("older checkpoints beyond keep are pruned with their images") {
  World w(2);
  auto job = spec();
  job.keep = 2;
  const JobId id = w.running(job);
  for (int i = 0; i < 4; ++i) w.committed(id);
  CHECK(w.epoch(Epoch{1}).state == EpochState::pruned);
  CHECK(w.epoch(Epoch{2}).state == EpochState::pruned);
  CHECK(w.epoch(Epoch{3}).state == EpochState::committed);
  CHECK(w.store.images.size() == 4);
}

TEST_CASE("periodic checkpoints come by themselves, one at a time") {
  World w(2);
  auto job = spec();
  job.interval_seconds = 10;
  const JobId id = w.running(job);
  w.run_for(milliseconds(35'000));
  CHECK(w.durable.epochs.size() == 3);
  w.script.upload = milliseconds(25'000);
  w.run_for(milliseconds(20'000));
  CHECK(w.durable.epochs.size() == 4);
}

TEST_CASE("a checkpoint of a job that does not run is refused, with its state") {
  World w(2);
  w.script.last_step = 5;
  const JobId id = w.submit(spec());
  REQUIRE(w.until_state(id, JobState::completed));
  const auto result = w.answer(w.checkpoint(id));
  REQUIRE(result.has_error());
  CHECK(result.error().kind == ErrorKind::refused);
  CHECK(says(result.error().message(), "job j1 is completed"));
  CHECK(w.answer(w.checkpoint(JobId{"j9"})).error().kind == ErrorKind::not_found);
}

TEST_CASE("busy ranks and unequal rounds are waited for") {
  World w(2);
  const JobId id = w.running(spec());
  w.script.busy_rounds = 7;
  const Epoch epoch = w.committed(id);
  std::string phases;
  for (const auto& [phase, ms] : w.epoch(epoch).phases.phases) phases += phase + " ";
  CHECK(phases == "examine prepare close drain freeze capture release upload ");
  unharmed(w, id);
}

TEST_CASE("a call that must finish first: gates are opened again, closed later, and the checkpoint is taken") {
  World w(2);
  const JobId id = w.running(spec());
  w.script.deferring_closes = 4;
  const Epoch epoch = w.committed(id);
  CHECK(w.script.reopened == 8);  // both hosts, each time
  std::string phases;
  for (const auto& [phase, ms] : w.epoch(epoch).phases.phases) phases += phase + " ";
  CHECK(says(phases, "close reopen defer freeze "));
  CHECK(w.epoch(epoch).stall_ms < 500);  // the pauses are none of it: the job went on
  unharmed(w, id);
}

TEST_CASE("a call that is never over aborts at the deadline, and ranks and call are named") {
  World w(2);
  const JobId id = w.running(spec());
  w.script.deferring_closes = 1'000'000;
  const auto result = w.answer(w.checkpoint(id));
  REQUIRE(result.has_error());
  CHECK(result.error().kind == ErrorKind::deadline);
  CHECK(says(result.error().message(), "for the 10000 ms that it waits"));
  CHECK(says(result.error().message(),
             "rank 1 is inside MPI_Comm_spawn on rows (2 processes) for 4.0 s (guest 1 on h2)"));
  CHECK(says(w.epoch(Epoch{1}).reason, "MPI_Comm_spawn"));
  // What the ranks were doing is kept with the attempt.
  REQUIRE(w.epoch(Epoch{1}).cut.size() == 2);
  CHECK(w.epoch(Epoch{1}).cut[1].ranks(0).rank() == 1);
  w.script = {};
  unharmed(w, id);
  w.committed(id);
}

TEST_CASE("a packet on a tap during the hold aborts, and is described") {
  World w(2);
  const JobId id = w.running(spec());
  w.script.hold_packet = "TCP 10.99.0.1:1024 -> 10.99.0.2:2000, 64 bytes, on vnet3";
  const auto result = w.answer(w.checkpoint(id));
  REQUIRE(result.has_error());
  CHECK(result.error().kind == ErrorKind::not_quiet);
  CHECK(says(result.error().message(), "TCP 10.99.0.1:1024 -> 10.99.0.2:2000, 64 bytes, on vnet3 on h"));
  unharmed(w, id);
  w.committed(id);
}

TEST_CASE("a program's wish makes a checkpoint, one at a time; a good moment only near the next periodic one") {
  World w(2);
  auto job = spec();
  job.interval_seconds = 100;
  const JobId id = w.running(job);
  const auto wish = [&](wire::RankWish::Kind kind) {
    wire::FromHost message;
    message.mutable_gang()->set_job(id.value);
    message.mutable_gang()->set_incarnation(1);
    message.mutable_rank_wished()->mutable_wish()->set_kind(kind);
    w.say(HostName{"h1"}, message);
  };
  wish(wire::RankWish::GOOD_MOMENT);
  w.run_for(milliseconds(1'000));
  CHECK(w.durable.epochs.empty());
  wish(wire::RankWish::CHECKPOINT);
  wish(wire::RankWish::CHECKPOINT);
  w.run_for(milliseconds(5'000));
  CHECK(w.durable.epochs.size() == 1);
  CHECK(w.epoch(Epoch{1}).state == EpochState::committed);
  w.run_for(milliseconds(80'000));
  wish(wire::RankWish::GOOD_MOMENT);
  w.run_for(milliseconds(5'000));
  CHECK(w.durable.epochs.size() == 2);
}

TEST_CASE("a host that cannot prepare its capture aborts the checkpoint before any gate is shut") {
  World w(2);
  const JobId id = w.running(spec());
  bool closed = false;
  w.script.failure = [&](const HostName& host, const wire::ToHost& ask) -> std::optional<Error> {
    closed = closed || ask.has_close();
    if (!ask.has_prepare_capture() || host.value != "h2") return std::nullopt;
    return Error{ErrorKind::storage_full, "write", "/images/x", "no space left on device"};
  };
  const auto answer = w.answer(w.checkpoint(id));
  REQUIRE(answer.has_error());
  CHECK(answer.error().kind == ErrorKind::storage_full);
  CHECK_FALSE(closed);
  unharmed(w, id);
}

TEST_CASE("a host that falls silent while it prepares is not waited for until its lease ends") {
  World w(2, 0, [] {
    Settings s;
    s.lease = milliseconds(60'000);
    return s;
  }());
  const JobId id = w.running(spec());
  w.script.swallow = [](const HostName& host, const wire::ToHost& ask) {
    return host.value == "h2" && ask.has_prepare_capture();
  };
  const auto request = w.checkpoint(id);
  w.run_for(milliseconds(20'000));
  CHECK(w.job(id).attempt);  // it says that it is there: copying may take long
  w.kill({"h2"});
  const auto answer = w.answer(request);
  REQUIRE(answer.has_error());
  CHECK(answer.error().kind == ErrorKind::deadline);
  CHECK(answer.error().message().find("no answer from h2") != std::string::npos);
  CHECK(w.job(id).state == JobState::running);
}

TEST_CASE("a cut that is not quiet is thawed and tried again") {
  World w(2);
  const JobId id = w.running(spec());
  w.script.unquiet_freezes = 3;
  const Epoch epoch = w.committed(id);
  std::string phases;
  for (const auto& [phase, ms] : w.epoch(epoch).phases.phases) phases += phase + " ";
  CHECK(phases == "examine prepare close freeze thaw drain capture release upload ");
  unharmed(w, id);
}

TEST_CASE("a cut that is never quiet aborts and names the socket") {
  World w(2);
  const JobId id = w.running(spec());
  w.script.unquiet_freezes = 1'000;
  const auto result = w.answer(w.checkpoint(id));
  REQUIRE(result.has_error());
  CHECK(result.error().kind == ErrorKind::not_quiet);
  CHECK(says(result.error().message(), "cut 5 of 5"));
  CHECK(says(result.error().message(),
             "guest 0 socket 10.99.0.1:1001 -> 10.99.0.2:2000 (guest 1) has 1 segments unacknowledged"));
  w.script.unquiet_freezes = 0;
  unharmed(w, id);
}

using Step = std::function<bool(const wire::ToHost&)>;
const std::vector<Step> kSteps = {
    [](const auto& m) { return m.has_examine() && !m.examine().again(); },
    &wire::ToHost::has_close,
    &wire::ToHost::has_count,
    &wire::ToHost::has_freeze,
    &wire::ToHost::has_capture,
    [](const auto& m) { return m.has_examine() && m.examine().again(); },
};

TEST_CASE("a failure of any step on any host aborts, names host and cause, and harms nothing") {
  for (const Step& step : kSteps) {
    for (const std::string at : {"h1", "h2"}) {
      World w(2);
      const JobId id = w.running(spec());
      w.script.busy_rounds = 3;
      w.script.failure = [&](const HostName& host, const wire::ToHost& m) {
        return host.value == at && step(m) ? full(m) : std::nullopt;
      };
      const auto result = w.answer(w.checkpoint(id));
      REQUIRE(result.has_error());
      CHECK(result.error().kind == ErrorKind::storage_full);
      CHECK(says(result.error().message(), "capture of guest 1 on " + at + ": no space left on device"));
      CHECK(says(result.error().message(), "no job holds checkpoints: make room there; the job goes on"));
      CHECK(says(w.epoch(Epoch{1}).reason, "no space left"));
      unharmed(w, id);
      w.script.failure = nullptr;
      w.committed(id);
    }
  }
}

TEST_CASE("what came to a rank while it was captured is found after the release: no checkpoint, the images go") {
  World w(2);
  const JobId id = w.running(spec());
  w.script.failure = [&](const HostName& host, const wire::ToHost& m) -> std::optional<Error> {
    if (host.value != "h2" || !m.has_examine() || !m.examine().again()) return std::nullopt;
    return Error{ErrorKind::refused, "prepare the checkpoint", "guest 1",
                 "rank 1 (heat, pid 71): it has a connection to 192.0.2.7:1055"};
  };
  const auto result = w.answer(w.checkpoint(id));
  REQUIRE(result.has_error());
  CHECK(result.error().kind == ErrorKind::refused);
  CHECK(says(result.error().message(), "it has a connection to 192.0.2.7:1055"));
  CHECK(w.epoch(Epoch{1}).state == EpochState::aborted);
  w.script.failure = nullptr;
  unharmed(w, id);
  CHECK(w.store.images.empty());
}

TEST_CASE("a host that never answers a step aborts at the deadline, which is named") {
  for (const Step& step : kSteps) {
    World w(2);
    const JobId id = w.running(spec());
    w.script.busy_rounds = 3;
    w.script.swallow = [&](const HostName& host, const wire::ToHost& m) { return host.value == "h2" && step(m); };
    const auto result = w.answer(w.checkpoint(id));
    REQUIRE(result.has_error());
    CHECK(result.error().kind == ErrorKind::deadline);
    CHECK(says(result.error().message(), "no answer from h2"));
    w.script.swallow = nullptr;
    unharmed(w, id);
    w.committed(id);
  }
}

TEST_CASE("rounds that are never equal end at the drain deadline") {
  World w(2);
  const JobId id = w.running(spec());
  w.works = false;
  // Each round takes a while, as it does in a guest; else the rounds would fill the test's patience.
  int count = 0;
  w.script.never_equal = true;
  w.script.unquiet_freezes = 2;  // until then unequal rounds are good enough
  w.script.swallow = [&](const HostName&, const wire::ToHost& m) { return m.has_count() && ++count > 100; };
  const auto result = w.answer(w.checkpoint(id));
  REQUIRE(result.has_error());
  CHECK(result.error().kind == ErrorKind::deadline);
  w.works = true;
  w.script = {};
  unharmed(w, id);
}

TEST_CASE("an image that cannot be stored aborts after the job went on") {
  World w(2);
  w.script.upload = milliseconds(2'000);
  const JobId id = w.running(spec());
  const auto request = w.checkpoint(id);
  w.run_for(milliseconds(300));
  wire::FromHost report;
  report.mutable_gang()->set_job(id.value);
  report.mutable_gang()->set_incarnation(1);
  report.set_epoch(1);
  *report.mutable_images()->mutable_failure() =
      to_wire(Error{ErrorKind::storage_full, "store", "guest 0", "disk full"});
  w.say(HostName{"h1"}, report);
  const auto result = w.answer(request);
  REQUIRE(result.has_error());
  CHECK(result.error().kind == ErrorKind::storage_full);
  CHECK(says(result.error().message(), "guest 0 on h1"));
  unharmed(w, id);
}

TEST_CASE("images that never come abort at the upload deadline and name the guests") {
  World w(2, 0, [] {
    Settings s;
    s.upload_deadline = milliseconds(5'000);
    return s;
  }());
  w.script.upload = milliseconds(1'000'000);
  const JobId id = w.running(spec());
  const auto result = w.answer(w.checkpoint(id));
  REQUIRE(result.has_error());
  CHECK(says(result.error().message(), "images missing of guest 0 on h1, guest 1 on h2"));
  unharmed(w, id);
}

TEST_CASE("large images have longer to be stored") {
  World w(2);
  w.script.upload = milliseconds(1'500'000);
  auto large = spec();
  large.disk_bytes = 20ull << 30;
  const JobId small = w.running(spec()), id = w.running(large);
  const auto first = w.checkpoint(small), second = w.checkpoint(id);
  const auto refused = w.answer(first);
  REQUIRE(refused.has_error());
  CHECK(says(refused.error().message(), "images missing of guest 0"));
  CHECK(w.answer(second).has_value());
}

TEST_CASE("a guest that let go by itself before all were captured: the epoch never commits") {
  World w(2);
  const JobId id = w.running(spec());
  // h2 captures only after h1's hold has run out.
  w.settings.hold = milliseconds(1'000);
  w.script.swallow = [&](const HostName& host, const wire::ToHost& m) {
    if (!m.has_capture() || host.value != "h2") return false;
    for (auto& [index, guest] : w.host("h1").gang(id)->guests) guest.hold_until = w.now;
    return w.host("h1").gang(id)->images.size() > 0 && w.host("h1").gang(id)->guests.at(0).held;
  };
  const auto request = w.checkpoint(id);
  w.run_for(milliseconds(1'000));
  CHECK_FALSE(w.host("h1").gang(id)->guests.begin()->second.held);
  w.script.swallow = nullptr;
  w.drop_session(HostName{"h2"});
  w.connect(HostName{"h2"});
  const auto result = w.answer(request);
  REQUIRE(result.has_error());
  CHECK(says(result.error().message(), "let go by itself"));
  CHECK(w.epoch(Epoch{1}).state == EpochState::aborted);
  unharmed(w, id);
}

TEST_CASE("a session that breaks and comes back in any phase does not cost the checkpoint") {
  std::vector<Step> steps = kSteps;
  steps.emplace_back(&wire::ToHost::has_release);
  for (const Step& step : steps) {
    World w(2);
    const JobId id = w.running(spec());
    w.script.busy_rounds = 3;
    bool once = false;
    w.script.swallow = [&](const HostName& host, const wire::ToHost& m) {
      return host.value == "h2" && step(m) && !std::exchange(once, true);
    };
    const auto request = w.checkpoint(id);
    w.run_for(milliseconds(500));
    CHECK_FALSE(w.replies.contains(request));
    w.drop_session(HostName{"h2"});
    w.run_for(milliseconds(500));
    w.connect(HostName{"h2"});
    const auto result = w.answer(request);
    REQUIRE(result.has_value());
    unharmed(w, id);
  }
}

TEST_CASE("a lost host aborts the checkpoint and fails the job") {
  World w(2);
  const JobId id = w.running(spec());
  w.script.upload = milliseconds(60'000);
  const auto request = w.checkpoint(id);
  w.kill(HostName{"h2"});
  const auto result = w.answer(request);
  REQUIRE(result.has_error());
  CHECK(says(result.error().message(), "host h2 was lost"));
  CHECK(w.job(id).state == JobState::failed);
  CHECK(w.epoch(Epoch{1}).state == EpochState::aborted);
}

TEST_CASE("the program's end aborts a checkpoint and the job completes") {
  World w(2);
  w.script.upload = milliseconds(60'000);
  const JobId id = w.running(spec());
  const auto request = w.checkpoint(id);
  w.run_for(milliseconds(300));
  w.script.last_step = 1;
  const auto result = w.answer(request);
  REQUIRE(result.has_error());
  CHECK(says(result.error().message(), "the program ended"));
  CHECK(w.until_state(id, JobState::completed));
  w.run_for(milliseconds(1'000));
  CHECK(w.store.images.empty());
}

TEST_CASE("the control captures host by host with a gap, commits, and is never chosen by itself") {
  World w(2);
  const JobId id = w.running(spec());
  const auto result = w.answer(w.checkpoint(id, 300));
  REQUIRE(result.has_value());
  CHECK(std::get<CheckpointTaken>(result.value()).epoch.control);
  // A restore of it shows links that do not fit: bytes went between the two captures.
  const auto by_itself = w.answer(w.restart(id));
  REQUIRE(by_itself.has_error());
  CHECK(says(by_itself.error().message(), "no committed checkpoint"));
  const auto named = w.answer(w.restart(id, Epoch{1}));
  REQUIRE(named.has_error());
  CHECK(named.error().kind == ErrorKind::not_quiet);
  CHECK(w.job(id).state == JobState::failed);
  CHECK(w.answer(w.restart(id, Epoch{1}, {}, true)).has_value());
  CHECK(w.broken() == "");
}
