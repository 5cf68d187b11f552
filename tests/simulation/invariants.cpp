#include "tests/simulation/invariants.h"

#include <fmt/format.h>

#include <algorithm>

#include "coordinator/core/core.h"
#include "tests/simulation/cluster.h"

namespace stillpoint::simulation {
namespace {

using namespace coordinator;

constexpr Millis kLongestAttempt{150'000};  // all its deadlines, and the death of a coordinator

const wire::GuestImage* image_of(const EpochRecord& epoch, std::uint32_t guest) {
  for (const auto& image : epoch.images)
    if (image.guest() == guest) return &image;
  return nullptr;
}

// The words of a step that take a job's gang away for another reason than the checkpoint.
bool tells_of_a_loss(const Effects& effects) {
  return std::any_of(effects.begin(), effects.end(), [](const Effect& effect) {
    const auto* log = std::get_if<Log>(&effect);
    return log != nullptr &&
           (log->event.what == "host lost" || log->event.what == "coming back" || log->event.what == "failed");
  });
}

}  // namespace

void Invariants::fail(const std::string& name, const std::string& what) {
  if (!broken_.empty()) return;
  broken_ = fmt::format("{}: {}", name, what);
}

// ---- the coordinator's steps

void Invariants::before_step(const Event& event) {
  returns_.before_step(event);
  attempts_.clear();
  for (const auto& [id, job] : cluster_.coordinator->durable().jobs)
    if (job.attempt) attempts_[id] = {*job.attempt, job.incarnation};
}

void Invariants::after_step(const Event& event, const Effects& effects) {
  ++count_;
  if (attempts_.empty()) return;
  check_abort(event, effects);
  const Time now = cluster_.agenda.now();
  for (const auto& [id, attempt] : attempts_)
    expect(now - begun_.emplace(attempt.epoch, now).first->second <= kLongestAttempt, "no stuck gang",
           fmt::format("epoch {} of {} does not come to its end", attempt.epoch.value, id.value));
}

// An abort never harms its job: one for a reason of the checkpoint's own leaves the job running.
void Invariants::check_abort(const Event& event, const Effects& effects) {
  const auto* spoke = std::get_if<HostSpoke>(&event);
  const bool own_reason = spoke != nullptr ? spoke->message.request() != 0 || spoke->message.has_images()
                                           : std::holds_alternative<Tick>(event) && !tells_of_a_loss(effects);
  if (!own_reason) return;
  const auto& durable = cluster_.coordinator->durable();
  for (const auto& [id, attempt] : attempts_) {
    const auto epoch = durable.epochs.find(attempt.epoch);
    if (epoch == durable.epochs.end() || epoch->second.state != EpochState::aborted) continue;
    const auto& job = durable.jobs.at(id);
    expect(job.state == JobState::running && job.incarnation == attempt.incarnation, "abort harms nothing",
           fmt::format("{} is {} after its epoch {} was aborted: {}", id.value, coordinator::name(job.state),
                       attempt.epoch.value, epoch->second.reason));
  }
}

void Invariants::persisting(const CatalogChange& change) {
  const auto& durable = cluster_.coordinator->durable();
  if (const auto* put = std::get_if<PutCounters>(&change))
    expect(put->next_epoch >= durable.next_epoch && put->next_job >= durable.next_job, "numbers increase",
           "a counter went back");
  if (const auto* put = std::get_if<PutJob>(&change)) {
    returns_.persisting(put->job);
    auto& known = incarnations_[put->job.job];
    expect(put->job.incarnation >= known, "numbers increase", put->job.job.value + ": its incarnation went back");
    known = std::max(known, put->job.incarnation);
    if (std::exchange(jobs_[put->job.job], put->job.state) != put->job.state) {
      met_.completed += put->job.state == JobState::completed;
      met_.failed += put->job.state == JobState::failed;
      met_.restored += put->job.state == JobState::running && put->job.restored_from != Epoch{};
    }
  }
  const auto* put = std::get_if<PutEpoch>(&change);
  if (put == nullptr) return;
  const auto& epoch = put->epoch;
  const auto known = epochs_.find(epoch.epoch);
  if (known == epochs_.end()) {
    expect(epoch.epoch > highest_epoch_, "numbers increase",
           fmt::format("epoch {} was there before", epoch.epoch.value));
    highest_epoch_ = std::max(highest_epoch_, epoch.epoch);
  } else {
    expect(
        (known->second != EpochState::aborted && known->second != EpochState::pruned) || epoch.state == known->second,
        "committed for good",
        fmt::format("epoch {} was {} and is {}", epoch.epoch.value, coordinator::name(known->second),
                    coordinator::name(epoch.state)));
  }
  const bool fresh = known == epochs_.end() || !has_images(known->second);
  if (epoch.state == EpochState::committed && fresh) {
    check_committed(epoch);
    returns_.committed(epoch);
  }
  if (known == epochs_.end() || known->second != epoch.state) {
    met_.committed += epoch.state == EpochState::committed;
    met_.aborted += epoch.state == EpochState::aborted;
    met_.damaged += epoch.state == EpochState::damaged;
  }
  epochs_[epoch.epoch] = epoch.state;
}

void Invariants::persisted() {
  images_changed();
  if (const auto stays = returns_.persisted(); !stays.empty()) fail("comes back by itself", stays);
}

// At the commit: each guest's image is there, at the asked level, of one cut, taken while all were held.
void Invariants::check_committed(const EpochRecord& epoch) {
  std::uint64_t last_captured = 0;
  const auto of = [&](std::uint32_t guest) { return holds_[{epoch.epoch, guest}]; };
  for (const auto& image : epoch.images) last_captured = std::max(last_captured, of(image.guest()).captured);
  for (const auto& image : epoch.images) {
    const auto hold = of(image.guest());
    expect(hold.captured != 0, "all captured first",
           fmt::format("guest {} was not held when it was captured for epoch {}", image.guest(), epoch.epoch.value));
    expect(hold.let_go == 0 || hold.let_go > last_captured, "all captured first",
           fmt::format("guest {} went on before all were captured for epoch {}", image.guest(), epoch.epoch.value));
  }
  check_restorable(epoch);
  check_level(epoch);
}

void Invariants::check_restorable(const EpochRecord& epoch) {
  const auto job = cluster_.coordinator->durable().jobs.find(epoch.job);
  if (job == cluster_.coordinator->durable().jobs.end()) return;
  std::vector<const Guest*> guests;
  for (std::uint32_t index = 0; index < job->second.spec.guests; ++index) {
    const auto* image = image_of(epoch, index);
    const auto& images = cluster_.store.all();
    const auto stored = image == nullptr ? images.end() : images.find(image->memory().path());
    if (stored == images.end() || !stored->second.memory)
      return fail("only restorable ones",
                  fmt::format("epoch {} is committed without an image of guest {}", epoch.epoch.value, index));
    guests.push_back(stored->second.memory.get());
    expect(guests.back()->guest == index, "only restorable ones",
           fmt::format("epoch {} has guest {}'s image for guest {}", epoch.epoch.value, guests.back()->guest, index));
    expect(guests.back()->incarnation == epoch.incarnation.value && guests.back()->hold.epoch() == epoch.epoch.value,
           "only restorable ones",
           fmt::format("guest {}'s image of epoch {} is of incarnation {}, epoch {}", index, epoch.epoch.value,
                       guests.back()->incarnation, guests.back()->hold.epoch()));
  }
  for (const auto* a : guests)
    for (const auto* b : guests)
      expect(a == b || (a->sent[b->guest] == b->received[a->guest] && a->acked[b->guest] == a->sent[b->guest]),
             "one cut",
             fmt::format("epoch {}: guest {} had sent {} messages to guest {}, which had received {}",
                         epoch.epoch.value, a->guest, a->sent[b->guest], b->guest, b->received[a->guest]));
}

void Invariants::check_level(const EpochRecord& epoch) {
  const auto job = cluster_.coordinator->durable().jobs.find(epoch.job);
  if (job == cluster_.coordinator->durable().jobs.end() || job->second.spec.durability != "host-loss") return;
  for (const auto& image : epoch.images) {
    const auto& file = image.memory();
    expect(file.copies_size() > 0, "asked level",
           fmt::format("epoch {} is committed with one copy of {}", epoch.epoch.value, file.path()));
  }
}

// A committed checkpoint is never lost: where its images were, they are, but for disks that were lost.
void Invariants::images_changed() {
  for (const auto& [number, epoch] : cluster_.coordinator->durable().epochs) {
    if (!has_images(epoch.state)) continue;
    for (const auto& image : epoch.images) {
      const auto& file = image.memory();
      const auto stored = cluster_.store.all().find(file.path());
      if (stored == cluster_.store.all().end()) {
        fail("committed never lost", fmt::format("epoch {}: {} is gone", number.value, file.path()));
        return;
      }
      const auto is_there = [&](const std::string& place) {
        return stored->second.places.contains(place) || stored->second.lost_by_disk.contains(place);
      };
      const std::string owner = cluster_.store.own() ? stored->second.owner.value : "";
      expect(is_there(owner), "committed never lost",
             fmt::format("epoch {}: {} was deleted where it was stored", number.value, file.path()));
      for (const auto& copy : file.copies())
        expect(is_there(copy.starts_with("dir:") ? "" : copy), "committed never lost",
               fmt::format("epoch {}: the copy of {} on {} was deleted", number.value, file.path(), copy));
    }
  }
}

void Invariants::sending(const HostName& host, const wire::ToHost& message) {
  // Asked again after a reconnect, its images may have been found damaged meanwhile: hosts load nothing of these.
  if (!message.has_restore() ||
      !restores_.emplace(JobId{message.gang().job()}, message.gang().incarnation(), host).second)
    return;
  const auto& epochs = cluster_.coordinator->durable().epochs;
  const auto found = epochs.find(Epoch{message.epoch()});
  expect(
      found != epochs.end() && found->second.state == EpochState::committed, "from a committed one",
      fmt::format("{} is told to restore epoch {} of {}, which is {}", host.value, message.epoch(),
                  message.gang().job(), found == epochs.end() ? "not there" : coordinator::name(found->second.state)));
}

void Invariants::replied(RequestId request, bool asked, bool again) {
  expect(asked && !again, "one answer", fmt::format("request {} is answered, though nobody waits", request.value));
}

// ---- machines

void Invariants::machine_made(const HostNode& host, const Machine& made) {
  expect(host.memory_taken() <= HostNode::kMemory, "capacity",
         fmt::format("machines on {} take {} MiB", host.name().value, host.memory_taken() >> 20));
  for (const auto& other : cluster_.hosts)
    for (const auto& [id, machine] : other->machines())
      expect(machine.vni != made.vni || node::gang_of(id) == node::gang_of(made.id), "own network",
             fmt::format("{} and {} share VXLAN {}", node::name_of(id), node::name_of(made.id), made.vni));
}

void Invariants::captured(const Machine& machine, Epoch epoch) {
  auto& hold = holds_[{epoch, machine.guest.guest}];
  const auto& held = machine.guest.hold;
  hold.captured = held.frozen() && held.epoch() == epoch.value ? ++count_ : 0;
}

void Invariants::let_go(const Machine& machine, Epoch) {
  ++count_;
  for (auto& [key, hold] : holds_) {
    const auto& durable = cluster_.coordinator->durable().epochs;
    const auto epoch = durable.find(key.first);
    if (epoch == durable.end() || epoch->second.job != machine.id.job || key.second != machine.guest.guest) continue;
    if (epoch->second.incarnation == machine.id.incarnation && hold.captured != 0 && hold.let_go == 0)
      hold.let_go = count_;
  }
}

void Invariants::ends_by_itself(const Machine& machine, bool lease_is_over) {
  // What is to be destroyed hears no more of the lease.
  const auto& jobs = cluster_.coordinator->durable().jobs;
  const auto job = jobs.find(machine.id.job);
  if (job == jobs.end() || !coordinator::holds_gang(job->second.state) ||
      job->second.incarnation != machine.id.incarnation)
    return;
  expect(lease_is_over, "lease kept", node::name_of(machine.id) + " ended while its host's lease lasts");
}

void Invariants::lost_a_part(const Machine& machine) { returns_.lost_a_part(machine.id.job, machine.id.incarnation); }

void Invariants::program_ended(const Machine& machine, int exit_code) {
  if (exit_code != 0) returns_.program_failed(machine.id.job, machine.id.incarnation);
}

// No job twice at once: two incarnations that can both send, while daemons or agents enforce the lease.
void Invariants::check_machines() {
  std::map<JobId, const Machine*> sending;
  for (const auto& host : cluster_.hosts) {
    for (const auto& [id, machine] : host->machines()) {
      if (!machine.running || !machine.guest.computes() || host->may_outlive_lease(machine)) continue;
      const auto [known, fresh] = sending.emplace(id.job, &machine);
      if (!fresh && known->second->id.incarnation != id.incarnation)
        fail("no job twice",
             fmt::format("{} and {} can both send", node::name_of(known->second->id), node::name_of(id)));
    }
  }
}

}  // namespace stillpoint::simulation
