// Checkpoints that reach a higher level after their commit.
#include "coordinator/core/later.h"

#include <doctest/doctest.h>

#include "coordinator/core/copies.h"
#include "coordinator/core/tests/world.h"

using namespace stillpoint;
using namespace stillpoint::coordinator;
using namespace stillpoint::coordinator::testing;

namespace {

// Two hosts that run the job, and a third one for copies; all with an S3 store.
struct Later : World {
  Later() : World(3) {
    for (auto& [name, one] : hosts) {
      one.own_images = one.object_store = true;
      drop_session(name);
      connect(name);
    }
    script.failure = [this](const HostName& host, const wire::ToHost& ask) -> std::optional<Error> {
      if (!ask.has_copy_images()) return std::nullopt;
      asked.push_back(Epoch{ask.epoch()});
      if (fails.contains(host)) return Error{ErrorKind::transient, "copy images", "j1", "the S3 store is full"};
      return std::nullopt;
    };
  }
  JobId job_with(const std::string& durability, const std::string& later) {
    JobSpec job = spec();
    job.hosts = {{"h1"}, {"h2"}};
    job.durability = durability;
    job.later_durability = later;
    const JobId id = running(job);
    run_for(milliseconds(1'000));
    return id;
  }
  bool reaches(Epoch number, const std::string& level) {
    return until([&] { return copies::level(epoch(number)) == level; });
  }
  std::set<HostName> fails;
  std::vector<Epoch> asked;
};

}  // namespace

TEST_CASE("a checkpoint is committed at its level and reaches the later one afterwards") {
  for (const auto& [first, then] : {std::pair{"local", "host-loss"}, {"local", "site"}, {"host-loss", "site"}}) {
    Later w;
    const JobId id = w.job_with(first, then);
    w.script.swallow = [](const HostName&, const wire::ToHost& ask) { return ask.has_copy_images(); };
    const Epoch number = w.committed(id);
    CHECK(copies::level(w.epoch(number)) == first);
    w.script.swallow = {};
    for (const char* host : {"h1", "h2"}) {
      w.drop_session({host});
      w.connect({host});
    }
    CHECK(w.reaches(number, then));
    CHECK(w.broken() == "");
  }
}

TEST_CASE("a job that wants no higher level has nothing copied after its commits") {
  Later w;
  const JobId id = w.job_with("local", "");
  const Epoch number = w.committed(id);
  w.run_for(milliseconds(60'000));
  CHECK(w.asked.empty());
  CHECK(copies::level(w.epoch(number)) == "local");
}

TEST_CASE("copying goes on after the coordinator was killed, wherever that was") {
  for (std::uint64_t effects = 1; effects < 40; ++effects) {
    Later w;
    const JobId id = w.job_with("host-loss", "site");
    const Epoch number = w.committed(id);
    w.crash_after_effects(effects);
    CHECK_MESSAGE(w.reaches(number, "site"), "killed after ", effects, " effects");
    CHECK(w.broken() == "");
  }
}

TEST_CASE("no copy is begun while a checkpoint is taken, and none holds one up") {
  Later w;
  const JobId id = w.job_with("host-loss", "site");
  w.script.swallow = [](const HostName&, const wire::ToHost& ask) { return ask.has_copy_images(); };
  const Epoch first = w.committed(id);
  w.run_for(milliseconds(1'000));
  // The copies of the first one are under way and never end.
  const Epoch second = w.committed(id);
  CHECK(copies::level(w.epoch(first)) == "host-loss");
  CHECK(copies::level(w.epoch(second)) == "host-loss");
  w.script.upload = milliseconds(20'000);
  w.script.swallow = {};
  w.fails = {{"h1"}, {"h2"}};
  for (const char* host : {"h1", "h2"}) {
    w.drop_session({host});
    w.connect({host});
  }
  w.run_for(milliseconds(1'000));
  w.checkpoint(id);
  w.run_for(milliseconds(1'000));
  REQUIRE(w.job(id).attempt);
  w.asked.clear();
  w.run_for(milliseconds(15'000));
  REQUIRE(w.job(id).attempt);
  CHECK(w.asked.empty());
}

TEST_CASE("the newest checkpoint is copied first; what fails is tried again, and said") {
  Later w;
  const JobId id = w.job_with("host-loss", "site");
  w.fails = {{"h1"}};
  const Epoch first = w.committed(id);
  w.run_for(milliseconds(1'000));
  const Epoch second = w.committed(id);
  w.asked.clear();
  w.run_for(milliseconds(60'000));
  CHECK(copies::level(w.epoch(second)) == "host-loss");
  w.fails.clear();
  CHECK(w.reaches(second, "site"));
  CHECK(w.reaches(first, "site"));
  CHECK(w.asked.front() == second);
  CHECK(w.broken() == "");
}

TEST_CASE("copies of a host that is lost stay away; a job is removed while copies are under way") {
  Later w;
  const JobId id = w.job_with("host-loss", "site");
  w.script.swallow = [](const HostName&, const wire::ToHost& ask) { return ask.has_copy_images(); };
  const Epoch number = w.committed(id);
  w.kill({"h1"});
  REQUIRE(w.until_state(id, JobState::failed));
  w.script.swallow = {};
  w.run_for(milliseconds(60'000));
  CHECK(copies::level(w.epoch(number)) == "host-loss");
  w.script.swallow = [](const HostName&, const wire::ToHost& ask) { return ask.has_copy_images(); };
  w.drop_session({"h2"});
  w.connect({"h2"});
  w.run_for(milliseconds(1'000));
  const auto removed = w.answer(w.ask([&](RequestId request) { return RemoveJob{request, id}; }));
  CHECK_MESSAGE(removed.has_value(), removed.error());
  w.run_for(milliseconds(60'000));
  CHECK(w.broken() == "");
}
