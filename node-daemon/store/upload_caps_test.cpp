// Time that passes only where somebody waits or works: what was asked for and what was used can be compared exactly.
#include "node-daemon/store/upload_caps.h"

#include <doctest/doctest.h>

#include <optional>
#include <thread>

namespace stillpoint::node {
namespace {

using namespace std::chrono_literals;
using std::chrono::nanoseconds;

class FakeClock final : public PaceClock {
 public:
  Time now() override { return now_; }
  Time thread_cpu() override { return cpu_; }
  void wait_until(Time then, std::unique_lock<std::mutex>&, std::condition_variable_any&,
                  const std::stop_token&) override {
    now_ = std::max(now_, then + late);
  }
  void work(Time time) {
    now_ += time;
    cpu_ += time;
  }
  Time late{};  // how much longer each sleep is than was asked

 private:
  Time now_{1s}, cpu_{5s};
};

double share_used(UploadCaps& caps, FakeClock& clock, nanoseconds step, int steps) {
  const UploadCaps::Work work(&caps);
  const auto begun = clock.now(), used = clock.thread_cpu();
  for (int i = 0; i < steps; ++i) {
    clock.work(step);
    caps.pause({});
  }
  return static_cast<double>((clock.thread_cpu() - used).count()) / static_cast<double>((clock.now() - begun).count());
}

TEST_CASE("the share of a core that was asked for is used, also where each sleep is too long") {
  for (const double asked : {0.1, 0.5, 0.9})
    for (const nanoseconds late : {nanoseconds(0), nanoseconds(5ms)}) {
      FakeClock clock;
      clock.late = late;
      UploadCaps caps({0, asked}, clock);
      CHECK(share_used(caps, clock, 2ms, 5000) == doctest::Approx(asked).epsilon(0.05));
    }
}

TEST_CASE("bytes a second are kept, whatever the pieces") {
  for (const std::uint64_t piece : {1u << 10, 100u << 10, 4u << 20}) {
    FakeClock clock;
    UploadCaps caps({10u << 20, 0}, clock);
    const auto begun = clock.now();
    std::uint64_t sent = 0;
    for (; sent < 200u << 20; sent += piece) caps.sending(piece, {});
    const double seconds = static_cast<double>((clock.now() - begun).count()) / 1e9;
    CHECK(static_cast<double>(sent) / seconds == doctest::Approx(10u << 20).epsilon(0.02));
  }
}

TEST_CASE("what nobody used is saved up for a tenth of a second, not longer") {
  FakeClock clock;
  UploadCaps caps({1'000'000, 0}, clock);
  clock.work(10s);
  const auto begun = clock.now();
  caps.sending(100'000, {});
  CHECK(clock.now() == begun);
  caps.sending(100'000, {});
  CHECK(clock.now() - begun == 100ms);
}

TEST_CASE("without a limit, outside of work, and while a machine is held nothing waits and nothing is charged") {
  FakeClock clock;
  UploadCaps free({}, clock), caps({1'000'000, 0.5}, clock);
  auto begun = clock.now();
  free.sending(1u << 30, {});
  caps.pause({});  // in no Work
  CHECK(clock.now() == begun);
  {
    const UploadCaps::Work work(&caps);
    const UploadCaps::Held held(caps);
    clock.work(1s);
    begun = clock.now();
    caps.pause({});
    caps.sending(1u << 30, {});
    caps.charge(10s, {});
    CHECK(clock.now() == begun);
  }
  begun = clock.now();
  caps.sending(1000, {});
  CHECK(clock.now() == begun);
}

TEST_CASE("processor time before the work began is not charged; a child's is") {
  FakeClock clock;
  UploadCaps caps({0, 0.5}, clock);
  clock.work(100s);
  const UploadCaps::Work work(&caps);
  const auto begun = clock.now();
  caps.pause({});
  CHECK(clock.now() == begun);
  caps.charge(1s, {});
  CHECK(clock.now() - begun == 1900ms);  // two seconds' worth, of which a tenth was saved up
}

TEST_CASE("a wait ends when its thread is told to stop, when a machine is held, and when the caps are lifted") {
  enum class End { stop, held, lifted };
  for (const End end : {End::stop, End::held, End::lifted}) {
    UploadCaps caps({1, 0});
    std::stop_source stop;
    std::jthread waiting([&] { caps.sending(1'000'000'000, stop.get_token()); });  // for some thirty years
    std::optional<UploadCaps::Held> held;
    if (end == End::stop) stop.request_stop();
    if (end == End::held) held.emplace(caps);
    if (end == End::lifted) caps.lift();
    waiting.join();
  }
}

}  // namespace
}  // namespace stillpoint::node
