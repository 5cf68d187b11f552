// Submission, start, the program's end, stop, removal, output; one behaviour each.
#include <doctest/doctest.h>

#include <algorithm>

#include "coordinator/core/tests/world.h"

using namespace stillpoint;
using namespace stillpoint::coordinator;
using namespace stillpoint::coordinator::testing;

namespace {

std::string why(const Result<Answer>& result) { return result.has_error() ? result.error().message() : "no error"; }
bool says(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("a job is submitted, started on two hosts, runs to its end and leaves nothing") {
  World w(3);
  w.script.last_step = 20;
  const JobId id = w.submit(spec());
  CHECK(w.job(id).incarnation == Incarnation{1});
  REQUIRE(w.until_state(id, JobState::completed));
  CHECK(w.job(id).exit_code == 0);
  CHECK(w.output[id] == w.expected_output(20));
  CHECK(w.outputs["field.ppm"] == "field.ppm at 0field.ppm at 14");
  for (auto& [name, host] : w.hosts) CHECK(host.gangs.empty());
  CHECK(w.broken() == "");
}

TEST_CASE("all hosts of a gang are told where its guests are in the same bytes, which are there once") {
  Coordinator core(Settings{}, CatalogState{});
  const auto step = [&](Event event) { return core.step(std::move(event), Time{milliseconds(1'000'000)}, 1); };
  for (std::uint64_t i = 1; i <= 3; ++i) {
    wire::HostHello hello;
    hello.set_protocol(1);
    hello.set_host("h" + std::to_string(i));
    hello.set_address("192.0.2." + std::to_string(i));
    hello.set_memory_bytes(8ull << 30);
    hello.set_memory_free_bytes(8ull << 30);
    step(HostConnected{HostName{hello.host()}, SessionId{i}, hello});
  }
  std::vector<Send> sent;
  for (auto& effect : step(SubmitJob{RequestId{1}, spec(3), "", "spool"}))
    if (auto* send = std::get_if<Send>(&effect); send != nullptr && send->message.has_start_guests())
      sent.push_back(std::move(*send));
  REQUIRE(sent.size() == 3);
  for (const auto& send : sent) {
    CHECK(send.common == sent.front().common);
    CHECK_FALSE(send.message.start_guests().has_network());
    const auto whole = whole_message(send);
    CHECK(whole.request() == send.message.request());
    REQUIRE(whole.start_guests().guests_size() == 1);
    REQUIRE(whole.start_guests().network().places_size() == 3);
    const auto& place = whole.start_guests().network().places(static_cast<int>(whole.start_guests().guests(0)));
    CHECK(place.host() == send.host.value);
    CHECK(whole.start_guests().hardware().memory_bytes() == spec().memory_bytes);
    wire::ToHost read;  // as it comes over the wire: one behind the other
    REQUIRE(read.ParseFromString(send.message.SerializeAsString() + *send.common));
    CHECK(read.SerializeAsString() == whole.SerializeAsString());
  }
}

TEST_CASE("files go in pieces to every guest, large ones too") {
  World w(2);
  std::string large(700'000, 'x');
  large[400'000] = 'y';
  w.spool["heat"] = large;
  const JobId id = w.running(spec());
  for (auto& [name, host] : w.hosts) CHECK(host.gang(id)->file == large);
}

TEST_CASE("mpirun's daemons are launched once and the outcome comes back") {
  World w(2);
  const JobId id = w.running(spec());
  const auto place0 = w.job(id).placement[0].host, place1 = w.job(id).placement[1].host;
  CHECK(w.hosts.at(place1).gang(id)->daemons == std::set<std::uint64_t>{1});
  CHECK(w.hosts.at(place0).gang(id)->daemons == std::set<std::uint64_t>{1});
}

TEST_CASE("a launch for a guest that is not there is answered with a failure") {
  World w(2);
  const JobId id = w.running(spec());
  wire::FromHost launch;
  launch.mutable_gang()->set_job(id.value);
  launch.mutable_gang()->set_incarnation(1);
  launch.mutable_launch()->mutable_launch()->set_launch(9);
  launch.mutable_launch()->mutable_launch()->set_target("guest-7");
  w.say(w.job(id).placement[0].host, launch);
  CHECK(w.hosts.at(w.job(id).placement[0].host).gang(id)->daemons.contains(9));
  CHECK_FALSE(w.hosts.at(w.job(id).placement[1].host).gang(id)->daemons.contains(9));
}

TEST_CASE("bad specs are refused, with everything that is wrong") {
  World w(2);
  const auto submit = [&](JobSpec job) {
    return w.answer(w.ask([&](RequestId r) { return SubmitJob{r, job, "", ""}; }));
  };
  auto job = spec();
  job.command.clear();
  job.ranks_per_guest = {1};
  auto result = submit(job);
  REQUIRE(result.has_error());
  CHECK(says(why(result), "no command"));
  CHECK(says(why(result), "1 entries for 2 guests"));
  job = spec();
  job.memory_bytes = 1ull << 50;
  result = submit(job);
  REQUIRE(result.has_error());
  CHECK(says(why(result), "no host has more than 4096 MiB"));
  job = spec();
  job.hosts = {HostName{"h1"}, HostName{"nowhere"}};
  result = submit(job);
  REQUIRE(result.has_error());
  CHECK(result.error().kind == ErrorKind::not_found);
  CHECK(says(why(result), "nowhere"));
  CHECK(w.durable.jobs.empty());
}

TEST_CASE("two dots in a file's name are no way out of the workdir") {
  World w(2);
  auto job = spec();
  job.outputs = {"data..txt"};
  w.script.last_step = 3;
  const JobId id = w.submit(job);
  REQUIRE(w.until_state(id, JobState::completed));
  CHECK(w.outputs.contains("data..txt"));
}

TEST_CASE("without room a job waits and says why, and starts when there is room") {
  World w(1);
  w.script.last_step = 10;
  auto job = spec(1);
  job.memory_bytes = 3ull << 30;
  const JobId first = w.running(job);
  const JobId second = w.submit(job);
  CHECK(w.job(second).state == JobState::pending);
  CHECK(says(w.job(second).reason, "no room for 3072 MiB on h1"));
  REQUIRE(w.until_state(first, JobState::completed));
  REQUIRE(w.until_state(second, JobState::completed));
}

TEST_CASE("jobs begin in the order of submission; a large one is passed by smaller ones, but not for ever") {
  World w(1);
  const auto of = [](std::uint64_t gibibytes) {
    auto job = spec(1);
    job.memory_bytes = gibibytes << 30;
    return job;
  };
  for (int i = 0; i < 9; ++i) w.answer(w.ask([id = w.submit(of(4))](RequestId r) { return StopJob{r, id}; }));
  const JobId runs = w.running(of(2));   // j10
  const JobId large = w.submit(of(3));   // j11
  const JobId small = w.running(of(1));  // passes it
  const JobId as_large = w.submit(of(3));
  const auto stop = [&](const JobId& id) {
    CHECK(w.answer(w.ask([&](RequestId r) { return StopJob{r, id}; })).has_value());
  };
  w.run_for(std::chrono::minutes(61));
  stop(small);
  const JobId next_small = w.submit(of(1));
  w.run_for(milliseconds(2'000));
  CHECK(w.job(next_small).state == JobState::pending);
  CHECK(says(w.job(next_small).reason, "job " + large.value + " is next"));
  CHECK(says(w.job(large).reason, "no room for 3072 MiB on h1"));
  stop(runs);
  REQUIRE(w.until_state(large, JobState::running));
  w.run_for(milliseconds(1'000));
  CHECK(says(w.job(next_small).reason, "job " + as_large.value + " is next"));  // it has waited for as long
  stop(as_large);
  REQUIRE(w.until_state(next_small, JobState::running));
  CHECK(w.broken() == "");
}

TEST_CASE("a job that waits for one host holds up nobody who could not go there") {
  World w(2);
  auto on_first = spec(1);
  on_first.memory_bytes = 3ull << 30;
  on_first.hosts = {HostName{"h1"}};
  w.running(on_first);
  const JobId waits = w.submit(on_first);
  w.run_for(std::chrono::minutes(61));
  auto on_second = spec(1);
  on_second.hosts = {HostName{"h2"}};
  w.running(on_second);
  const JobId anywhere = w.submit(spec(1));
  w.run_for(milliseconds(1'000));
  CHECK(says(w.job(anywhere).reason, "job " + waits.value + " is next"));
}

TEST_CASE("a job without a host waits for one, and cordoned hosts take nothing new") {
  World w(2);
  CHECK(w.answer(w.ask([](RequestId r) { return CordonHost{r, HostName{"h1"}, true}; })).has_value());
  const JobId id = w.running(spec());
  for (const auto& place : w.job(id).placement) CHECK(place.host.value == "h2");
  CHECK(w.core().hosts()[0].state == HostView::State::cordoned);
  CHECK(w.answer(w.ask([](RequestId r) { return CordonHost{r, HostName{"h2"}, true}; })).has_value());
  const JobId waits = w.submit(spec());
  CHECK(w.job(waits).state == JobState::pending);
  CHECK(says(w.job(waits).reason, "h1 is cordoned"));
  CHECK(w.answer(w.ask([](RequestId r) { return CordonHost{r, HostName{"h1"}, false}; })).has_value());
  CHECK(w.until_state(waits, JobState::running));
  CHECK(w.answer(w.ask([](RequestId r) {
           return CordonHost{r, HostName{"h9"}, true};
         }))
            .error()
            .kind == ErrorKind::not_found);
}

TEST_CASE("a start that a host cannot do fails clearly, and leaves nothing") {
  World w(2);
  w.script.failure = [](const HostName& host, const wire::ToHost& m) -> std::optional<Error> {
    if (host.value == "h2" && m.has_start_guests())
      return Error{ErrorKind::not_found, "start", "image foo", "no such file"};
    return std::nullopt;
  };
  const JobId id = w.submit(spec());
  REQUIRE(w.until_state(id, JobState::failed));
  CHECK(says(w.job(id).reason, "start of image foo on h2: no such file"));
  for (auto& [name, host] : w.hosts) CHECK(host.gangs.empty());
}

TEST_CASE("a host that is lost while a job starts costs a try, not the job") {
  World w(3);
  w.script.swallow = [](const HostName& host, const wire::ToHost& m) {
    return host.value == "h2" && m.has_start_guests();
  };
  const JobId id = w.submit(spec());
  w.run_for(milliseconds(500));
  CHECK(w.job(id).state == JobState::starting);
  w.kill(HostName{"h2"});
  REQUIRE(w.until_state(id, JobState::running));
  CHECK(w.job(id).incarnation == Incarnation{2});
  CHECK(w.broken() == "");
}

TEST_CASE("a start whose output cannot be stored fails, and says that the disk is full") {
  for (const bool late : {false, true}) {
    World w(2);
    std::optional<JobId> waits;
    w.script.swallow = [&](const HostName&, const wire::ToHost& m) { return !late && m.has_start_guests(); };
    w.script.cut_failure = [](const TruncateOutput&) {
      return std::optional(Error{ErrorKind::storage_full, "write", "the state directory", "no space left on device"});
    };
    const JobId id = w.submit(spec());
    REQUIRE(w.until_state(id, JobState::failed));
    CHECK(says(w.job(id).reason, "could not be started: write of the state directory: no space left on device"));
    w.run_for(milliseconds(500));
    for (auto& [name, host] : w.hosts) CHECK(host.gangs.empty());
    CHECK(w.broken() == "");
  }
}

TEST_CASE("how much is stored is asked again until it is known, and said once that it cannot be found") {
  World w(2);
  const JobId id = w.running(spec());
  w.run_for(milliseconds(1'000));
  w.script.measure_failures = 3;
  w.record = true;
  w.crash();
  w.run_for(milliseconds(30'000));
  CHECK(w.script.measure_failures == 0);
  CHECK(std::count_if(w.transcript.begin(), w.transcript.end(),
                      [](const auto& line) { return says(line, "log output not stored"); }) == 1);
  w.script.last_step = 400;
  REQUIRE(w.until_state(id, JobState::completed));
  CHECK(w.output[id] == w.expected_output(400));
}

TEST_CASE("a missing input file fails the start") {
  World w(2);
  auto job = spec();
  job.files = {"nothing"};
  const JobId id = w.submit(job);
  REQUIRE(w.until_state(id, JobState::failed));
  CHECK(says(w.job(id).reason, "read of nothing: no such file"));
}

TEST_CASE("the program's own failure fails the job with its exit code, and a missing output is only a warning") {
  World w(2);
  w.script.last_step = 5;
  w.script.exit_code = 3;
  w.script.missing_outputs = {"field.ppm"};
  const JobId id = w.submit(spec());
  REQUIRE(w.until_state(id, JobState::failed));
  CHECK(w.job(id).exit_code == 3);
  CHECK(says(w.job(id).reason, "exit code 3"));
  CHECK(w.output[id] == w.expected_output(5));
}

TEST_CASE("a missing output is named in the reason, whatever the exit code, also after a crash of the coordinator") {
  for (const int exit_code : {0, 3})
    for (std::uint64_t crash_at = 0; crash_at < 40; crash_at += crash_at == 0 ? 1 : 3) {
      CAPTURE(crash_at);
      World w(2, crash_at);
      w.script.exit_code = exit_code;
      w.script.missing_outputs = {"field.ppm"};
      auto job = spec();
      job.outputs = {"field.ppm", "other"};
      const JobId id = w.running(job);
      w.script.last_step = 3;
      if (crash_at != 0) w.crash_after_effects(crash_at);
      REQUIRE(w.until_state(id, exit_code == 0 ? JobState::completed : JobState::failed));
      CHECK(w.job(id).exit_code == exit_code);
      CHECK(says(w.job(id).reason, "not every output is there: field.ppm: "));
      CHECK_FALSE(says(w.job(id).reason, "other"));
      CHECK(w.outputs.contains("other"));
      CHECK(w.broken() == "");
    }
}

TEST_CASE("the next piece of an output is asked for when the one before is stored; what cannot be stored is missing") {
  World w(2);
  w.script.last_step = 5;
  auto job = spec();
  job.outputs = {"field.ppm", "other"};
  w.script.store_failure = [](const StoreOutputPiece& piece) {
    return piece.file == "field.ppm" && piece.last
               ? std::optional(Error{ErrorKind::storage_full, "write", "field.ppm", "no space left on device"})
               : std::nullopt;
  };
  w.record = true;
  const JobId id = w.submit(job);
  REQUIRE(w.until_state(id, JobState::completed));
  CHECK(says(w.job(id).reason, "not every output is there: field.ppm: write of field.ppm: no space left on device"));
  CHECK_FALSE(w.outputs.contains("field.ppm"));
  CHECK(w.outputs["other"] == "other at 0other at 10");
  bool on_disk = false;
  for (const auto& line : w.transcript) {
    if (says(line, "FetchFile") && says(line, "  to")) CHECK_FALSE(on_disk);
    if (says(line, "  store ")) on_disk = true;
    if (says(line, "stored") && says(line, "> ")) on_disk = false;
  }
  CHECK(w.broken() == "");
}

TEST_CASE("the end of the output that is lost with its host is named in the reason, and can be had again") {
  World w(2);
  const JobId id = w.running(spec());
  const Epoch epoch = w.committed(id);
  const HostName zero = w.job(id).placement[0].host;
  wire::FromHost ended;
  ended.mutable_gang()->set_job(id.value);
  ended.mutable_gang()->set_incarnation(1);
  ended.mutable_job_ended()->mutable_exited()->set_output_offset(1'000'000);
  w.say(zero, ended);
  REQUIRE(w.until([&] { return w.core().phase(id) == "output"; }));
  w.kill(zero);
  REQUIRE(w.until_state(id, JobState::completed));
  CHECK(w.job(id).exit_code == 0);
  CHECK(says(w.job(id).reason, std::string(kEndOfOutput) + ": host " + zero.value + " was lost"));
  CHECK(says(w.job(id).reason,
             "`stillpoint restart j1` runs its end again, from checkpoint " + std::to_string(epoch.value)));
  w.revive(zero);
  REQUIRE(w.answer(w.restart(id)).has_value());
  CHECK(w.job(id).state == JobState::running);
  CHECK(w.job(id).missing_outputs.empty());
  CHECK(w.broken() == "");
}

TEST_CASE("the end of the output that cannot be stored is named in the reason, with why") {
  World w(1);
  const JobId id = w.running(spec(1));
  w.script.append_failure = [](const AppendOutput&) {
    return std::optional(Error{ErrorKind::storage_full, "write", "output", "no space left on device"});
  };
  w.run_for(milliseconds(1'000));
  const auto stored = w.output[id];
  w.script.last_step = 400;
  REQUIRE(w.until_state(id, JobState::completed));
  CHECK(says(w.job(id).reason, std::string(kEndOfOutput) + ": write of output: no space left on device"));
  CHECK(w.output[id] == stored);
  CHECK(w.broken() == "");
}

TEST_CASE("what is placed next does not count on the memory of a gang that is still being destroyed") {
  World w(1);
  auto large = spec(1);
  large.memory_bytes = 3ull << 30;
  bool swallowed = true;
  w.script.swallow = [&](const HostName&, const wire::ToHost& m) { return swallowed && m.has_destroy(); };
  w.script.failure = [&](const HostName&, const wire::ToHost& m) -> std::optional<Error> {
    if (m.has_launch_job() && m.gang().job() == "j1") return Error{ErrorKind::permanent, "launch", "", "no mpirun"};
    return std::nullopt;
  };
  const JobId first = w.submit(large);
  REQUIRE(w.until_state(first, JobState::failed));
  const JobId second = w.submit(large);
  w.run_for(milliseconds(2'000));
  CHECK(w.job(second).state == JobState::pending);
  CHECK(says(w.job(second).reason, "no room"));
  swallowed = false;
  w.drop_session(HostName{"h1"});
  w.connect(HostName{"h1"});
  CHECK(w.until_state(second, JobState::running));
  CHECK(w.broken() == "");
}

TEST_CASE("exit code 0 of a gang that lost a host is no success") {
  World w(2);
  const JobId id = w.running(spec());
  const auto zero = w.job(id).placement[0].host, other = w.job(id).placement[1].host;
  w.kill(other);
  wire::FromHost ended;
  ended.mutable_gang()->set_job(id.value);
  ended.mutable_gang()->set_incarnation(1);
  ended.mutable_job_ended()->mutable_exited()->set_exit_code(0);
  w.say(zero, ended);
  REQUIRE(w.until_state(id, JobState::failed));
  CHECK(says(w.job(id).reason, "host " + other.value));
}

TEST_CASE("stop ends a running, a starting and a waiting job; a second stop is no error") {
  World w(2);
  const auto stop = [&](const JobId& id) { return w.answer(w.ask([&](RequestId r) { return StopJob{r, id}; })); };
  const JobId runs = w.running(spec());
  CHECK(stop(runs).has_value());
  CHECK(w.job(runs).state == JobState::stopped);
  CHECK(stop(runs).has_value());
  w.script.swallow = [](const HostName&, const wire::ToHost& m) { return m.has_start_guests(); };
  const JobId starts = w.submit(spec());
  CHECK(w.job(starts).state == JobState::starting);
  CHECK(stop(starts).has_value());
  CHECK(w.job(starts).state == JobState::stopped);
  auto large = spec();
  large.memory_bytes = 4ull << 30;
  large.guests = 3;
  large.ranks_per_guest = {1, 1, 1};
  const JobId waits = w.submit(large);
  CHECK(stop(waits).has_value());
  CHECK(w.job(waits).state == JobState::stopped);
  CHECK(stop(JobId{"j9"}).error().kind == ErrorKind::not_found);
  for (auto& [name, host] : w.hosts) CHECK(host.gangs.empty());
  CHECK(w.broken() == "");
}

TEST_CASE("rm takes a job that is over, with its images and files") {
  World w(2);
  const JobId id = w.running(spec());
  w.committed(id);
  const auto remove = [&](const JobId& job) { return w.answer(w.ask([&](RequestId r) { return RemoveJob{r, job}; })); };
  const auto refused = remove(id);
  REQUIRE(refused.has_error());
  CHECK(says(why(refused), "stop it first"));
  CHECK(w.answer(w.ask([&](RequestId r) { return StopJob{r, id}; })).has_value());
  CHECK(remove(id).has_value());
  CHECK(w.durable.jobs.empty());
  CHECK(w.durable.epochs.empty());
  CHECK(w.store.images.empty());
  CHECK(w.dropped.contains(id));
  CHECK(remove(id).error().kind == ErrorKind::not_found);
  CHECK(w.broken() == "");
}

TEST_CASE("rm is over when every host that is up has freed what it stored; a dead host's images go too") {
  World w(3);
  const JobId id = w.running(spec());
  w.committed(id);
  const std::string dead = w.job(id).placement.at(0).host.value;
  w.kill(HostName{dead});
  REQUIRE(w.until_state(id, JobState::failed));
  CHECK(w.answer(w.restart(id)).has_value());
  w.committed(id);
  CHECK(w.answer(w.ask([&](RequestId r) { return StopJob{r, id}; })).has_value());
  CHECK(w.answer(w.ask([&](RequestId r) { return RemoveJob{r, id}; })).has_value());
  CHECK(w.store.images.empty());
  for (const auto& [host, space] : w.store.space)
    if (host.value != dead) CHECK(space.empty());
  CHECK(w.broken() == "");
}

TEST_CASE("rm without a host to delete images is refused and changes nothing; one that never answers is given up") {
  World w(2);
  const JobId id = w.running(spec());
  const Epoch epoch = w.committed(id);
  CHECK(w.answer(w.ask([&](RequestId r) { return StopJob{r, id}; })).has_value());
  w.script.swallow = [](const HostName&, const wire::ToHost& m) { return m.has_delete_images(); };
  for (auto& [name, host] : w.hosts) w.drop_session(name);
  auto result = w.answer(w.ask([&](RequestId r) { return RemoveJob{r, id}; }));
  REQUIRE(result.has_error());
  CHECK(result.error().kind == ErrorKind::transient);
  CHECK(w.epoch(epoch).state == EpochState::committed);
  for (auto& [name, host] : w.hosts) w.connect(name);
  const Time asked = w.now;
  result = w.answer(w.ask([&](RequestId r) { return RemoveJob{r, id}; }));
  REQUIRE(result.has_error());
  CHECK(result.error().kind == ErrorKind::deadline);
  CHECK(says(result.error().message(), "not deleted in time on h1, h2"));
  CHECK(w.now - asked < milliseconds(120'000));
  w.script.swallow = nullptr;
  CHECK(w.answer(w.ask([&](RequestId r) { return RemoveJob{r, id}; })).has_value());
  CHECK(w.durable.jobs.empty());
  CHECK(w.store.images.empty());
  CHECK(w.broken() == "");
}

TEST_CASE("the output that an epoch kept goes with the epoch") {
  World w(2);
  auto wanted = spec();
  wanted.keep = 1;
  const JobId id = w.running(wanted);
  w.committed(id);
  const Epoch second = w.committed(id);
  CHECK(w.outputs_kept() == std::set<Epoch>{second});
  w.script.failure = [](const HostName&, const wire::ToHost& m) {
    return m.has_capture() ? std::optional(Error{ErrorKind::storage_full, "capture", "guest", "full"}) : std::nullopt;
  };
  CHECK(w.answer(w.checkpoint(id)).has_error());
  CHECK(w.outputs_kept() == std::set<Epoch>{second});
}

TEST_CASE("rank states are asked fresh, and answered from memory when a host is silent") {
  World w(2);
  const JobId id = w.running(spec());
  auto result = w.answer(w.ask([&](RequestId r) { return QueryRanks{r, id}; }));
  REQUIRE(result.has_value());
  CHECK(std::get<Ranks>(result.value()).ranks.size() == 2);
  w.script.swallow = [](const HostName&, const wire::ToHost& m) { return m.has_query(); };
  result = w.answer(w.ask([&](RequestId r) { return QueryRanks{r, id}; }));
  REQUIRE(result.has_value());
  CHECK(std::get<Ranks>(result.value()).ranks.size() == 2);
}

TEST_CASE("a lost host fails the job, says how to go on, and destroys the rest of the gang") {
  World w(3);
  const JobId id = w.running(spec());
  const Epoch epoch = w.committed(id);
  w.kill(w.job(id).placement[1].host);
  REQUIRE(w.until_state(id, JobState::failed));
  CHECK(says(w.job(id).reason, "was lost"));
  CHECK(says(w.job(id).reason, "stillpoint restart " + id.value));
  CHECK(says(w.job(id).reason, "checkpoint " + std::to_string(epoch.value)));
  w.run_for(milliseconds(1'000));
  for (auto& [name, host] : w.hosts) CHECK(host.gangs.empty());
}

TEST_CASE("a guest that is gone, and a rank that failed, fail the job") {
  for (const bool rank : {false, true}) {
    World w(2);
    const JobId id = w.running(spec());
    wire::FromHost bad;
    bad.mutable_gang()->set_job(id.value);
    bad.mutable_gang()->set_incarnation(1);
    if (rank) bad.mutable_rank_lost()->mutable_rank()->set_detail("MPIX_ERR_PROC_FAILED");
    else bad.mutable_guest_lost()->set_reason("crashed");
    w.say(HostName{"h1"}, bad);
    REQUIRE(w.until_state(id, JobState::failed));
    CHECK(says(w.job(id).reason, rank ? "rank 0 failed: MPIX_ERR_PROC_FAILED" : "crashed"));
  }
}

TEST_CASE("a failed rank that nobody can name is a rank") {
  World w(2);
  const JobId id = w.running(spec());
  wire::FromHost bad;
  bad.mutable_gang()->set_job(id.value);
  bad.mutable_gang()->set_incarnation(1);
  bad.mutable_rank_lost()->mutable_rank()->set_rank(0xffffffff);
  bad.mutable_rank_lost()->mutable_rank()->set_detail("its process is gone");
  w.say(HostName{"h1"}, bad);
  REQUIRE(w.until_state(id, JobState::failed));
  CHECK(w.job(id).reason.starts_with("a rank failed: its process is gone"));
}

TEST_CASE("a rank that failed and the program's end soon after: one failure, with exit code, output and remedy") {
  World w(2);
  const JobId id = w.running(spec());
  w.committed(id);
  wire::FromHost bad;
  bad.mutable_gang()->set_job(id.value);
  bad.mutable_gang()->set_incarnation(1);
  bad.mutable_rank_lost()->mutable_rank()->set_rank(1);
  bad.mutable_rank_lost()->mutable_rank()->set_detail("signal 11");
  w.say(HostName{"h1"}, bad);
  w.script.exit_code = 139;
  w.script.last_step = 1;
  REQUIRE(w.until_state(id, JobState::failed));
  CHECK(w.job(id).exit_code == 139);
  CHECK(
      says(w.job(id).reason, "rank 1 failed: signal 11; bring it back from checkpoint 1 with `stillpoint restart j1`"));
  REQUIRE(w.answer(w.ask([&](RequestId r) { return RestartJob{r, id, std::nullopt, {}}; })).has_value());
  CHECK_FALSE(w.job(id).exit_code.has_value());
}

TEST_CASE(
    "a rank that called MPI_Abort ends the program with that exit code, whatever the policy; its ranks are ended") {
  World w(2);
  JobSpec job = spec();
  job.restart_on_failure = true;
  const JobId id = w.running(job);
  w.committed(id);
  bool stopped = false;
  w.script.failure = [&](const HostName&, const wire::ToHost& m) -> std::optional<Error> {
    stopped = stopped || m.has_stop();
    return std::nullopt;
  };
  wire::FromHost end;
  end.mutable_gang()->set_job(id.value);
  end.mutable_gang()->set_incarnation(1);
  auto& rank = *end.mutable_rank_lost()->mutable_rank();
  rank.set_rank(1);
  rank.set_detail("it called MPI_Abort");
  rank.set_exit_code(7);
  w.say(HostName{"h1"}, end);
  REQUIRE(w.until_state(id, JobState::failed));
  CHECK(stopped);
  CHECK(w.job(id).exit_code == 7);
  CHECK(says(w.job(id).reason, "the program ended with exit code 7: rank 1: it called MPI_Abort"));
  CHECK(w.job(id).automatic_restarts == 0);
  CHECK(w.broken() == "");
}

TEST_CASE("mpirun says 0 and a rank had been gone: that is no proof of a result") {
  World w(2);
  const JobId id = w.running(spec());
  w.committed(id);
  w.script.failed_rank = 1;
  w.script.last_step = 1;
  REQUIRE(w.until_state(id, JobState::failed));
  CHECK(says(w.job(id).reason, "rank 1 was gone without MPI_Finalize as the program ended"));
}

TEST_CASE("an answer to the stop that comes late is none to what is asked next") {
  World w(2);
  const JobId id = w.running(spec());
  wire::ToHost late;
  HostName host;
  w.script.swallow = [&](const HostName& asked, const wire::ToHost& m) {
    if (!m.has_stop()) return false;
    late = m;
    host = asked;
    return true;
  };
  bool answered = false;
  w.script.failure = [&](const HostName&, const wire::ToHost& m) -> std::optional<Error> {
    if (m.has_fetch_file() && !std::exchange(answered, true)) {
      wire::FromHost done;
      done.set_request(late.request());
      *done.mutable_gang() = late.gang();
      done.mutable_done();
      w.say(host, done);
    }
    return std::nullopt;
  };
  wire::FromHost end;
  end.mutable_gang()->set_job(id.value);
  end.mutable_gang()->set_incarnation(1);
  end.mutable_rank_lost()->mutable_rank()->set_exit_code(7);
  w.say(HostName{"h1"}, end);
  REQUIRE(w.until_state(id, JobState::failed));
  CHECK(answered);
  CHECK_FALSE(says(w.job(id).reason, "field.ppm"));  // it was fetched
  CHECK(w.broken() == "");
}

TEST_CASE("a short cut of the network harms nothing; a host that comes back empty fails the job") {
  World w(2);
  const JobId id = w.running(spec());
  const HostName host = w.job(id).placement[1].host;
  w.drop_session(host);
  w.run_for(milliseconds(3'000));
  w.connect(host);
  w.run_for(milliseconds(3'000));
  CHECK(w.job(id).state == JobState::running);
  w.drop_session(host);
  w.hosts.at(host).gangs.clear();
  w.connect(host);
  CHECK(w.job(id).state == JobState::failed);
  CHECK(says(w.job(id).reason, "no longer on host " + host.value));
}

TEST_CASE("what an old session or incarnation says is rejected and counted") {
  World w(2);
  const JobId id = w.running(spec());
  const auto before = w.core().rejected();
  wire::FromHost old;
  old.mutable_gang()->set_job(id.value);
  old.mutable_gang()->set_incarnation(7);
  old.mutable_guest_lost()->set_reason("long ago");
  w.say(HostName{"h1"}, old);
  old.mutable_gang()->set_incarnation(1);
  w.give(HostSpoke{HostName{"h1"}, SessionId{999}, old});
  wire::FromHost answer;
  answer.set_request(12345);
  w.say(HostName{"h1"}, answer);
  CHECK(w.core().rejected() == before + 3);
  CHECK(w.job(id).state == JobState::running);
}

TEST_CASE("an unknown gang is destroyed") {
  World w(1);
  auto& host = w.host("h1");
  auto& gang = host.gangs[{JobId{"j77"}, 3}];
  gang.job = JobId{"j77"};
  gang.incarnation = 3;
  gang.guests[0];
  w.drop_session(host.name);
  w.connect(host.name);
  w.run_for(milliseconds(200));
  CHECK(host.gangs.empty());
}

TEST_CASE("a hello of another protocol or name is sent away") {
  World w(1);
  auto hello = w.host("h1").hello();
  hello.set_host("h2");
  w.give(HostConnected{HostName{"h1"}, SessionId{50}, hello});
  CHECK(w.core().hosts().size() == 1);
  w.run_for(milliseconds(2'000));
  CHECK(w.core().hosts()[0].state == HostView::State::up);  // the session it had goes on
}
