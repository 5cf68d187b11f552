// The catalog was put back from an older copy: what was done since is known to hosts and stores alone.
#include <doctest/doctest.h>

#include "coordinator/core/after_loss.h"
#include "coordinator/core/tests/world.h"

using namespace stillpoint;
using namespace stillpoint::coordinator;
using namespace stillpoint::coordinator::testing;

namespace {

// The coordinator ends, and a new one starts with this copy.
void put_back(World& w, CatalogState copy) { w.begin_with(copy, after_loss(copy, "the catalog was put back", 1)); }

wire::FromHost holds(const std::string& job, std::uint64_t epoch) {
  wire::FromHost message;
  auto& one = *message.mutable_held()->add_jobs();
  one.set_job(job);
  one.add_epochs(epoch);
  return message;
}

}  // namespace

TEST_CASE("a job that went elsewhere since runs there no more when it is started again") {
  for (const bool known : {true, false}) {
    CAPTURE(known);
    World w(4);
    const JobId id = w.running(spec());
    const Epoch in_copy = w.committed(id);
    CatalogState copy = w.durable;
    REQUIRE(w.answer(w.restart(id, std::nullopt, {HostName{"h3"}, HostName{"h4"}})).has_value());
    const Epoch since = w.committed(id);
    const auto images = w.store.images.size();
    if (!known) {  // they joined after the copy was made
      copy.hosts.erase(HostName{"h3"});
      copy.hosts.erase(HostName{"h4"});
    }
    // It does not hear of the new coordinator, and goes on for as long as its lease.
    w.host("h3").partitioned = true;
    put_back(w, copy);
    w.run_for(milliseconds(200));
    CHECK(w.job(id).state == JobState::failed);
    CHECK(w.host("h4").gangs.empty());  // it came, and its gang was none that is known
    const Time asked = w.now;
    REQUIRE(w.answer(w.restart(id)).has_value());
    CHECK(w.now - asked > w.settings.lease - milliseconds(1'000));
    CHECK(w.job(id).state == JobState::running);
    CHECK(w.job(id).restored_from == in_copy);
    CHECK(w.job(id).incarnation.value > kIncarnationsAhead);
    CHECK_FALSE(w.job(id).anywhere);
    CHECK(w.committed(id).value > kEpochsAhead);
    CHECK(since > in_copy);
    CHECK(w.store.images.size() > images);  // nothing that the copy does not know of was deleted
    CHECK(w.broken() == "");
  }
}

TEST_CASE("nothing is started by itself, and what runs is destroyed") {
  World w(2);
  const JobId id = w.running(spec());
  w.committed(id);
  put_back(w, w.durable);
  w.run_for(milliseconds(60'000));
  CHECK(w.job(id).state == JobState::failed);
  for (auto& [name, host] : w.hosts) CHECK(host.gangs.empty());
  REQUIRE(w.answer(w.restart(id)).has_value());
  CHECK(w.broken() == "");
}

TEST_CASE("images of a job that nobody knows stay, unless it is known to be removed") {
  World w(2);
  const JobId removed = w.running(spec());
  REQUIRE(w.answer(w.ask([&](RequestId r) { return StopJob{r, removed}; })).has_value());
  REQUIRE(w.answer(w.ask([&](RequestId r) { return RemoveJob{r, removed}; })).has_value());
  put_back(w, w.durable);
  w.run_for(milliseconds(500));
  w.record = true;
  const auto deletions = [&] {
    return std::ranges::count_if(w.transcript, [](const auto& line) { return line.find("DeleteImages") != line.npos; });
  };
  w.say(HostName{"h1"}, holds("j2", 7));  // given out since the copy was made
  w.say(HostName{"h1"}, holds("j900", 7));
  w.run_for(milliseconds(500));
  CHECK(deletions() == 0);
  w.say(HostName{"h1"}, holds(removed.value, 1));
  w.run_for(milliseconds(500));
  CHECK(deletions() == 1);
}

TEST_CASE("numbers that a host shows are leapt over, however far they are") {
  World w(2);
  w.run_for(milliseconds(500));
  w.say(HostName{"h1"}, holds("j50000", 7'000'000));
  w.say(HostName{"h1"}, holds("not-ours", 9'000'000));
  w.run_for(milliseconds(500));
  CHECK(w.durable.next_job == 50'001);
  CHECK(w.durable.next_epoch == Epoch{7'000'001});
  const JobId id = w.running(spec());
  CHECK(id.value == "j50001");
  CHECK(w.committed(id) == Epoch{7'000'001});
  w.crash();
  w.record = true;
  w.say(HostName{"h1"}, holds("j40000", 7));  // still nobody's to delete
  w.run_for(milliseconds(500));
  for (const auto& line : w.transcript) CHECK(line.find("DeleteImages") == line.npos);
  CHECK(w.broken() == "");
}
