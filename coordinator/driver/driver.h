// Runs the core: one thread owns the Coordinator and the catalog, takes events one after the other, and carries out
// each step's effects in order before the next. A Persist that fails ends the process: what is durable is what counts,
// and the next start recovers from it.
//
// Threads: everything but start() and stop() may be called from any thread; callbacks run on the driver's thread and
// must not block. Bounds: who posts bounds what it has under way (sessions by bytes, the API by connections).
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "coordinator/catalog/catalog.h"
#include "coordinator/core/coordinator.h"
#include "coordinator/core/delivery.h"
#include "coordinator/files/job_files.h"

namespace stillpoint::coordinator {

class Driver {
 public:
  // Where what leaves for the hosts goes. Called on the driver's thread; must not block.
  struct Links {
    std::function<void(const Send&)> send;
    std::function<void(const HostName&, SessionId, const std::string& why)> close;
  };
  using Answered = std::function<void(const Result<Answer>&)>;
  using Look = std::function<void(const Coordinator&, Catalog&)>;

  Driver(const Settings& settings, Catalog catalog, CatalogState state, JobFiles& files)
      : catalog_(std::move(catalog)), core_(settings, std::move(state)), files_(files) {}
  ~Driver() { stop(); }
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;

  void start(Links links);
  // Finishes the step under way and ends. Questions without an answer are answered with an error.
  void stop();

  // done: when the step and its effects are over.
  void post(Event event, std::function<void()> done = {});
  void post(std::vector<Delivery> events);  // in this order
  // Makes the event with the number of its request and hands back the core's one answer.
  void ask(std::function<Event(RequestId)> make, Answered answered);
  // Looks at the core's state between two steps.
  void look(Look look);

  // On the driver's thread only, from a Look: calls wake once, when the job has changed (its state, reason or output),
  // the deadline has passed, or the driver stops; or drops it when *gone.
  void watch(const JobId& job, std::chrono::steady_clock::time_point deadline, std::shared_ptr<std::atomic<bool>> gone,
             std::function<void()> wake);
  // The same for any new line of history.
  void watch_history(std::chrono::steady_clock::time_point deadline, std::shared_ptr<std::atomic<bool>> gone,
                     std::function<void()> wake);

 private:
  struct Watch {
    std::optional<JobId> job;  // nothing: the history
    std::chrono::steady_clock::time_point deadline;
    std::shared_ptr<std::atomic<bool>> gone;  // shared with whoever waits: it says when nobody does any more
    std::function<void()> wake;
  };

  void enqueue(std::function<void()> task);
  void run();
  void tick_when_due();
  void step(Event event);
  template <class Chosen>
  void wake_chosen(Chosen chosen);
  void wake(const JobId& job);
  void expire_watches();

  void carry_out(Persist& effect);
  void carry_out(Send& effect) { links_.send(effect); }
  void carry_out(CloseSession& effect) { links_.close(effect.host, effect.session, effect.why); }
  void carry_out(Reply& effect);
  void carry_out(Log& effect);
  void carry_out(JobChanged& effect) { wake(effect.job); }
  template <class FileWork>
  void carry_out(FileWork& effect) {
    files_.push(std::move(effect));
  }

  // The thread's own.
  std::chrono::steady_clock::time_point next_tick_;
  Catalog catalog_;
  Coordinator core_;
  JobFiles& files_;
  Links links_;
  RequestId next_request_{1};
  std::map<RequestId, Answered> asked_;
  std::vector<Watch> watches_;

  std::mutex mutex_;  // guards the queue
  std::condition_variable changed_;
  std::deque<std::function<void()>> queue_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace stillpoint::coordinator
