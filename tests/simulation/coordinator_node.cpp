#include "tests/simulation/coordinator_node.h"

#include <fmt/format.h>

#include <array>

#include "coordinator/core/after_loss.h"
#include "coordinator/core/tests/names.h"
#include "tests/simulation/cluster.h"

namespace stillpoint::simulation {
namespace {

using namespace coordinator;

constexpr Millis kTick{250};
constexpr Millis kRestart{1'000};  // after a death of its own
constexpr std::array<Millis, 3> kLeases{Millis(5'000), Millis(8'000), Millis(14'000)};

}  // namespace

CoordinatorNode::CoordinatorNode(Cluster& cluster) : cluster_(cluster), dice_(cluster.plan.shape.seed, 3'000) {
  durable_.coordinator = "site";
}

// ---- its life

void CoordinatorNode::start() {
  if (core_) return;
  drop_files_of_removed_jobs();
  if (cluster_.plan.shape.leases_change) cluster_.lease = kLeases[dice_.roll(kLeases.size())];
  core_ = std::make_unique<Coordinator>(cluster_.settings(), durable_);
  cluster_.tell("c", [] { return std::string("coordinator starts"); });
  tick(life_);
}

// As JobFiles::open: what a lost catalog had is nobody's to remove.
void CoordinatorNode::drop_files_of_removed_jobs() {
  const auto is_removed = [this](const JobId& job) {
    const auto number = number_of(job).value_or(0);
    return !durable_.jobs.contains(job) && number < durable_.next_job && !was_lost(durable_, number);
  };
  std::erase_if(streams_, [&](const auto& entry) { return is_removed(entry.first); });
  std::erase_if(files_, [&](const auto& entry) { return is_removed(entry.first); });
  std::erase_if(kept_, [&](const auto& entry) { return is_removed(entry.second.job); });
}

void CoordinatorNode::lose_catalog() {
  crash(kRestart);
  std::uint64_t newest = 0;
  for (const auto& [job, stream] : streams_) newest = std::max(newest, number_of(job).value_or(0));
  durable_ = {};
  cluster_.invariants.catalog_lost();
  durable_.coordinator = "site";
  const WallSeconds now = wall_ + cluster_.agenda.now().time_since_epoch().count() / 1000;
  for (const auto& change : beyond_loss(newest, now)) apply(change);
  cluster_.tell("c", [] { return std::string("its catalog is lost"); });
}

void CoordinatorNode::crash(Millis away) {
  if (!core_) return;
  cluster_.tell("c", [] { return std::string("coordinator dies"); });
  ++life_;
  ++pause_;
  core_.reset();
  paused_ = false;
  crash_at_.reset();
  inbox_.clear();
  asked_.clear();
  // What was given to the disk and not reported may be there or not.
  for (std::uint64_t done = dice_.roll(file_queue_.size() + 1); done > 0; --done) {
    (void)file_queue_.front()();
    file_queue_.pop_front();
  }
  file_queue_.clear();
  for (auto& [host, session] : std::exchange(sessions_, {})) close(session);
  cluster_.agenda.in(away, [this, life = life_] {
    if (life == life_) start();
  });
}

void CoordinatorNode::pause(Millis time) {
  if (!core_ || paused_) return;
  paused_ = true;
  cluster_.agenda.in(time, [this, pause = ++pause_] { unpause(pause); });
}

// The driver takes one event from its queue, then looks at the clock.
void CoordinatorNode::unpause(std::uint64_t pause) {
  if (pause != pause_ || !paused_) return;
  paused_ = false;
  auto waiting = std::exchange(inbox_, {});
  if (!waiting.empty()) {
    give(std::move(waiting.front()));
    waiting.pop_front();
  }
  if (std::exchange(tick_missed_, false)) give(Tick{});
  for (auto& event : waiting) give(std::move(event));
}

void CoordinatorNode::tick(std::uint64_t life) {
  if (life != life_) return;
  if (paused_) tick_missed_ = true;
  else step(Tick{});
  if (life == life_) cluster_.agenda.in(kTick, [this, life] { tick(life); });
}

void CoordinatorNode::give(Event event) {
  if (!core_) return;
  if (paused_) inbox_.push_back(std::move(event));
  else step(std::move(event));
}

RequestId CoordinatorNode::ask(const std::function<Event(RequestId)>& make) {
  const RequestId request{next_request_++};
  if (!core_) return request;
  asked_.insert(request);
  give(make(request));
  return request;
}

void CoordinatorNode::step(Event event) {
  ++cluster_.steps;
  cluster_.tell("c", [&] { return "> " + testing::describe(event); });
  auto& invariants = cluster_.invariants;
  invariants.before_step(event);
  // Kept for the invariants: the step takes the event.
  const Event seen = event;
  Effects effects = core_->step(std::move(event), cluster_.agenda.now(),
                                wall_ + cluster_.agenda.now().time_since_epoch().count() / 1000);
  if (auto broken = core_->broken_invariants(); !broken.empty()) invariants.fail("coordinator", broken.front());
  try {
    for (auto& effect : effects) {
      cluster_.tell("c", [&] { return "  " + testing::describe(effect); });
      carry_out(effect);
      if (++effects_ == crash_at_) throw Crashed{};
    }
  } catch (const Crashed&) {
    return crash(Millis(400));
  }
  invariants.after_step(seen, effects);
}

// ---- effects

void CoordinatorNode::carry_out(Effect& effect) {
  if (auto* one = std::get_if<Persist>(&effect)) return persist(*one);
  if (auto* one = std::get_if<Send>(&effect)) return send(*one);
  if (auto* one = std::get_if<CloseSession>(&effect)) {
    for (auto entry = sessions_.begin(); entry != sessions_.end(); ++entry)
      if (entry->second->id == one->session) {
        auto session = entry->second;
        sessions_.erase(entry);
        return close(session);
      }
    return;
  }
  if (auto* one = std::get_if<Reply>(&effect)) {
    cluster_.invariants.replied(one->request, asked_.erase(one->request) != 0, replies_.contains(one->request));
    replies_.insert_or_assign(one->request, std::move(one->answer));
    return;
  }
  if (std::holds_alternative<Log>(effect) || std::holds_alternative<JobChanged>(effect)) return;
  push_file_work(effect);
}

void CoordinatorNode::persist(const Persist& effect) {
  if (disk_full_) {
    cluster_.tell("c", [] { return std::string("the catalog cannot be written"); });
    crash(kRestart);
    throw Crashed{};
  }
  for (const auto& change : effect.changes) cluster_.invariants.persisting(change);
  for (const auto& change : effect.changes) apply(change);
  cluster_.invariants.persisted();
}

void CoordinatorNode::apply(const CatalogChange& change) {
  if (const auto* c = std::get_if<PutJob>(&change)) durable_.jobs.insert_or_assign(c->job.job, c->job);
  if (const auto* c = std::get_if<PutEpoch>(&change)) durable_.epochs.insert_or_assign(c->epoch.epoch, c->epoch);
  if (const auto* c = std::get_if<DropEpoch>(&change)) durable_.epochs.erase(c->epoch);
  if (const auto* c = std::get_if<FoundJob>(&change)) found_again(durable_.lost_jobs, c->number);
  if (const auto* c = std::get_if<AddLostJobs>(&change)) durable_.lost_jobs.push_back(c->numbers);
  if (const auto* c = std::get_if<PutHost>(&change)) durable_.hosts.insert_or_assign(c->host.host, c->host);
  if (const auto* c = std::get_if<PutCounters>(&change)) {
    durable_.next_job = c->next_job;
    durable_.next_epoch = c->next_epoch;
    durable_.next_vni = c->next_vni;
  }
  if (const auto* c = std::get_if<DropJob>(&change)) {
    durable_.jobs.erase(c->job);
    std::erase_if(durable_.epochs, [&](const auto& e) { return e.second.job == c->job; });
  }
}

void CoordinatorNode::send(Send& effect) {
  wire::ToHost sent = whole_message(effect);
  cluster_.invariants.sending(effect.host, sent);
  const auto found = sessions_.find(effect.host);
  if (found == sessions_.end() || found->second->id != effect.session) return;
  const auto session = found->second;
  HostNode* const host = cluster_.host(effect.host);
  cluster_.network.transmit(session, Network::down, [host, message = std::move(sent)] { host->hear(message); });
}

// ---- sessions

void CoordinatorNode::session_named(const Network::SessionPtr& session, const wire::HostHello& hello) {
  if (!core_ || session->named) return;
  session->named = true;
  const HostName host{hello.host()};
  if (const auto old = sessions_.find(host); old != sessions_.end()) close(old->second);
  sessions_.insert_or_assign(host, session);
  give(HostConnected{host, session->id, hello});
}

void CoordinatorNode::session_ended(const Network::SessionPtr& session) {
  for (const auto& [host, current] : sessions_) {
    if (current != session) continue;
    const HostDisconnected ended{host, session->id};
    sessions_.erase(host);
    return give(ended);
  }
}

void CoordinatorNode::close(const Network::SessionPtr& session) {
  session->open[Network::up] = false;
  HostNode* const host = cluster_.hosts[session->host].get();
  cluster_.network.finish(session, Network::down, [host, session] { host->session_closed(session); });
}

// ---- files

void CoordinatorNode::file_work(FileWork work) {
  file_queue_.push_back(std::move(work));
  if (file_queue_.size() == 1) next_file_work(life_);
}

void CoordinatorNode::next_file_work(std::uint64_t life) {
  cluster_.agenda.in(dice_.between(1, 8) * (disk_slow_ ? 100 : 1), [this, life] {
    if (life != life_ || file_queue_.empty()) return;
    auto event = file_queue_.front()();
    file_queue_.pop_front();
    if (!file_queue_.empty()) next_file_work(life);
    if (event) give(std::move(*event));
  });
}

std::shared_ptr<std::string>& CoordinatorNode::stream(const JobId& job) {
  auto& present = streams_[job];
  if (!present) present = std::make_shared<std::string>();
  return present;
}

std::optional<Event> CoordinatorNode::append(const AppendOutput& work) {
  auto& stored = *stream(work.job);
  const Error full{ErrorKind::storage_full, "append", "output of " + work.job.value, "no space left on device"};
  if (disk_full_) return OutputFailed{work.job, full};
  if (work.offset > stored.size())
    return OutputFailed{work.job, Error{ErrorKind::permanent, "append", "output", "bytes are missing"}};
  if (work.offset + work.data.size() > stored.size()) stored += work.data.substr(stored.size() - work.offset);
  return OutputDurable{work.job, stored.size()};
}

// A new file, so that those which epochs have kept stay as they are.
std::optional<Event> CoordinatorNode::truncate(const TruncateOutput& work) {
  if (disk_full_)
    return OutputFailed{work.job, Error{ErrorKind::storage_full, "copying", "output", "no space left on device"},
                        work.number};
  const auto kept = kept_.find(work.epoch);
  const auto source = kept != kept_.end() ? kept->second.stream : stream(work.job);
  auto fresh = std::make_shared<std::string>(source->substr(0, work.offset));
  streams_[work.job] = fresh;
  return OutputDurable{work.job, fresh->size(), work.number};
}

void CoordinatorNode::push_file_work(Effect& effect) {
  if (auto* w = std::get_if<AppendOutput>(&effect)) return file_work([this, w = *w] { return append(w); });
  if (auto* w = std::get_if<TruncateOutput>(&effect)) return file_work([this, w = *w] { return truncate(w); });
  if (auto* w = std::get_if<KeepOutput>(&effect))
    return file_work([this, w = *w]() -> std::optional<Event> {
      kept_.emplace(w.epoch, Kept{w.job, stream(w.job)});
      return std::nullopt;
    });
  if (auto* w = std::get_if<DropOutput>(&effect))
    return file_work([this, w = *w]() -> std::optional<Event> {
      kept_.erase(w.epoch);
      return std::nullopt;
    });
  if (auto* w = std::get_if<MeasureOutput>(&effect))
    return file_work([this, w = *w]() -> std::optional<Event> { return OutputDurable{w.job, stream(w.job)->size()}; });
  if (auto* w = std::get_if<ReadSpool>(&effect))
    return file_work([w = *w]() -> std::optional<Event> {
      return SpoolRead{w.job, w.file, w.offset, "a program", true, 0755, {}, false};
    });
  if (auto* w = std::get_if<StoreOutputPiece>(&effect))
    return file_work([this, w = *w]() -> std::optional<Event> {
      if (disk_full_)
        return OutputPieceStored{w.job, w.file, w.offset,
                                 Error{ErrorKind::storage_full, "write", w.file, "no space left on device"}};
      files_[w.job][w.file] = w.data;
      return OutputPieceStored{w.job, w.file, w.offset, std::nullopt};
    });
  if (auto* w = std::get_if<DropOutputPieces>(&effect))
    return file_work([this, w = *w]() -> std::optional<Event> {
      files_[w.job].erase(w.file);
      return std::nullopt;
    });
  if (auto* w = std::get_if<DropJobFiles>(&effect))
    return file_work([this, w = *w]() -> std::optional<Event> {
      streams_.erase(w.job);
      std::erase_if(kept_, [&](const auto& entry) { return entry.second.job == w.job; });
      files_.erase(w.job);
      return std::nullopt;
    });
}

std::string CoordinatorNode::output(const JobId& job) const {
  const auto found = streams_.find(job);
  return found == streams_.end() ? "" : *found->second;
}

std::set<JobId> CoordinatorNode::have_files() const {
  std::set<JobId> jobs;
  for (const auto& [job, stream] : streams_) jobs.insert(job);
  for (const auto& [job, files] : files_) jobs.insert(job);
  for (const auto& [epoch, kept] : kept_) jobs.insert(kept.job);
  return jobs;
}

}  // namespace stillpoint::simulation
