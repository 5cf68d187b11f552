// Many short histories of one job, each from a seed: hosts die and come back, sessions break, networks part, requests
// fail, messages are doubled and overtake each other, the coordinator ends anywhere. Whatever happens, no two
// incarnations compute at once, nothing commits that cannot be restored, and in the end the job is brought home with
// each line of its output once. A failure names its seed: STILLPOINT_SOAK_SEED=n runs that one alone.
#include <doctest/doctest.h>

#include <cstdlib>

#include "coordinator/core/tests/world.h"

using namespace stillpoint;
using namespace stillpoint::coordinator;
using namespace stillpoint::coordinator::testing;

namespace {

constexpr std::uint64_t kHistories = 300;

class History {
 public:
  explicit History(std::uint64_t seed) : w(4, seed) {
    w.duplicate = 0.05;
    w.disorder = 0.05;
    w.script.failure = [this](const HostName&, const wire::ToHost& m) -> std::optional<Error> {
      if (calm || m.has_destroy() || roll(40) != 0) return std::nullopt;
      return Error{roll(2) == 0 ? ErrorKind::transient : ErrorKind::storage_full, "request", "guest 0", "bad luck"};
    };
    w.script.swallow = [this](const HostName&, const wire::ToHost& m) {
      return !calm && !m.has_destroy() && roll(60) == 0;
    };
  }

  void live() {
    auto job = spec(3);
    if (roll(2) == 0) job.interval_seconds = 4;
    job.restart_on_failure = roll(2) == 0;
    calm = roll(5) != 0;  // most get as far as a first checkpoint
    id = w.submit(job);
    if (calm) {
      w.until_state(id, JobState::running);
      w.checkpoint(id);
      w.run_for(milliseconds(1'000));
    }
    calm = false;
    for (int i = 0; i < 25; ++i) {
      befall();
      w.run_for(milliseconds(100 * (1 + roll(30))));
    }
  }

  // Fair weather: everybody back, and the job must come home.
  void come_home() {
    calm = true;
    w.duplicate = w.disorder = 0;
    for (auto& [name, host] : w.hosts) mend(name);
    w.run_for(milliseconds(30'000));
    for (int i = 0; i < 20 && w.job(id).state != JobState::completed; ++i) {
      if (w.job(id).state == JobState::failed || w.job(id).state == JobState::stopped) {
        const auto result = w.answer(w.restart(id));
        // Never checkpointed: it can only be submitted anew.
        if (result.has_error() && result.error().message().find("no committed checkpoint") != std::string::npos) return;
      }
      w.until([&] { return is_still(); }, milliseconds(300'000));
      finish();
    }
    CHECK(w.job(id).state == JobState::completed);
    if (w.job(id).state == JobState::completed) CHECK(w.output[id] == w.expected_output(w.script.last_step));
  }

  World w;
  JobId id;

 private:
  std::uint64_t roll(std::uint64_t sides) { return w.random() % sides; }
  HostName some_host() { return HostName{"h" + std::to_string(1 + roll(4))}; }

  bool is_still() const {
    const auto state = w.job(id).state;
    return state == JobState::running || state == JobState::completed || state == JobState::failed ||
           state == JobState::stopped;
  }

  void finish() {
    if (w.job(id).state != JobState::running) return;
    std::uint64_t steps = 0;
    for (auto& [name, host] : w.hosts)
      if (auto* gang = host.gang(id); gang != nullptr && gang->guests.contains(0))
        steps = gang->guests.at(0).state.step;
    w.script.last_step = std::max<std::uint64_t>(steps, 1) + 5;
    w.until([&] { return w.job(id).state == JobState::completed || w.job(id).state == JobState::failed; },
            milliseconds(120'000));
  }

  void mend(const HostName& name) {
    auto& host = w.hosts.at(name);
    if (!host.power) return w.revive(name);
    host.partitioned = false;
    if (!host.session) w.connect(name);
  }

  void befall() {
    const HostName name = some_host();
    auto& host = w.hosts.at(name);
    switch (roll(14)) {
      case 0: w.drop_session(name); break;
      case 1:
      case 2: mend(name); break;
      case 3:
        if (roll(3) == 0 && host.power) w.kill(name);
        break;
      case 4:
        if (roll(2) == 0 && host.power) {
          host.partitioned = true;
          host.session.reset();
        }
        break;
      case 5:
      case 6:
      case 7: w.checkpoint(id); break;
      case 8: w.restart(id); break;
      case 9: w.crash(); break;
      case 10:
      case 11: w.crash_after_effects(1 + roll(40)); break;
      case 12: w.script.upload = milliseconds(roll(4) * 1'000); break;
      case 13:
        w.script.unquiet_freezes = static_cast<int>(roll(4));
        w.script.deferring_closes = static_cast<int>(roll(6));
        break;
    }
  }

  bool calm = true;
};

}  // namespace

TEST_CASE("random histories") {
  std::uint64_t first = 1, last = kHistories;
  if (const char* one = std::getenv("STILLPOINT_SOAK_SEED")) first = last = std::strtoull(one, nullptr, 10);
  if (const char* many = std::getenv("STILLPOINT_SOAK_HISTORIES")) last = std::strtoull(many, nullptr, 10);
  std::size_t committed = 0, restarted = 0, completed = 0;
  for (std::uint64_t seed = first; seed <= last; ++seed) {
    CAPTURE(seed);
    History history(seed);
    history.live();
    history.come_home();
    REQUIRE(history.w.broken() == "");
    for (const auto& [number, epoch] : history.w.durable.epochs) committed += epoch.state == EpochState::committed;
    restarted += history.w.job(history.id).restarts;
    completed += history.w.job(history.id).state == JobState::completed;
  }
  MESSAGE("checkpoints " << committed << ", restarts " << restarted << ", completed " << completed);
  if (first != last) {
    CHECK(committed > 0);
    CHECK(restarted > 0);
    CHECK(completed > last / 3);
  }
}
