// Restarts: from where, to where, fenced, verified; each way they fail leaves the job failed and restartable.
#include <doctest/doctest.h>

#include "coordinator/core/tests/world.h"

using namespace stillpoint;
using namespace stillpoint::coordinator;
using namespace stillpoint::coordinator::testing;

namespace {

bool says(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// Runs to its end and prints each step once.
void ends_well(World& w, const JobId& id) {
  const auto& states = w.durable.jobs.at(id);
  std::uint64_t steps = 0;
  for (auto& [name, host] : w.hosts)
    if (auto* gang = host.gang(id); gang != nullptr && gang->guests.contains(0)) steps = gang->guests.at(0).state.step;
  w.script.last_step = steps + 20;
  REQUIRE(w.until_state(id, JobState::completed));
  CHECK(states.exit_code == 0);
  CHECK(w.output[id] == w.expected_output(steps + 20));
  CHECK(w.broken() == "");
}

void nothing_runs(World& w) {
  w.run_for(milliseconds(500));
  for (auto& [name, host] : w.hosts) CHECK(host.gangs.empty());
}

}  // namespace

TEST_CASE("a host dies, the job is brought back elsewhere, and its output has each line once") {
  World w(3);
  const JobId id = w.running(spec());
  w.run_for(milliseconds(3'000));
  const Epoch epoch = w.committed(id);
  w.run_for(milliseconds(3'000));
  const HostName lost = w.job(id).placement[1].host;
  w.kill(lost);
  REQUIRE(w.until_state(id, JobState::failed));
  const auto result = w.answer(w.restart(id));
  REQUIRE(result.has_value());
  const auto& restarted = std::get<Restarted>(result.value());
  CHECK(restarted.epoch == epoch);
  CHECK(restarted.incarnation == Incarnation{2});
  std::string phases;
  for (const auto& [phase, ms] : restarted.phases.phases) phases += phase + " ";
  CHECK(phases == "fence place restore resume links truncate release ");
  CHECK(w.job(id).state == JobState::running);
  CHECK(w.job(id).restarts == 1);
  for (const auto& place : w.job(id).placement) CHECK(place.host != lost);
  ends_well(w, id);
}

TEST_CASE("a running job can be taken back to any committed checkpoint, on hosts that the user names") {
  World w(3);
  const JobId id = w.running(spec());
  w.run_for(milliseconds(1'000));
  const Epoch first = w.committed(id);
  w.run_for(milliseconds(1'000));
  w.committed(id);
  w.run_for(milliseconds(1'000));
  const auto result = w.answer(w.restart(id, first, {HostName{"h3"}}));
  REQUIRE(result.has_value());
  CHECK(std::get<Restarted>(result.value()).epoch == first);
  for (const auto& place : w.job(id).placement) CHECK(place.host.value == "h3");
  ends_well(w, id);
}

TEST_CASE("a restored guest is told nothing about output beyond its cut") {
  World w(3);
  const JobId id = w.running(spec());
  w.run_for(milliseconds(1'000));
  const Epoch first = w.committed(id);
  const std::uint64_t cut = w.epoch(first).output_offset;
  w.run_for(milliseconds(3'000));
  REQUIRE(w.output[id].size() > cut);
  std::vector<std::uint64_t> beyond;
  bool sent_again = false;
  w.script.failure = [&](const HostName& host, const wire::ToHost& said) -> std::optional<Error> {
    if (said.has_check_links() && host == w.job(id).placement[0].host && !std::exchange(sent_again, true)) {
      // The agent, just adopted, sends again what was not acknowledged when it was captured.
      wire::FromHost again;
      *again.mutable_gang() = said.gang();
      again.mutable_output()->set_guest(0);
      again.mutable_output()->mutable_output()->set_data(w.output[id].substr(0, cut));
      w.say(host, again);
    }
    if (said.has_ack_output() && said.gang().incarnation() == 2 && said.ack_output().offset() > cut &&
        w.output[id].size() > cut)
      beyond.push_back(said.ack_output().offset());
    return std::nullopt;
  };
  REQUIRE(w.answer(w.restart(id, first)).has_value());
  CHECK(sent_again);
  CHECK(beyond.empty());
  w.script.failure = nullptr;
  ends_well(w, id);
}

TEST_CASE(
    "back to an early checkpoint, then forward to a later one of the history that was left: no output is missing") {
  World w(3);
  const JobId id = w.running(spec());
  w.run_for(milliseconds(1'000));
  const Epoch early = w.committed(id);
  w.run_for(milliseconds(3'000));
  const Epoch late = w.committed(id);
  REQUIRE(w.answer(w.restart(id, early)).has_value());
  REQUIRE(w.answer(w.restart(id, late)).has_value());
  ends_well(w, id);
}

TEST_CASE("a stopped job comes back; a completed one does not") {
  World w(2);
  const JobId id = w.running(spec());
  w.committed(id);
  CHECK(w.answer(w.ask([&](RequestId r) { return StopJob{r, id}; })).has_value());
  REQUIRE(w.answer(w.restart(id)).has_value());
  ends_well(w, id);
  const auto again = w.answer(w.restart(id));
  REQUIRE(again.has_error());
  CHECK(says(again.error().message(), "the job is completed"));
}

TEST_CASE("what cannot be restarted is refused and changes nothing") {
  World w(2);
  const JobId id = w.running(spec());
  CHECK(says(w.answer(w.restart(id)).error().message(), "no committed checkpoint"));
  CHECK(w.answer(w.restart(JobId{"j9"})).error().kind == ErrorKind::not_found);
  const JobId other = w.running(spec(1));
  const Epoch epoch = w.committed(other);
  auto result = w.answer(w.restart(id, epoch));
  CHECK(result.error().kind == ErrorKind::not_found);
  CHECK(says(result.error().message(), "is one of " + other.value));
  CHECK(w.answer(w.restart(other, Epoch{99})).error().kind == ErrorKind::not_found);
  w.script.unquiet_freezes = 1'000;
  CHECK(w.answer(w.checkpoint(id)).has_error());
  w.script.unquiet_freezes = 0;
  result = w.answer(w.restart(id, Epoch{2}));
  CHECK(result.error().kind == ErrorKind::refused);
  CHECK(says(result.error().message(), "it is aborted"));
  CHECK(w.answer(w.restart(other, epoch, {HostName{"h9"}})).error().kind == ErrorKind::not_found);
  CHECK(w.answer(w.ask([](RequestId r) { return CordonHost{r, HostName{"h2"}, true}; })).has_value());
  result = w.answer(w.restart(other, epoch, {HostName{"h2"}}));
  REQUIRE(result.has_error());
  CHECK(says(result.error().message(), "h2 is cordoned"));
  CHECK(w.job(other).state == JobState::running);
  CHECK(w.job(other).incarnation == Incarnation{1});
  CHECK(w.broken() == "");
}

TEST_CASE("a host that is cut off is waited out: never two incarnations at once") {
  World w(3);
  const JobId id = w.running(spec());
  w.committed(id);
  const HostName cut = w.job(id).placement[0].host;
  w.hosts.at(cut).partitioned = true;  // it runs on, and cannot be told
  const Time asked = w.now;
  const auto result = w.answer(w.restart(id));
  REQUIRE(result.has_value());
  CHECK(w.now - asked >= w.settings.lease);
  w.hosts.at(cut).partitioned = false;
  w.connect(cut);
  ends_well(w, id);
}

TEST_CASE("a lost host that comes back in time is told to destroy its guests") {
  World w(3);
  const JobId id = w.running(spec());
  w.committed(id);
  const HostName cut = w.job(id).placement[0].host;
  w.drop_session(cut);
  const auto request = w.restart(id);
  w.run_for(milliseconds(2'000));
  CHECK(w.core().phase(id) == "fence");
  w.connect(cut);
  REQUIRE(w.answer(request).has_value());
  ends_well(w, id);
}

TEST_CASE("a damaged image leads to the next older checkpoint, which is said, and the damage is marked") {
  World w(2);
  const JobId id = w.running(spec());
  w.run_for(milliseconds(1'000));
  const Epoch first = w.committed(id), second = w.committed(id);
  w.store.damaged.insert(id.value + "/e" + std::to_string(second.value) + "/guest-1");
  const auto back = w.answer(w.restart(id));
  REQUIRE(back.has_value());
  CHECK(std::get<Restarted>(back.value()).epoch == first);
  for (const auto& text : {w.job(id).reason, std::get<Restarted>(back.value()).story}) {
    CHECK(says(text, "checkpoint 2 cannot be restored"));
    CHECK(says(text, "checkpoint 1 is taken instead"));
  }
  CHECK(w.epoch(second).state == EpochState::damaged);
  ends_well(w, id);
}

TEST_CASE("a damaged image fails the restart of a named checkpoint; any restart then takes the older one") {
  World w(2);
  const JobId id = w.running(spec());
  w.run_for(milliseconds(1'000));
  const Epoch first = w.committed(id);
  w.run_for(milliseconds(1'000));
  const Epoch second = w.committed(id);
  w.store.damaged.insert(id.value + "/e" + std::to_string(second.value) + "/guest-1");
  const auto named = w.answer(w.restart(id, second));
  REQUIRE(named.has_error());
  CHECK(named.error().kind == ErrorKind::damaged);
  CHECK(w.job(id).state == JobState::failed);
  CHECK(says(w.job(id).reason, "stillpoint restart"));
  nothing_runs(w);
  const auto any = w.answer(w.restart(id));
  REQUIRE(any.has_value());
  CHECK(std::get<Restarted>(any.value()).epoch == first);
  CHECK(says(w.job(id).reason, "checkpoint 2 is damaged"));
  CHECK(says(w.job(id).reason, "checkpoint 1 is taken instead"));
  ends_well(w, id);
}

TEST_CASE("a host that does not reach the images fails the restart; no older checkpoint is taken for it") {
  for (const auto kind : {ErrorKind::not_found, ErrorKind::transient}) {
    World w(2);
    const JobId id = w.running(spec());
    w.committed(id);
    const Epoch second = w.committed(id);
    w.script.failure = [&](const HostName& host, const wire::ToHost& m) {
      return host.value == "h2" && m.has_restore()
                 ? std::optional(Error{kind, "open image", "the image directory", "it is not mounted"})
                 : std::nullopt;
    };
    const auto result = w.answer(w.restart(id));
    REQUIRE(result.has_error());
    CHECK(says(result.error().message(), "it is not mounted"));
    CHECK(w.job(id).state == JobState::failed);
    const auto again = w.answer(w.restart(id));  // the other host has room for both
    REQUIRE(again.has_value());
    CHECK(std::get<Restarted>(again.value()).epoch == second);
    CHECK(w.job(id).placement[0].host.value == "h1");
    CHECK(w.job(id).placement[1].host.value == "h1");
    ends_well(w, id);
  }
}

TEST_CASE("by default a restart stays in the history that the job has, and the others are pruned first") {
  World w(3);
  auto wanted = spec();
  wanted.keep = 3;
  const JobId id = w.running(wanted);
  const Epoch a = w.committed(id), b = w.committed(id), c = w.committed(id);
  REQUIRE(w.answer(w.restart(id, a)).has_value());
  w.kill(w.job(id).placement[1].host);
  REQUIRE(w.until_state(id, JobState::failed));
  CHECK(says(w.job(id).reason, "from checkpoint " + std::to_string(a.value)));
  auto result = w.answer(w.restart(id));
  REQUIRE(result.has_value());
  CHECK(std::get<Restarted>(result.value()).epoch == a);
  const Epoch d = w.committed(id);
  CHECK(w.epoch(b).state == EpochState::pruned);
  CHECK(w.epoch(a).state == EpochState::committed);
  result = w.answer(w.restart(id));
  REQUIRE(result.has_value());
  CHECK(std::get<Restarted>(result.value()).epoch == d);
  result = w.answer(w.restart(id, c));  // what was left is there by name, and leads back into its own history
  REQUIRE(result.has_value());
  result = w.answer(w.restart(id));
  REQUIRE(result.has_value());
  CHECK(std::get<Restarted>(result.value()).epoch == c);
  ends_well(w, id);
}

TEST_CASE("what a host does not find is no answer of 'no such job' to the client") {
  World w(2);
  const JobId id = w.running(spec());
  w.committed(id);
  const auto not_found = [](auto step) {
    return [step](const HostName& host, const wire::ToHost& m) {
      return host.value == "h2" && (m.*step)() ? std::optional(Error{ErrorKind::not_found, "look-up", "qemu", "gone"})
                                               : std::nullopt;
    };
  };
  w.script.failure = not_found(&wire::ToHost::has_close);
  CHECK(w.answer(w.checkpoint(id)).error().kind == ErrorKind::permanent);
  w.script.failure = not_found(&wire::ToHost::has_resume);
  CHECK(w.answer(w.restart(id)).error().kind == ErrorKind::permanent);
  w.script.failure = [](const HostName&, const wire::ToHost& m) {
    return m.has_delete_images() ? std::optional(Error{ErrorKind::not_found, "delete", "images", "gone"})
                                 : std::nullopt;
  };
  CHECK(w.answer(w.ask([&](RequestId r) { return RemoveJob{r, id}; })).error().kind == ErrorKind::permanent);
}

TEST_CASE("a failure or silence in any step leaves the job failed, nothing running, and restartable") {
  using Body = bool (wire::ToHost::*)() const;
  for (const bool silent : {false, true})
    for (Body step : {&wire::ToHost::has_restore, &wire::ToHost::has_resume, &wire::ToHost::has_check_links,
                      &wire::ToHost::has_release}) {
      World w(2);
      const JobId id = w.running(spec());
      w.committed(id);
      const auto bad = [&](const HostName& host, const wire::ToHost& m) { return host.value == "h2" && (m.*step)(); };
      if (silent) w.script.swallow = bad;
      else
        w.script.failure = [&](const HostName& host, const wire::ToHost& m) {
          return bad(host, m) ? std::optional(Error{ErrorKind::permanent, "restore", "guest 1", "QEMU says no"})
                              : std::nullopt;
        };
      const auto result = w.answer(w.restart(id));
      REQUIRE(result.has_error());
      CHECK(says(result.error().message(), silent ? "waiting for h2" : "guest 1 on h2: QEMU says no"));
      CHECK(w.job(id).state == JobState::failed);
      nothing_runs(w);
      w.script = {};
      REQUIRE(w.answer(w.restart(id)).has_value());
      ends_well(w, id);
    }
}

TEST_CASE("a host that dies during a restart fails it; the next one goes elsewhere") {
  World w(3);
  const JobId id = w.running(spec());
  w.committed(id);
  w.script.swallow = [](const HostName& host, const wire::ToHost& m) { return host.value == "h2" && m.has_restore(); };
  const auto request = w.restart(id, std::nullopt, {HostName{"h1"}, HostName{"h2"}});
  w.kill(HostName{"h2"});
  const auto result = w.answer(request);
  REQUIRE(result.has_error());
  CHECK(says(result.error().message(), "host h2"));
  w.script.swallow = nullptr;
  REQUIRE(w.answer(w.restart(id)).has_value());
  ends_well(w, id);
}

TEST_CASE("a restart during a checkpoint aborts it") {
  World w(2);
  const JobId id = w.running(spec());
  w.committed(id);
  w.script.upload = milliseconds(60'000);
  const auto checkpoint = w.checkpoint(id);
  REQUIRE(w.answer(w.restart(id)).has_value());
  CHECK(says(w.answer(checkpoint).error().message(), "being restarted"));
  ends_well(w, id);
}

TEST_CASE("stop during a restart ends both") {
  World w(2);
  const JobId id = w.running(spec());
  w.committed(id);
  w.script.swallow = [](const HostName&, const wire::ToHost& m) { return m.has_resume(); };
  const auto request = w.restart(id);
  CHECK(w.answer(w.ask([&](RequestId r) { return StopJob{r, id}; })).has_value());
  CHECK(says(w.answer(request).error().message(), "being stopped"));
  CHECK(w.job(id).state == JobState::stopped);
  nothing_runs(w);
  w.script = {};
  REQUIRE(w.answer(w.restart(id)).has_value());
  ends_well(w, id);
}

TEST_CASE("links that are not those of the checkpoint are refused") {
  World w(2);
  const JobId id = w.running(spec());
  const Epoch epoch = w.committed(id);
  for (auto& [path, state] : w.store.images)
    for (auto& [peer, received] : state.received)
      if (path.ends_with("guest-1")) received += 1;
  bool asked = false, went_on = false;
  w.script.failure = [&](const HostName&, const wire::ToHost& said) -> std::optional<Error> {
    asked = asked || said.has_check_links();
    went_on = went_on || (said.gang().incarnation() == 2 && said.has_release());
    return std::nullopt;
  };
  const auto result = w.answer(w.restart(id, epoch));
  REQUIRE(result.has_error());
  CHECK(result.error().kind == ErrorKind::not_quiet);
  CHECK(says(result.error().message(), "guest 1 socket 10.99.0.2:2000 -> 10.99.0.1:1001 (guest 0) had "));
  nothing_runs(w);
  CHECK(asked);
  CHECK_FALSE(went_on);  // the ranks of the restored guests stayed frozen until the guests were destroyed
}

// A disk that is slow for longer than a restart's deadlines.
TEST_CASE(
    "output that an earlier restart's cut, or an append before it, left is not taken for that of the present one") {
  World w(3);
  const JobId id = w.running(spec());
  w.run_for(milliseconds(5'000));
  const Epoch epoch = w.committed(id);
  std::vector<TruncateOutput> cuts;
  w.script.cut_hangs = [&](const TruncateOutput& cut) {
    cuts.push_back(cut);
    return true;
  };
  (void)w.restart(id, epoch);
  REQUIRE(w.until([&] { return cuts.size() == 1; }));
  REQUIRE(w.until_state(id, JobState::failed));
  (void)w.restart(id, epoch);
  REQUIRE(w.until([&] { return cuts.size() == 2; }));
  const std::uint64_t end = w.epoch(epoch).output_offset;
  std::uint64_t acknowledged = 0;
  w.script.swallow = [&](const HostName&, const wire::ToHost& ask) {
    acknowledged = std::max(acknowledged, ask.ack_output().offset());
    return false;
  };
  w.give(OutputDurable{id, end, cuts[0].number});
  w.give(OutputDurable{id, end + 1'000});
  w.give(OutputFailed{id, {ErrorKind::storage_full, "copying", "output", "no space left on device"}, cuts[0].number});
  w.run_for(milliseconds(500));
  CHECK(w.job(id).state == JobState::restarting);
  CHECK(acknowledged == 0);
  w.script.cut_hangs = nullptr;
  w.give(OutputDurable{id, end, cuts[1].number});
  REQUIRE(w.until_state(id, JobState::running));
  CHECK(acknowledged == end);
}
