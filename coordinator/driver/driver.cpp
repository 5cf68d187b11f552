#include "coordinator/driver/driver.h"

#include <algorithm>
#include <cstdlib>
#include <iterator>

#include "common/log.h"

namespace stillpoint::coordinator {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kTick{100};
constexpr int kCatalogLost = 70;  // exit code: the catalog could not be written

Time now() { return std::chrono::floor<std::chrono::milliseconds>(Clock::now()); }

WallSeconds wall() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

void Driver::start(Links links) {
  links_ = std::move(links);
  thread_ = std::thread([this] { run(); });
}

void Driver::stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (!thread_.joinable()) return;
  thread_.join();
  for (auto& [request, answered] : std::exchange(asked_, {}))
    answered(
        Error{ErrorKind::transient, "answer", "request", "the coordinator is stopping; ask again when it is back"});
  for (auto& watch : std::exchange(watches_, {})) watch.wake();
}

void Driver::enqueue(std::function<void()> task) {
  {
    std::lock_guard lock(mutex_);
    if (stopping_) return;
    queue_.push_back(std::move(task));
  }
  changed_.notify_one();
}

void Driver::run() {
  next_tick_ = Clock::now();
  for (;;) {
    std::function<void()> task;
    {
      std::unique_lock lock(mutex_);
      changed_.wait_until(lock, next_tick_, [this] { return stopping_ || !queue_.empty(); });
      if (stopping_) return;
      if (!queue_.empty()) {
        task = std::move(queue_.front());
        queue_.pop_front();
      }
    }
    if (task) task();
    tick_when_due();
  }
}

// Also between events when there are many of them: deadlines must not wait for a quiet moment.
void Driver::tick_when_due() {
  const auto time = Clock::now();
  if (time < next_tick_) return;
  next_tick_ = time + kTick;
  step(Tick{});
  expire_watches();
}

void Driver::post(Event event, std::function<void()> done) {
  std::vector<Delivery> one;
  one.push_back({std::move(event), std::move(done)});
  post(std::move(one));
}

void Driver::post(std::vector<Delivery> events) {
  // shared: std::function wants to be copyable, the events need not be copied.
  auto shared = std::make_shared<std::vector<Delivery>>(std::move(events));
  enqueue([this, shared] {
    for (auto& [event, done] : *shared) {
      const auto* output = std::get_if<OutputDurable>(&event);
      const JobId grown = output != nullptr ? output->job : JobId{};
      step(std::move(event));
      if (!grown.empty()) wake(grown);
      if (done) done();
      tick_when_due();
    }
  });
}

void Driver::ask(std::function<Event(RequestId)> make, Answered answered) {
  enqueue([this, make = std::move(make), answered = std::move(answered)] {
    const RequestId request = next_request_;
    next_request_ = next_request_.next();
    asked_.emplace(request, answered);
    step(make(request));
  });
}

void Driver::look(Look look) {
  enqueue([this, look = std::move(look)] { look(core_, catalog_); });
}

void Driver::step(Event event) {
  Effects effects = core_.step(std::move(event), now(), wall());
  for (auto& effect : effects) std::visit([this](auto& one) { carry_out(one); }, effect);
}

void Driver::carry_out(Persist& effect) {
  if (auto applied = catalog_.apply(effect.changes); !applied) {
    log_error("the catalog cannot be written; stopping, so that nothing is done that it does not know of",
              {{"cause", applied.error().message()}});
    std::_Exit(kCatalogLost);
  }
  const bool has_history = std::ranges::any_of(
      effect.changes, [](const CatalogChange& change) { return std::holds_alternative<AddEvent>(change); });
  if (has_history) wake_chosen([](const Watch& watch) { return !watch.job; });
}

void Driver::carry_out(Reply& effect) {
  const auto found = asked_.find(effect.request);
  if (found == asked_.end()) {
    log_error("answer to a question that nobody asked", {{"request", effect.request.value}});
    return;
  }
  const Answered answered = std::move(found->second);
  asked_.erase(found);
  answered(effect.answer);
}

void Driver::carry_out(Log& effect) {
  const EventRecord& e = effect.event;
  const LogFields fields = {{"job", e.job.value},
                            {"incarnation", e.incarnation.value},
                            {"job_state", e.job_state ? name(*e.job_state) : ""},
                            {"host", e.host.value},
                            {"epoch", e.epoch.value},
                            {"epoch_state", e.epoch_state ? name(*e.epoch_state) : ""},
                            {"detail", e.detail}};
  switch (effect.level) {
    case Log::Level::info: return log_info(e.what, fields);
    case Log::Level::warn: return log_warn(e.what, fields);
    case Log::Level::error: return log_error(e.what, fields);
  }
}

void Driver::watch(const JobId& job, Clock::time_point deadline, std::shared_ptr<std::atomic<bool>> gone,
                   std::function<void()> wake) {
  watches_.push_back({job, deadline, std::move(gone), std::move(wake)});
}

void Driver::watch_history(Clock::time_point deadline, std::shared_ptr<std::atomic<bool>> gone,
                           std::function<void()> wake) {
  watches_.push_back({std::nullopt, deadline, std::move(gone), std::move(wake)});
}

// Takes out what is chosen first: a woken watcher may watch again at once and must not meet the list being gone
// through.
template <class Chosen>
void Driver::wake_chosen(Chosen chosen) {
  const auto kept = std::stable_partition(watches_.begin(), watches_.end(), [&](const Watch& w) { return !chosen(w); });
  std::vector<Watch> woken(std::make_move_iterator(kept), std::make_move_iterator(watches_.end()));
  watches_.erase(kept, watches_.end());
  for (auto& watch : woken)
    if (!*watch.gone) watch.wake();
}

void Driver::wake(const JobId& job) {
  wake_chosen([&job](const Watch& watch) { return watch.job == job; });
}

void Driver::expire_watches() {
  wake_chosen([time = Clock::now()](const Watch& watch) { return *watch.gone || time >= watch.deadline; });
}

}  // namespace stillpoint::coordinator
