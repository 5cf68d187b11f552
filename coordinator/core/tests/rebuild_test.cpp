// The catalog is lost, or older than what was done: made again from the records that hosts have of checkpoints.
#include <doctest/doctest.h>

#include <algorithm>

#include "coordinator/core/after_loss.h"
#include "coordinator/core/tests/world.h"

using namespace stillpoint;
using namespace stillpoint::coordinator;
using namespace stillpoint::coordinator::testing;

namespace {

// The coordinator ends, and a new one starts with an empty catalog, or with an older copy of it.
void lose_catalog(World& w) {
  CatalogState empty;
  empty.coordinator = w.durable.coordinator;
  w.begin_with(empty, beyond_loss(1, 1'800'000'000));
  w.run_for(milliseconds(500));  // the hosts are back
}
void put_back(World& w, CatalogState copy) {
  w.begin_with(copy, after_loss(copy, "the catalog was put back", 1));
  w.run_for(milliseconds(500));
}

void own_directories(World& w) {
  for (auto& [name, host] : w.hosts) {
    host.own_images = true;
    w.drop_session(name);
    w.connect(name);
  }
}

Rebuilt rebuild(World& w) {
  const auto answer = w.answer(w.ask([](RequestId r) { return RebuildCatalog{r}; }));
  REQUIRE_MESSAGE(answer.has_value(), answer.error());
  return std::get<Rebuilt>(*answer);
}

std::vector<Epoch> epochs_of(const Rebuilt& rebuilt, const JobId& job) {
  for (const auto& one : rebuilt.jobs)
    if (one.job == job) return one.epochs;
  return {};
}

}  // namespace

TEST_CASE("from the records of its hosts a job of a lost catalog comes back, and works on from its newest checkpoint") {
  World w(3);
  const JobId id = w.running(spec());
  const Epoch first = w.committed(id), second = w.committed(id);
  w.run_for(milliseconds(500));
  const JobRecord before = w.job(id);
  const EpochRecord whole = w.epoch(second);
  lose_catalog(w);
  CHECK(w.durable.jobs.empty());
  const auto rebuilt = rebuild(w);
  CHECK_MESSAGE(rebuilt.problems.empty(), rebuilt.problems.front());
  CHECK(epochs_of(rebuilt, id) == std::vector<Epoch>{first, second});
  CHECK(w.job(id).state == JobState::failed);
  CHECK(w.job(id).reason.find("stillpoint restart " + id.value) != std::string::npos);
  CHECK(w.job(id).spec.command == before.spec.command);
  CHECK(w.job(id).manifest == before.manifest);
  CHECK(w.job(id).incarnation > before.incarnation);
  const EpochRecord& found = w.epoch(second);
  CHECK(found.time == whole.time);
  CHECK(found.incarnation == whole.incarnation);
  CHECK(found.output_offset == whole.output_offset);
  REQUIRE(found.images.size() == whole.images.size());
  for (std::size_t i = 0; i < whole.images.size(); ++i) {
    CHECK(found.images[i].SerializeAsString() == whole.images[i].SerializeAsString());
    CHECK(found.cut[i].SerializeAsString() == whole.cut[i].SerializeAsString());
  }
  // Nothing is there twice, and what it knows again may go again.
  CHECK(rebuild(w).jobs.empty());
  const auto restarted = w.answer(w.restart(id));
  REQUIRE_MESSAGE(restarted.has_value(), restarted.error());
  CHECK(std::get<Restarted>(*restarted).epoch == second);
  REQUIRE(w.until_state(id, JobState::running));
  CHECK(w.committed(id) > second);
  CHECK(w.broken() == "");
}

TEST_CASE("a checkpoint of which a host with a part is away is taken in when it is back, or from its partner's copy") {
  for (const bool copied : {false, true}) {
    CAPTURE(copied);
    World w(3);
    own_directories(w);
    JobSpec job = spec();
    job.durability = copied ? "host-loss" : "local";
    const JobId id = w.running(job);
    const Epoch epoch = w.committed(id);
    w.run_for(milliseconds(500));
    const HostName away = w.job(id).placement[1].host;
    w.kill(away);
    lose_catalog(w);
    const auto rebuilt = rebuild(w);
    CHECK(epochs_of(rebuilt, id).size() == (copied ? 1 : 0));
    REQUIRE(rebuilt.problems.size() == (copied ? 0 : 1));
    if (!copied) {
      CHECK(rebuilt.problems[0].find("records of 1 of its 2 guests") != std::string::npos);
      CHECK(w.durable.jobs.empty());
    }
    w.revive(away);
    w.run_for(milliseconds(500));
    CHECK(epochs_of(rebuild(w), id).size() == (copied ? 0 : 1));
    CHECK(w.epoch(epoch).state == EpochState::committed);
    CHECK(w.broken() == "");
  }
}

TEST_CASE("with the files of the coordinator lost as well the job goes on, and says what of its output is missing") {
  World w(3);
  const JobId id = w.running(spec());
  w.run_for(milliseconds(20'000));
  const Epoch epoch = w.committed(id);
  w.run_for(milliseconds(500));
  const std::string before = w.output.at(id);
  REQUIRE(before.size() > 60);
  lose_catalog(w);
  w.lose_output(id);
  REQUIRE(epochs_of(rebuild(w), id) == std::vector<Epoch>{epoch});
  REQUIRE(w.answer(w.restart(id)).has_value());
  REQUIRE(w.until([&] { return w.output[id].size() > before.size(); }));
  const std::string& after = w.output.at(id);
  CHECK(after.starts_with("[stillpoint: "));
  const std::string steps = w.expected_output(10'000);
  const std::size_t goes_on = after.rfind("\n\n") + 2;
  CHECK(after.substr(goes_on) == steps.substr(goes_on, after.size() - goes_on));
  std::vector<std::string> told;
  for (const auto& event : w.history)
    if (event.what == "output lost") told.push_back(event.detail);
  CHECK(told.size() == 1);
}

TEST_CASE("checkpoints that are younger than the copy of the catalog are taken in") {
  World w(3);
  const JobId id = w.running(spec());
  const Epoch in_copy = w.committed(id);
  w.run_for(milliseconds(500));
  const CatalogState copy = w.durable;
  const Epoch since = w.committed(id);
  const JobId young = w.running(spec(1));
  const Epoch its = w.committed(young);
  w.run_for(milliseconds(500));
  put_back(w, copy);
  const auto rebuilt = rebuild(w);
  CHECK(epochs_of(rebuilt, id) == std::vector<Epoch>{since});
  CHECK(epochs_of(rebuilt, young) == std::vector<Epoch>{its});
  CHECK(w.epoch(in_copy).state == EpochState::committed);
  const auto restarted = w.answer(w.restart(id));
  REQUIRE_MESSAGE(restarted.has_value(), restarted.error());
  CHECK(std::get<Restarted>(*restarted).epoch == since);
  CHECK(w.broken() == "");
}

TEST_CASE("a job that was found and then removed does not come back with a host that was away") {
  World w(3);
  const JobId id = w.running(spec());
  const Epoch epoch = w.committed(id);
  w.run_for(milliseconds(500));
  const HostName away = w.job(id).placement[1].host;
  lose_catalog(w);
  REQUIRE(epochs_of(rebuild(w), id) == std::vector<Epoch>{epoch});
  w.kill(away);
  w.run_for(milliseconds(30'000));
  REQUIRE(w.answer(w.ask([&](RequestId r) { return RemoveJob{r, id}; })).has_value());
  w.revive(away);
  w.run_for(milliseconds(500));
  CHECK(rebuild(w).jobs.empty());
  CHECK_FALSE(w.durable.jobs.contains(id));
  CHECK(w.broken() == "");
}

TEST_CASE("images of a found job's attempt that was under way stay until the job is removed, and go with it") {
  World w(2);
  const JobId id = w.running(spec());
  const Epoch epoch = w.committed(id);
  w.run_for(milliseconds(500));
  lose_catalog(w);
  std::map<std::string, std::set<std::uint64_t>> deleted;
  w.script.swallow = [&](const HostName& host, const wire::ToHost& ask) {
    for (const auto number : ask.delete_images().epochs()) deleted[host.value].insert(number);
    return false;
  };
  wire::FromHost held;
  auto& one = *held.mutable_held()->add_jobs();
  one.set_job(id.value);
  one.add_epochs(epoch.value);
  one.add_epochs(epoch.value + 1);
  w.say(HostName{"h1"}, held);
  // What was still being stored is told of in another way, before the job is found or after it.
  wire::FromHost stored;
  stored.mutable_gang()->set_job(id.value);
  stored.mutable_gang()->set_incarnation(1);
  stored.set_epoch(epoch.value + 2);
  stored.mutable_images();
  w.say(HostName{"h2"}, stored);
  REQUIRE(epochs_of(rebuild(w), id) == std::vector<Epoch>{epoch});
  stored.set_epoch(epoch.value + 3);
  w.say(HostName{"h2"}, stored);
  w.run_for(milliseconds(1'000));
  CHECK(deleted.empty());
  REQUIRE(w.answer(w.ask([&](RequestId r) { return RemoveJob{r, id}; })).has_value());
  for (const char* host : {"h1", "h2"})
    for (std::uint64_t i = 0; i < 4; ++i) CHECK(deleted[host].contains(epoch.value + i));
  CHECK(w.broken() == "");
}

TEST_CASE("what is no record of this coordinator's, or lies, is named and changes nothing") {
  World w(2);
  const JobId id = w.running(spec());
  (void)w.committed(id);
  w.run_for(milliseconds(500));
  lose_catalog(w);
  const auto records = w.store.records;
  const auto change = [&](auto how) {
    for (auto& [name, kept_there] : w.store.records)
      for (auto& [key, kept] : kept_there) {
        wire::CheckpointRecord record;
        REQUIRE(record.ParseFromString(kept.record()));
        how(record);
        kept.set_record(record.SerializeAsString());
      }
    const auto rebuilt = rebuild(w);
    CHECK(rebuilt.jobs.empty());
    CHECK_FALSE(rebuilt.problems.empty());
    CHECK(w.durable.jobs.empty());
    w.store.records = records;
  };
  change([](auto& record) { record.set_coordinator("another"); });
  change([](auto& record) { record.set_spec("no JSON"); });
  change([](auto& record) { record.set_spec(R"({"name":"x"})"); });
  change([](auto& record) { record.set_epoch(std::uint64_t{1} << 60); });
  change([](auto& record) { record.set_incarnation(0); });
  change([](auto& record) { record.mutable_images(0)->set_guest(7); });
  for (auto& [name, kept_there] : w.store.records)
    for (auto& [key, kept] : kept_there) kept.set_record("\xff\xff");
  CHECK_FALSE(rebuild(w).problems.empty());
  CHECK(w.broken() == "");
}

TEST_CASE("jobs with numbers far beyond the new catalog's are found, all of them, and no image of theirs is deleted") {
  World w(2);
  const JobId id = w.running(spec());
  const Epoch epoch = w.committed(id);
  w.run_for(milliseconds(500));
  // As if there had been many jobs: the same checkpoint, told of others. Their order by name is not that of numbers.
  auto& records = w.store.records;
  const auto of_one = records;
  records.clear();
  for (const std::uint64_t number : {10'500, 2'000, 90'000})
    for (const auto& [host, kept] : of_one) {
      wire::KeepRecord record = kept.begin()->second;
      wire::CheckpointRecord changed;
      REQUIRE(changed.ParseFromString(record.record()));
      const JobId other{"j" + std::to_string(number)};
      changed.set_job(other.value);
      changed.set_epoch(epoch.value + number);
      record.set_record(changed.SerializeAsString());
      records[host][{other, epoch.value + number}] = record;
    }
  lose_catalog(w);
  const auto rebuilt = rebuild(w);
  CHECK(rebuilt.problems.empty());
  CHECK(rebuilt.jobs.size() == 3);
  // Nor of a job in between, of which a host that was away has images.
  std::vector<std::string> deleted;
  w.script.swallow = [&](const HostName&, const wire::ToHost& ask) {
    if (ask.has_delete_images()) deleted.push_back(ask.gang().job());
    return false;
  };
  wire::FromHost held;
  for (const std::uint64_t number : {10'500, 2'000, 90'000, 1'500, 50'000}) {
    auto& one = *held.mutable_held()->add_jobs();
    one.set_job("j" + std::to_string(number));
    one.add_epochs(epoch.value + number);
  }
  w.say(HostName{"h1"}, held);
  w.run_for(milliseconds(1'000));
  CHECK(deleted.empty());
}

TEST_CASE("a record that is under way when its job is removed is not sent again") {
  World w(2);
  w.script.swallow = [](const HostName& host, const wire::ToHost& ask) {
    return host.value == "h2" && ask.has_keep_record();
  };
  const JobId id = w.running(spec());
  (void)w.committed(id);
  w.run_for(milliseconds(500));
  REQUIRE(w.answer(w.ask([&](RequestId r) { return StopJob{r, id}; })).has_value());
  REQUIRE(w.answer(w.ask([&](RequestId r) { return RemoveJob{r, id}; })).has_value());
  unsigned sent = 0;
  w.script.swallow = [&](const HostName&, const wire::ToHost& ask) {
    sent += ask.has_keep_record() ? 1 : 0;
    return false;
  };
  w.drop_session(HostName{"h2"});
  w.connect(HostName{"h2"});
  w.run_for(milliseconds(60'000));
  CHECK(sent == 0);
  // The host gets those of other jobs as ever.
  const JobId other = w.running(spec());
  (void)w.committed(other);
  w.run_for(milliseconds(500));
  CHECK(sent == 2);
  CHECK(w.broken() == "");
}

TEST_CASE("output that the coordinator cannot take, since a disk stands still, is not taken for lost") {
  World w(3);
  w.works = false;
  std::vector<JobId> jobs;
  for (int i = 0; i < 5; ++i) jobs.push_back(w.running(spec(1)));
  w.script.append_hangs = true;
  const auto print = [&](const JobId& job, std::uint64_t offset, std::size_t bytes) {
    wire::FromHost message;
    message.mutable_gang()->set_job(job.value);
    message.mutable_gang()->set_incarnation(w.job(job).incarnation.value);
    auto& output = *message.mutable_output()->mutable_output();
    output.set_offset(offset);
    output.set_data(std::string(bytes, 'x'));
    w.say(w.job(job).placement[0].host, message);
  };
  // Four take all room that there is for what is not on the disk yet.
  for (int i = 0; i < 4; ++i)
    for (std::uint64_t piece = 0; piece < 8; ++piece) print(jobs[i], piece << 20, 1u << 20);
  for (int second = 0; second < 15; ++second) {
    print(jobs[4], 0, 100);
    print(jobs[4], 100, 100);
    w.run_for(milliseconds(1'000));
  }
  for (const auto& event : w.history) CHECK(event.what != "output lost");
}

TEST_CASE("with no host up there is nothing to ask, and hosts that say nothing are named") {
  World w(2);
  own_directories(w);
  JobSpec job = spec();
  job.durability = "local";
  const JobId id = w.running(job);
  const Epoch epoch = w.committed(id);
  w.run_for(milliseconds(500));
  lose_catalog(w);
  w.script.swallow = [](const HostName& host, const wire::ToHost& ask) {
    return host.value == "h2" && ask.has_read_records();
  };
  const auto rebuilt = rebuild(w);
  REQUIRE(rebuilt.problems.size() == 2);
  CHECK(rebuilt.problems[0].find("h2 did not say in time") != std::string::npos);
  w.script.swallow = nullptr;
  CHECK(epochs_of(rebuild(w), id) == std::vector<Epoch>{epoch});
  for (const char* host : {"h1", "h2"}) w.kill(HostName{host});
  w.run_for(milliseconds(30'000));
  const auto refused = w.answer(w.ask([](RequestId r) { return RebuildCatalog{r}; }));
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().kind == ErrorKind::transient);
}
