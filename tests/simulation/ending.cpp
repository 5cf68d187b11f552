// The end of a history: all faults are over, and within a bounded time every job runs, or is over and says why; what
// can be brought back is; the programs end with each line of their output once; removed jobs leave nothing behind.
#include <fmt/format.h>

#include <algorithm>

#include "coordinator/core/checkpoint_records.h"
#include "tests/simulation/cluster.h"

namespace stillpoint::simulation {
namespace {

using namespace coordinator;

constexpr Millis kSettles{400'000}, kAnswers{400'000}, kCheckpoints{200'000}, kEnds{250'000}, kLeavesNothing{60'000};
constexpr Millis kLook{1'000};

// This image of the epoch's, with all copies that the catalog knows of.
bool names(const wire::GuestImage& image, const EpochRecord& epoch, std::uint32_t guest) {
  if (image.guest() != guest) return false;
  const auto& copies = image.memory().copies();
  return std::ranges::all_of(epoch.images, [&](const auto& known) {
    return known.guest() != guest || std::ranges::all_of(known.memory().copies(), [&](const auto& copy) {
             return std::ranges::find(copies, copy) != copies.end();
           });
  });
}

}  // namespace

void Cluster::calm() {
  tell("-", [] { return std::string("* all faults end"); });
  calm_ = true;
  network.calm();
  deferring.clear();
  coordinator->forget_faults();
  for (auto& host : hosts) {
    host->set_disk_full(false);
    host->set_disk_slow(false);
  }
  run_on(Millis(1'000));
}

bool Cluster::until(const std::function<bool()>& holds, Millis limit) {
  const Time end = agenda.now() + limit;
  while (!holds()) {
    if (!invariants.broken().empty() || agenda.now() >= end) return false;
    run_on(kLook);
  }
  return true;
}

std::optional<Result<Answer>> Cluster::ask(const std::function<Event(RequestId)>& make) {
  const auto request = coordinator->ask(make);
  if (!until([&] { return coordinator->replies().contains(request); }, kAnswers)) {
    invariants.fail("one answer", fmt::format("request {} is never answered", request.value));
    return std::nullopt;
  }
  return coordinator->replies().at(request);
}

bool Cluster::is_heard(const HostNode& host) const {
  return host.is_up() && host.has_session() && !host.is_apart() && network.is_reachable(host.index_);
}

// A host on which a gang can be placed: up, heard, and nobody has taken it out of service.
bool Cluster::takes_gangs(const HostNode& host) const {
  const auto& known = coordinator->durable().hosts;
  const auto found = known.find(host.name());
  return is_heard(host) && found != known.end() && !found->second.cordoned;
}

// What its hosts really have left is enough for all guests of the job. What of it is still there goes before it comes.
bool Cluster::has_room(const JobRecord& job) const {
  const auto& named = job.restart && !job.restart->hosts.empty() ? job.restart->hosts : job.spec.hosts;
  std::uint64_t places = 0;
  for (const auto& host : hosts) {
    if (!takes_gangs(*host) || (!named.empty() && std::ranges::find(named, host->name()) == named.end())) continue;
    std::uint64_t left = HostNode::kMemory;
    for (const auto& [id, machine] : host->machines())
      if (id.job != job.job) left -= std::min(left, machine.memory_bytes);
    places += left / job.spec.memory_bytes;
  }
  return places >= job.spec.guests;
}

bool Cluster::is_within_reach(const EpochRecord& epoch) const { return can_be_had(epoch, false); }
bool Cluster::is_whole(const EpochRecord& epoch) const { return can_be_had(epoch, true); }

bool Cluster::can_be_had(const EpochRecord& epoch, bool undamaged) const {
  const auto is_up = [&](const std::string& place) {
    const HostNode* const keeper = host({place});
    return keeper != nullptr && is_heard(*keeper);
  };
  const bool some_host = std::ranges::any_of(hosts, [&](const auto& host) { return is_heard(*host); });
  return std::ranges::all_of(epoch.images, [&](const auto& image) {
    const auto stored = store.all().find(image.memory().path());
    return stored != store.all().end() && std::ranges::any_of(stored->second.places, [&](const auto& place) {
             if (undamaged && stored->second.damaged.contains(place)) return false;
             return place.empty() ? some_host : is_up(place);
           });
  });
}

// Behind one that waits for room itself.
bool Cluster::waits_for_another(const JobRecord& job) const {
  return std::ranges::any_of(coordinator->durable().jobs, [&](const auto& entry) {
    const JobRecord& other = entry.second;
    return other.job != job.job && job.reason.starts_with("job " + other.job.value + " is next: ") &&
           (other.reason.find("no room") != std::string::npos || other.state == JobState::restarting) &&
           waits_for_room(other);
  });
}

// It has no place to be, says so, and there is none indeed.
bool Cluster::waits_for_room(const JobRecord& job) const {
  if (!coordinator->is_up()) return false;
  const std::string phase = coordinator->core()->phase(job.job);
  if (job.state == JobState::pending && phase.empty() && job.reason.find(" is next: ") != std::string::npos)
    return waits_for_another(job);
  if (job.state == JobState::pending)
    return phase.empty() && job.reason.find("no room") != std::string::npos && !has_room(job);
  if (job.state != JobState::restarting || phase != "place") return false;
  const auto& epochs = coordinator->durable().epochs;
  const auto epoch = epochs.find(job.restored_from);
  return job.reason.find("; it waits: ") != std::string::npos &&
         (!has_room(job) || (epoch != epochs.end() && !is_within_reach(epoch->second)));
}

// It runs and all its guests compute, or it is over, or waits for what is not there.
bool Cluster::is_settled(const JobRecord& job) const {
  if (is_over(job.state) || waits_for_room(job)) return true;
  if (job.state != JobState::running) return false;
  std::uint32_t computing = 0;
  for (const auto& host : hosts)
    for (const auto& [id, machine] : host->machines())
      if (id.job == job.job && id.incarnation == job.incarnation && machine.running && machine.guest.computes())
        ++computing;
  return computing == job.spec.guests;
}

std::string Cluster::unsettled() const {
  for (const auto& [id, job] : coordinator->durable().jobs)
    if (!is_settled(job)) {
      const std::string phase = coordinator->core() ? coordinator->core()->phase(id) : "";
      return fmt::format("{} is {}{}{}", id.value, coordinator::name(job.state),
                         phase.empty() ? "" : ", phase " + phase, job.reason.empty() ? "" : " (" + job.reason + ")");
    }
  return {};
}

// What the faults have done is known when every host has said what it runs.
bool Cluster::is_together() const {
  if (!coordinator->is_up()) return false;
  const auto views = coordinator->core()->hosts();
  return views.size() == hosts.size() && std::ranges::all_of(views, &HostView::connected) &&
         std::ranges::all_of(hosts, [&](const auto& host) { return is_heard(*host); });
}

bool Cluster::come_together(Millis limit) {
  if (until([&] { return is_together(); }, limit)) return true;
  invariants.fail("no stuck gang", "the cluster does not come together again");
  return false;
}

// Every job that failed, and whose program did not, comes back if it has anything to come back from.
void Cluster::take_up_failed() {
  for (const auto& [id, job] : std::map(coordinator->durable().jobs)) {
    if (job.state != JobState::failed) continue;
    if (job.reason.empty()) invariants.fail("no stuck gang", id.value + " has failed without a reason");
    if (!job.exit_code) (void)ask([&](RequestId r) { return RestartJob{r, id, std::nullopt, {}, false}; });
  }
  if (!until([&] { return unsettled().empty(); }, kSettles)) invariants.fail("no stuck gang", unsettled());
}

void Cluster::come_home() {
  // The last fault ends when its time is over.
  Millis longest{};
  for (const auto& h : plan.happenings) longest = std::max(longest, h.at + Millis(h.what == What::end ? 0 : h.value));
  calm();
  if (!come_together(longest + Millis(60'000))) return;
  for (const auto& host : hosts) (void)ask([&](RequestId r) { return CordonHost{r, host->name(), false}; });
  if (!until([&] { return unsettled().empty(); }, kSettles)) return invariants.fail("no stuck gang", unsettled());
  take_up_failed();
  check_captures();
  take_checkpoints();
  check_aborted();
  check_records();
  const bool overtakes = plan.shape.overtaking != 0 || plan.shape.doubled != 0;
  if (plan.shape.catalog_lost && !overtakes && invariants.broken().empty()) {
    lose_catalog();
    take_up_failed();
    take_checkpoints();
  }
  end_programs();
  remove_jobs();
  check_nothing_left();
}

// None waits for the instant of an attempt that is over.
void Cluster::check_captures() {
  const auto left = [&]() -> std::string {
    for (const auto& host : hosts)
      for (const auto& [id, epoch] : host->waiting_captures()) {
        const auto job = coordinator->durable().jobs.find(id.job);
        if (job == coordinator->durable().jobs.end() || job->second.attempt != epoch)
          return fmt::format("the capture of {} that waits for epoch {} on {}", node::name_of(id), epoch.value,
                             host->name().value);
      }
    return {};
  };
  if (!until([&] { return left().empty(); }, kLeavesNothing))
    invariants.fail("aborted leaves nothing", left() + " is left");
}

// Nothing that a history left behind keeps a job that runs from its next checkpoint.
void Cluster::take_checkpoints() {
  for (const auto& [id, job] : std::map(coordinator->durable().jobs)) {
    if (job.state != JobState::running) continue;
    Result<Answer> last = Acknowledged{};
    const auto taken = [&] {
      if (is_over(coordinator->durable().jobs.at(id).state)) return true;  // its program has come to its end
      const auto answer = ask([&](RequestId r) { return CheckpointJob{r, id, std::nullopt}; });
      if (answer) last = *answer;
      return answer && answer->has_value();
    };
    if (!until(taken, kCheckpoints))
      return invariants.fail("checkpoints go on",
                             fmt::format("none of {} succeeds: {}", id.value, last ? "" : last.error().message()));
  }
}

// Of epochs that came to nothing, or were pruned, or whose job was removed, no image stays, nor a record.
void Cluster::check_aborted() {
  const auto left = [&]() -> std::string {
    const bool overtakes = plan.shape.overtaking != 0 || plan.shape.doubled != 0;
    const auto is_gone = [&](Epoch number) {
      const auto epoch = coordinator->durable().epochs.find(number);
      if (epoch == coordinator->durable().epochs.end()) return !overtakes;
      return epoch->second.state == EpochState::aborted || epoch->second.state == EpochState::pruned;
    };
    for (const auto& [path, image] : store.all())
      if (!image.places.empty() && is_gone(image.epoch)) return fmt::format("{} on {}", path, *image.places.begin());
    // One that its deletion overtook, which a session's messages can do only here, goes with its job.
    for (const auto& host : hosts)
      for (const auto& [id, kept] : store.records(host->name()))
        if (is_gone(id.second) && !overtakes)
          return fmt::format("a record of epoch {} on {}", id.second.value, host->name().value);
    return {};
  };
  if (!until([&] { return left().empty(); }, kLeavesNothing))
    invariants.fail("aborted leaves nothing", left() + " is left");
}

// The catalog could be lost now: of every checkpoint's every image that is where the catalog knows of it somebody who
// has it has a record that says so. Copies that nobody heard of are no places to look for.
void Cluster::check_records() {
  const auto is_recorded = [&](const EpochRecord& epoch, std::uint32_t guest, const HostName& host) {
    const auto& records = store.records(host);
    const auto kept = records.find({epoch.job, epoch.epoch});
    if (kept == records.end()) return false;
    const auto found = checkpoint_records::parse(kept->second.record(), coordinator->durable().coordinator);
    return found && found->epoch.incarnation == epoch.incarnation &&
           found->epoch.restored_from == epoch.restored_from &&
           std::ranges::any_of(found->epoch.images, [&](const auto& image) { return names(image, epoch, guest); }) &&
           std::ranges::any_of(found->epoch.cut, [&](const auto& cut) { return cut.guest() == guest; });
  };
  const auto is_known = [](const EpochRecord& epoch, const StoredImage& image, const HostName& host) {
    return host == image.owner || std::ranges::any_of(epoch.images, [&](const auto& one) {
             const auto& copies = one.memory().copies();
             return one.guest() == image.guest && std::ranges::find(copies, host.value) != copies.end();
           });
  };
  const auto unrecorded = [&]() -> std::string {
    for (const auto& [path, image] : store.all()) {
      const auto epoch = coordinator->durable().epochs.find(image.epoch);
      if (image.places.empty() || epoch == coordinator->durable().epochs.end()) continue;
      if (epoch->second.job != image.job || !has_images(epoch->second.state) || epoch->second.control) continue;
      bool known = false, found = false;
      for (const auto& place : image.places) {
        const HostName host = place.empty() ? image.owner : HostName{place};
        known = known || is_known(epoch->second, image, host);
        found = found || is_recorded(epoch->second, image.guest, host);
      }
      if (known && !found) return path;
    }
    return {};
  };
  if (!until([&] { return unrecorded().empty(); }, kLeavesNothing))
    invariants.fail("records outlive the catalog", "there is none that names " + unrecorded());
}

// Line for line; but that its end may be missing if the job says so.
bool Cluster::is_whole_output(const JobRecord& job) const {
  const auto ended = printed.find({job.job, job.incarnation.value});
  if (ended == printed.end()) return false;
  const auto output = coordinator->output(job.job), whole = lines_upto(ended->second);
  const bool end_is_missing = std::ranges::any_of(
      job.missing_outputs, [](const auto& missing) { return missing.starts_with(coordinator::kEndOfOutput); });
  return end_is_missing ? whole.starts_with(output) && output != whole : output == whole;
}

void Cluster::end_programs() {
  std::vector<JobId> running;
  for (const auto& [id, job] : coordinator->durable().jobs)
    if (job.state == JobState::running) running.push_back(id);
  for (const auto& id : running) ending.emplace(id, 0);
  for (const auto& id : running) {
    const auto over = [&] { return is_over(coordinator->durable().jobs.at(id).state); };
    if (!until(over, kEnds)) return invariants.fail("no stuck gang", id.value + " does not come to its end");
    const auto& job = coordinator->durable().jobs.at(id);
    if (ending.at(id) == 0 && job.state != JobState::completed)
      return invariants.fail(
          "no stuck gang", fmt::format("{} is {} at its end: {}", id.value, coordinator::name(job.state), job.reason));
  }
  // There is room now for those that have waited for it.
  if (!until([&] { return unsettled().empty(); }, kSettles)) return invariants.fail("no stuck gang", unsettled());
  // Of those that came to their end before, too.
  for (const auto& [id, job] : coordinator->durable().jobs)
    if (job.state == JobState::completed && !is_whole_output(job))
      return invariants.fail("each line once", fmt::format("the output of {} is not its program's: {}", id.value,
                                                           coordinator->output(id)));
}

void Cluster::remove_jobs() {
  for (const auto& [id, job] : std::map(coordinator->durable().jobs)) {
    if (!invariants.broken().empty()) return;
    if (!is_over(job.state)) {
      const auto stopped = ask([&](RequestId r) { return StopJob{r, id}; });
      if (!stopped) return;
    }
    // Another one's removal may be under way.
    Result<Answer> last = Acknowledged{};
    const auto gone = [&] {
      if (!coordinator->durable().jobs.contains(id)) return true;
      const auto removed = ask([&](RequestId r) { return RemoveJob{r, id}; });
      if (removed) last = *removed;
      return removed && removed->has_value();
    };
    if (!until(gone, kAnswers))
      return invariants.fail("deletion frees everything",
                             fmt::format("{} cannot be removed: {}", id.value, last ? "" : last.error().message()));
  }
}

void Cluster::check_nothing_left() {
  // What a lost catalog had and no record tells of is nobody's to remove.
  const auto is_lost = [&](const JobId& job) { return was_lost(coordinator->durable(), number_of(job).value_or(0)); };
  const auto left = [&]() -> std::string {
    for (const auto& [path, image] : store.all())
      if (!image.places.empty() && !is_lost(image.job)) return "image " + path;
    for (const auto& host : hosts)
      if (!host->is_empty()) return "a gang on " + host->name().value;
    for (const auto& host : hosts)
      for (const auto& [id, kept] : store.records(host->name()))
        if (!is_lost(id.first)) return "a record on " + host->name().value;
    if (!coordinator->durable().epochs.empty()) return "an epoch in the catalog";
    for (const auto& job : coordinator->have_files())
      if (!is_lost(job)) return "files of " + job.value;
    return {};
  };
  if (!invariants.broken().empty()) return;
  if (!until([&] { return left().empty(); }, kLeavesNothing))
    invariants.fail("deletion frees everything", left() + " is left");
  if (coordinator->unanswered() != 0) invariants.fail("one answer", "a request was never answered");
}

void Cluster::count(Outcome& outcome) const {
  outcome.steps = steps;
  outcome.time = agenda.now() - Time(Millis(1'000'000));
  outcome.jobs = submissions_.size();
  outcome.met = invariants.met();
}

}  // namespace stillpoint::simulation
