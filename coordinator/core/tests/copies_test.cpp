// Hosts that share no directory: who keeps copies, and what a restart takes when hosts are lost with what they kept.
#include "coordinator/core/copies.h"

#include <doctest/doctest.h>

#include "coordinator/core/tests/world.h"

using namespace stillpoint;
using namespace stillpoint::coordinator;
using namespace stillpoint::coordinator::testing;

namespace {

bool says(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// Hosts h1, h2, … with images of their own; domains by host, empty: none.
struct OwnImages : World {
  explicit OwnImages(int count, const std::vector<std::string>& domains = {}) : World(count) {
    for (int i = 1; i <= count; ++i) {
      FakeHost& one = host("h" + std::to_string(i));
      one.own_images = true;
      if (!domains.empty()) one.domain = domains.at(static_cast<std::size_t>(i - 1));
      drop_session(one.name);
      connect(one.name);
    }
  }
  // By guest: the host that stored it, and who has the copy.
  std::map<std::uint32_t, std::pair<std::string, std::string>> places(Epoch number) const {
    std::map<std::uint32_t, std::pair<std::string, std::string>> found;
    for (const auto& image : epoch(number).images) {
      const std::string& path = image.memory().path();
      REQUIRE(image.memory().copies_size() == 1);
      found[image.guest()] = {path.substr(0, path.find('/')), image.memory().copies(0)};
    }
    return found;
  }
};

JobSpec placed_on(const std::vector<HostName>& hosts) {
  JobSpec job = spec();
  job.hosts = hosts;
  return job;
}

}  // namespace

TEST_CASE("copies go to another failure domain, away from the gang, and stay with who has the last ones") {
  OwnImages w(6, {"a", "b", "a", "a", "b", "b"});
  const JobId id = w.running(placed_on({{"h1"}, {"h2"}}));
  w.run_for(milliseconds(1'000));
  const auto first = w.places(w.committed(id));
  for (const auto& [guest, where] : first) {
    CHECK(w.host(where.first).domain != w.host(where.second).domain);
    CHECK(where.second != "h1");
    CHECK(where.second != "h2");
  }
  CHECK(copies::level(w.epoch(Epoch{1})) == "host-loss");
  w.run_for(milliseconds(1'000));
  CHECK(w.places(w.committed(id)) == first);
  // Whose partner is gone gets another one.
  w.kill({first.at(0).second});
  w.run_for(milliseconds(15'000));
  CHECK(w.places(w.committed(id)).at(0).second != first.at(0).second);
  CHECK(w.broken() == "");
}

TEST_CASE("with nobody to keep a copy a checkpoint is refused, and a job that wants none is not") {
  OwnImages w(1);
  const JobId id = w.running(spec());
  w.run_for(milliseconds(1'000));
  const auto refused = w.answer(w.checkpoint(id));
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().kind == ErrorKind::refused);
  CHECK_MESSAGE(says(refused.error().message(), "no other host is up that could keep a copy"), refused.error());
  CHECK(w.job(id).state == JobState::running);
  JobSpec local = spec();
  local.durability = "local";
  const JobId other = w.running(local);
  w.run_for(milliseconds(1'000));
  CHECK(copies::level(w.epoch(w.committed(other))) == "local");
}

TEST_CASE("site needs an S3 store") {
  World w(2);
  JobSpec job = spec();
  job.durability = "site";
  const JobId id = w.running(job);
  w.run_for(milliseconds(1'000));
  const auto refused = w.answer(w.checkpoint(id));
  REQUIRE_FALSE(refused.has_value());
  CHECK_MESSAGE(says(refused.error().message(), "knows of no S3 store"), refused.error());
}

TEST_CASE("one host lost: the newest checkpoint; both that had it: an older one that stands, and it is said") {
  OwnImages w(6);
  const JobId id = w.running(placed_on({{"h1"}, {"h2"}}));
  w.run_for(milliseconds(1'000));
  const Epoch first = w.committed(id);
  w.run_for(milliseconds(1'000));
  // The next one's images are on other hosts altogether.
  std::vector<HostName> others;
  for (const char* name : {"h3", "h4", "h5", "h6"})
    if (others.size() < 2 && name != w.places(first).at(0).second && name != w.places(first).at(1).second)
      others.push_back({name});
  REQUIRE(others.size() == 2);
  REQUIRE(w.answer(w.restart(id, first, others)).has_value());
  w.run_for(milliseconds(1'000));
  const Epoch second = w.committed(id);
  const auto where = w.places(second);
  w.run_for(milliseconds(1'000));
  w.kill({where.at(0).first});
  REQUIRE(w.until_state(id, JobState::failed));
  SUBCASE("the partner lives") {
    const auto result = w.answer(w.restart(id, std::nullopt, {{"h1"}, {"h2"}}));
    REQUIRE_MESSAGE(result.has_value(), result.error());
    CHECK(std::get<Restarted>(result.value()).epoch == second);
  }
  SUBCASE("the partner is lost too") {
    w.kill({where.at(0).second});
    w.run_for(milliseconds(15'000));
    const auto named = w.answer(w.restart(id, second));
    REQUIRE_FALSE(named.has_value());
    CHECK_MESSAGE(says(named.error().message(), "guest 0's image is on " + where.at(0).first + " and " +
                                                    where.at(0).second + " alone, which are not up"),
                  named.error());
    const auto result = w.answer(w.restart(id));
    REQUIRE_MESSAGE(result.has_value(), result.error());
    CHECK(std::get<Restarted>(result.value()).epoch == first);
    CHECK_MESSAGE(says(w.job(id).reason, "checkpoint " + std::to_string(first.value) + " is taken instead"),
                  w.job(id).reason);
  }
  CHECK(w.broken() == "");
}

TEST_CASE("hosts that come back in time are waited for before an older checkpoint is taken") {
  OwnImages w(4);
  JobSpec job = placed_on({{"h1"}, {"h2"}});
  job.restart_on_failure = true;
  const JobId id = w.running(job);
  w.run_for(milliseconds(1'000));
  w.committed(id);
  w.run_for(milliseconds(1'000));
  const Epoch second = w.committed(id);
  const auto where = w.places(second);
  // Their sessions end for a moment, and the machines that ran on one of them with it: not what is on their disks.
  w.drop_session({where.at(0).second});
  REQUIRE(w.ask([&](RequestId request) { return RestartJob{request, id, std::nullopt, {}, false}; }).value > 0);
  w.run_for(milliseconds(500));
  w.connect({where.at(0).second});
  REQUIRE(w.until_state(id, JobState::running));
  CHECK(w.job(id).restored_from == second);
  CHECK(w.broken() == "");
}

TEST_CASE("damage while another keeper is only away: an older checkpoint is taken, and the newer one is not given up") {
  OwnImages w(6);
  const JobId id = w.running(placed_on({{"h1"}, {"h2"}}));
  w.run_for(milliseconds(1'000));
  const Epoch first = w.committed(id), second = w.committed(id);
  const std::string path = w.epoch(second).images[0].memory().path();
  const HostName keeper{w.epoch(second).images[0].memory().copies(0)};
  w.store.damaged.insert(path);
  bool away = false;
  SUBCASE("both are there") {}
  SUBCASE("the partner is away") { away = true; }
  if (away) w.kill(keeper);
  w.run_for(milliseconds(15'000));
  const auto result = w.answer(w.restart(id));
  REQUIRE_MESSAGE(result.has_value(), result.error());
  const auto& restarted = std::get<Restarted>(result.value());
  CHECK(restarted.epoch == first);
  CHECK(w.epoch(second).state == (away ? EpochState::committed : EpochState::damaged));
  const std::string words = "a copy on " + keeper.value + " may be whole, and that host is not up";
  CHECK_MESSAGE(says(restarted.story, words) == away, restarted.story);
  CHECK(w.broken() == "");
}

TEST_CASE("verify has every copy read that somebody who is up keeps") {
  OwnImages w(6);
  const JobId id = w.running(placed_on({{"h1"}, {"h2"}}));
  w.run_for(milliseconds(1'000));
  const Epoch number = w.committed(id);
  std::set<std::string> keepers, asked;
  for (const auto& [guest, where] : w.places(number)) keepers.insert({where.first, where.second});
  REQUIRE(keepers.size() >= 3);
  w.script.failure = [&](const HostName& host, const wire::ToHost& m) -> std::optional<Error> {
    if (m.has_verify_images()) asked.insert(host.value);
    return std::nullopt;
  };
  const auto result = w.answer(w.ask([&](RequestId request) { return VerifyJob{request, id, std::nullopt}; }));
  REQUIRE_MESSAGE(result.has_value(), result.error());
  CHECK(std::get<Verified>(result.value()).epochs.at(0).state == EpochCheck::State::ok);
  CHECK(asked == keepers);
}

TEST_CASE("prune counts only what can be had now") {
  OwnImages w(4);
  JobSpec local = placed_on({});
  local.durability = "local";
  local.keep = 10;
  const JobId id = w.running(local);
  w.run_for(milliseconds(1'000));
  const auto on = [&](const std::vector<HostName>& hosts, Epoch from) {
    REQUIRE(w.answer(w.restart(id, from, hosts)).has_value());
    w.run_for(milliseconds(1'000));
    return w.committed(id);
  };
  const Epoch begin = w.committed(id);
  const Epoch older = on({{"h1"}, {"h2"}}, begin), newer = on({{"h3"}, {"h4"}}, older);
  w.kill({"h3"});
  w.kill({"h4"});
  REQUIRE(w.until_state(id, JobState::failed));
  w.run_for(milliseconds(15'000));
  const auto result = w.answer(w.ask([&](RequestId request) { return PruneJob{request, id, 1}; }));
  REQUIRE_MESSAGE(result.has_value(), result.error());
  CHECK(w.epoch(older).state == EpochState::committed);
  CHECK(w.epoch(newer).state == EpochState::committed);
  CHECK(w.epoch(begin).state == EpochState::pruned);
}
