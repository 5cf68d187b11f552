// Checkpoints that go: because somebody asks for it, and those that a host kept because it was away.
#include <doctest/doctest.h>

#include "coordinator/core/tests/world.h"

using namespace stillpoint;
using namespace stillpoint::coordinator;
using namespace stillpoint::coordinator::testing;

namespace {

bool says(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

Result<Answer> prune(World& w, const JobId& job, std::optional<std::uint32_t> keep = std::nullopt) {
  return w.answer(w.ask([&](RequestId r) { return PruneJob{r, job, keep}; }));
}

Pruned pruned(World& w, const JobId& job, std::optional<std::uint32_t> keep = std::nullopt) {
  const auto result = prune(w, job, keep);
  REQUIRE_MESSAGE(result.has_value(), (result.has_error() ? result.error().message() : ""));
  return std::get<Pruned>(result.value());
}

wire::FromHost holds(const std::string& job, const std::vector<std::uint64_t>& epochs) {
  wire::FromHost message;
  auto& held = *message.mutable_held()->add_jobs();
  held.set_job(job);
  for (const auto epoch : epochs) held.add_epochs(epoch);
  return message;
}

// What host h1 is told to delete because of what it holds: "j1: 3 4; "
std::string told_to_delete(World& w, const wire::FromHost& held) {
  std::string told;
  w.script.swallow = [&](const HostName& host, const wire::ToHost& m) {
    if (!m.has_delete_images()) return false;
    CHECK(host.value == "h1");
    CHECK_FALSE(m.delete_images().all_hosts());
    told += m.gang().job() + ":";
    for (const auto epoch : m.delete_images().epochs()) told += " " + std::to_string(epoch);
    told += "; ";
    return false;
  };
  w.say(HostName{"h1"}, held);
  w.run_for(milliseconds(500));
  w.script.swallow = nullptr;
  return told;
}

}  // namespace

TEST_CASE("prune keeps the newest so many, by default as many as the manifest says, and tells what went") {
  World w(2);
  auto job = spec();
  job.keep = 5;
  const JobId id = w.running(job);
  for (int i = 0; i < 5; ++i) w.committed(id);
  const auto none = pruned(w, id);
  CHECK(none.pruned.empty());
  CHECK(none.kept.size() == 5);
  const auto some = pruned(w, id, 2);
  CHECK(some.pruned == std::vector{Epoch{1}, Epoch{2}, Epoch{3}});
  CHECK(some.kept == std::vector{Epoch{4}, Epoch{5}});
  CHECK(some.freed_bytes == 600);  // of both hosts
  CHECK(w.epoch(Epoch{3}).state == EpochState::pruned);
  CHECK(w.store.images.size() == 4);
  CHECK(w.answer(w.restart(id, Epoch{4})).has_value());
  CHECK(w.broken() == "");
}

TEST_CASE("of a pruned checkpoint its record keeps figures, but neither images nor the cut") {
  World w(2);
  const JobId id = w.running(spec());
  for (int i = 0; i < 3; ++i) w.committed(id);
  const EpochRecord before = w.epoch(Epoch{1});
  CHECK(before.images.size() == 2);
  CHECK(before.cut.size() == 2);
  pruned(w, id, 1);
  for (const auto number : {Epoch{1}, Epoch{2}}) {
    CHECK(w.epoch(number).state == EpochState::pruned);
    CHECK(w.epoch(number).images.empty());
    CHECK(w.epoch(number).cut.empty());
  }
  CHECK(w.epoch(Epoch{1}).bytes_stored == before.bytes_stored);
  CHECK(w.epoch(Epoch{1}).commit_ms == before.commit_ms);
  CHECK(w.epoch(Epoch{3}).images.size() == 2);
  w.crash();
  CHECK(w.answer(w.restart(id)).has_value());
  CHECK(w.broken() == "");
}

TEST_CASE("the last checkpoint that can be restored stays, and so does what is not committed yet") {
  World w(2);
  const JobId id = w.running(spec());
  const Epoch first = w.committed(id), second = w.committed(id);
  w.store.damaged.insert(id.value + "/e" + std::to_string(second.value) + "/guest-0");
  REQUIRE(w.answer(w.ask([&](RequestId r) { return VerifyJob{r, id, std::nullopt}; })).has_value());
  w.script.upload = milliseconds(5'000);
  const auto third = w.checkpoint(id);
  w.run_for(milliseconds(500));
  const auto result = pruned(w, id, 1);
  CHECK(result.pruned.empty());  // the newer one is damaged: it counts for nothing
  CHECK(result.kept == std::vector{first, second});
  REQUIRE(w.answer(third).has_value());
  CHECK(pruned(w, id, 1).pruned == std::vector{first, second});
  CHECK(prune(w, id, 0).error().kind == ErrorKind::refused);
  CHECK(prune(w, JobId{"j9"}).error().kind == ErrorKind::not_found);
}

TEST_CASE("what a restart is using stays") {
  World w(2);
  const JobId id = w.running(spec());
  const Epoch first = w.committed(id);
  w.committed(id);
  const Epoch third = w.committed(id);
  w.script.swallow = [](const HostName&, const wire::ToHost& m) { return m.has_resume(); };
  const auto back = w.restart(id, first);
  w.run_for(milliseconds(500));
  const auto result = pruned(w, id, 1);
  // From the first one on: what came after it is a history that was left.
  CHECK(result.kept == std::vector{first});
  CHECK(w.epoch(third).state == EpochState::pruned);
  w.script.swallow = nullptr;
  for (const char* host : {"h1", "h2"}) {
    w.drop_session(HostName{host});
    w.connect(HostName{host});
  }
  CHECK(w.answer(back).has_value());
  CHECK(w.broken() == "");
}

TEST_CASE("a host that cannot delete, or says nothing, does not hold up the answer for ever; it is asked again") {
  World w(2);
  const JobId id = w.running(spec());
  w.committed(id);
  w.committed(id);
  bool fails = true;
  w.script.failure = [&](const HostName& host, const wire::ToHost& m) -> std::optional<Error> {
    if (!m.has_delete_images() || host.value != "h1" || !fails) return std::nullopt;
    return Error{ErrorKind::transient, "delete images", "", "input/output error"};
  };
  w.script.swallow = [&](const HostName& host, const wire::ToHost& m) {
    return m.has_delete_images() && host.value == "h2" && fails;
  };
  const auto request = w.ask([&](RequestId r) { return PruneJob{r, id, 1}; });
  w.run_for(milliseconds(1'000));
  CHECK_FALSE(w.replies.contains(request));
  CHECK(says(w.answer(w.ask([&](RequestId r) {
                return PruneJob{r, id, 1};
              }))
                 .error()
                 .message(),
             "being pruned already"));
  const auto result = w.answer(request);
  REQUIRE(result.has_value());
  CHECK(std::get<Pruned>(result.value()).pruned == std::vector{Epoch{1}});
  CHECK(w.store.images.size() == 4);
  fails = false;
  w.run_for(milliseconds(10'000));
  CHECK(w.store.images.size() == 2);
  CHECK(w.broken() == "");
}

TEST_CASE("a host that was away is told what of its images was deleted meanwhile, and nothing else") {
  World w(2);
  auto job = spec();
  job.keep = 1;
  const JobId removed = w.running(job);
  w.committed(removed);
  REQUIRE(w.answer(w.ask([&](RequestId r) { return StopJob{r, removed}; })).has_value());
  REQUIRE(w.answer(w.ask([&](RequestId r) { return RemoveJob{r, removed}; })).has_value());
  const JobId id = w.running(job);
  const Epoch pruned_one = w.committed(id), kept = w.committed(id);
  w.script.failure = [](const HostName&, const wire::ToHost& m) -> std::optional<Error> {
    if (!m.has_freeze()) return std::nullopt;
    return Error{ErrorKind::permanent, "freeze", "", "no"};
  };
  CHECK(w.answer(w.checkpoint(id)).has_error());
  w.script.failure = nullptr;
  const std::uint64_t aborted = kept.value + 1, next = kept.value + 2;
  REQUIRE(w.epoch(Epoch{aborted}).state == EpochState::aborted);
  REQUIRE(w.durable.next_epoch == Epoch{next});

  CHECK(told_to_delete(w, holds(removed.value, {1})) == "j1: 1; ");
  CHECK(told_to_delete(w, holds(id.value, {pruned_one.value, kept.value, aborted})) ==
        "j2: " + std::to_string(pruned_one.value) + " " + std::to_string(aborted) + "; ");
  // Another job's epoch, numbers that were never given out, names that no catalog makes: not known to be deleted.
  CHECK(told_to_delete(w, holds(id.value, {1})) == "");
  CHECK(told_to_delete(w, holds(removed.value, {next})) == "");
  CHECK(told_to_delete(w, holds(id.value, {next, next + 7})) == "");
  for (const char* name : {"j3", "j99999999999999999999", "j01", "j", "x1", "", "j1x", "j-1"})
    CHECK(told_to_delete(w, holds(name, {1})) == "");
  CHECK(w.store.images.contains("j2/e" + std::to_string(kept.value) + "/guest-0"));
  CHECK(w.broken() == "");
}

TEST_CASE("images of a checkpoint that is being taken, or damaged, or of a job that is being removed: none is lost") {
  World w(2);
  const JobId id = w.running(spec());
  const Epoch damaged = w.committed(id);
  w.store.damaged.insert(id.value + "/e" + std::to_string(damaged.value) + "/guest-0");
  REQUIRE(w.answer(w.ask([&](RequestId r) { return VerifyJob{r, id, std::nullopt}; })).has_value());
  w.script.upload = milliseconds(5'000);
  const auto request = w.checkpoint(id);
  w.run_for(milliseconds(500));
  CHECK(told_to_delete(w, holds(id.value, {damaged.value, damaged.value + 1})) == "");
  CHECK(w.answer(request).has_value());
}

TEST_CASE("a catalog that was put back from an older copy destroys nothing that it does not know") {
  World w(2);
  auto job = spec();
  const JobId id = w.running(job);
  w.committed(id);
  const CatalogState copy = w.durable;
  const Epoch later = w.committed(id);
  const JobId newer = w.running(job);
  const Epoch newest = w.committed(newer);
  w.durable = copy;
  w.crash();
  w.run_for(milliseconds(1'000));
  CHECK(told_to_delete(w, holds(id.value, {1, later.value})) == "");
  CHECK(told_to_delete(w, holds(newer.value, {newest.value})) == "");
  // Nor by what the hosts say of themselves: their gangs had captured these epochs.
  CHECK(w.store.images.contains(id.value + "/e" + std::to_string(later.value) + "/guest-0"));
  CHECK(w.store.images.contains(newer.value + "/e" + std::to_string(newest.value) + "/guest-0"));
}
