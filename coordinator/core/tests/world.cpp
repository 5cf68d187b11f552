#include "coordinator/core/tests/world.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>

#include "coordinator/core/tests/names.h"

namespace stillpoint::coordinator::testing {
namespace {

constexpr milliseconds kBeat{100};

struct Crashed {};  // thrown through carry_out when the coordinator is to end between two effects

}  // namespace

JobSpec spec(std::uint32_t guests) {
  JobSpec job;
  job.name = "heat";
  job.guests = guests;
  job.memory_bytes = 512u << 20;
  job.disk_bytes = 4ull << 30;
  job.ranks_per_guest.assign(guests, 1);
  job.command = {"./heat"};
  job.files = {"heat"};
  job.outputs = {"field.ppm"};
  job.restart_on_failure = false;  // tests of automatic restarts ask for them
  return job;
}

World::World(int count, std::uint64_t seed, Settings s) : settings(s), random(seed) {
  settings.check_invariants = true;
  durable.coordinator = "site";
  spool["heat"] = "a program";
  core_ = std::make_unique<Coordinator>(settings, durable);
  for (int i = 1; i <= count; ++i) {
    const HostName name{fmt::format("h{}", i)};
    hosts.emplace(std::piecewise_construct, std::forward_as_tuple(name), std::forward_as_tuple(name, store, script));
  }
  for (auto& [name, host] : hosts) connect(name);
  pump();
}

// ---- what a test does

RequestId World::ask(std::function<Event(RequestId)> make) {
  const RequestId request{next_request_++};
  step(make(request));
  pump();
  return request;
}

JobId World::submit(JobSpec job) {
  const auto request = ask([&](RequestId r) { return SubmitJob{r, job, "manifest", "spool"}; });
  REQUIRE(replies.contains(request));
  REQUIRE(replies.at(request).has_value());
  return std::get<Submitted>(replies.at(request).value()).job;
}

RequestId World::checkpoint(const JobId& job, std::optional<std::uint32_t> gap) {
  return ask([&](RequestId r) { return CheckpointJob{r, job, gap}; });
}

RequestId World::restart(const JobId& job, std::optional<Epoch> from, std::vector<HostName> at, bool skip) {
  return ask([&](RequestId r) { return RestartJob{r, job, from, at, skip}; });
}

Result<Answer> World::answer(RequestId request) {
  until([&] { return replies.contains(request); });
  REQUIRE(replies.contains(request));
  return replies.at(request);
}

bool World::until(const std::function<bool()>& holds, milliseconds limit) {
  const Time end = now + limit;
  while (!holds()) {
    if (now >= end) return false;
    run_for(kBeat);
  }
  return true;
}

bool World::until_state(const JobId& id, JobState state) {
  return until([&] { return job(id).state == state; });
}

JobId World::running(JobSpec wanted) {
  const JobId id = submit(std::move(wanted));
  REQUIRE(until_state(id, JobState::running));
  return id;
}

Epoch World::committed(const JobId& id) {
  const auto result = answer(checkpoint(id));
  REQUIRE_MESSAGE(result.has_value(), (result.has_error() ? result.error().message() : ""));
  return std::get<CheckpointTaken>(result.value()).epoch.epoch;
}

void World::run_for(milliseconds time) {
  for (const Time end = now + time; now < end;) {
    now += kBeat;
    if (works) work();
    for (auto& [name, host] : hosts) host.tick(now);
    pump();
    step(Tick{});
    pump();
    check();
  }
}

// ---- what befalls it

void World::connect(const HostName& name) {
  auto& host = hosts.at(name);
  if (!host.power || host.partitioned) return;
  to_host_[name].clear();
  const SessionId session{next_session_++};
  host.connected(session, now);
  step(HostConnected{name, session, host.hello()});
}

void World::drop_session(const HostName& name) {
  auto& host = hosts.at(name);
  if (!host.session) return;
  const SessionId session = *host.session;
  host.session.reset();
  to_host_[name].clear();
  host.out.clear();
  step(HostDisconnected{name, session});
}

void World::kill(const HostName& name) {
  hosts.at(name).lose_power();
  to_host_[name].clear();
}

void World::revive(const HostName& name) {
  hosts.at(name).power = true;
  connect(name);
  pump();
}

void World::crash() {
  core_ = std::make_unique<Coordinator>(settings, durable);
  local_.clear();
  crash_at_.reset();
  for (auto& [name, host] : hosts) {
    host.session.reset();
    host.out.clear();
    if (!chance(0.5)) to_host_[name].clear();
    // What was sent may still arrive.
    for (const auto& message : to_host_[name])
      if (host.power && !host.partitioned) host.on(message, now);
    host.out.clear();
    to_host_[name].clear();
  }
  step(Tick{});
  for (auto& [name, host] : hosts) connect(name);
}

void World::say(const HostName& name, wire::FromHost message) {
  hosts.at(name).out.push_back(std::move(message));
  pump();
}

// ---- how it goes

bool World::chance(double p) { return p > 0 && std::uniform_real_distribution<>(0, 1)(random) < p; }

void World::step(Event event) {
  if (record) transcript.push_back("> " + describe(event));
  const bool quiet = std::holds_alternative<Tick>(event);
  const std::size_t before = transcript.size();
  Effects effects = core_->step(std::move(event), now, 1'800'000'000 + now.time_since_epoch().count() / 1000);
  try {
    for (auto& effect : effects) carry_out(effect);
  } catch (const Crashed&) {
    return crash();
  }
  if (record && quiet && transcript.size() == before) transcript.pop_back();
  if (describe(durable) != describe(core_->state()))
    broken_.push_back("the catalog differs from the core's memory:\n" + describe(durable) + "---\n" +
                      describe(core_->state()));
  for (const auto& broken : core_->broken_invariants()) broken_.push_back(broken);
}

std::shared_ptr<std::string>& World::stream(const JobId& job) {
  auto& present = streams_[job];
  if (!present) present = std::make_shared<std::string>(output[job]);
  return present;
}

void World::apply(const CatalogChange& change) {
  if (const auto* c = std::get_if<PutJob>(&change)) durable.jobs[c->job.job] = c->job;
  if (const auto* c = std::get_if<PutEpoch>(&change)) durable.epochs[c->epoch.epoch] = c->epoch;
  if (const auto* c = std::get_if<AddEvent>(&change)) history.push_back(c->event);
  if (const auto* c = std::get_if<DropEpoch>(&change)) durable.epochs.erase(c->epoch);
  if (const auto* c = std::get_if<FoundJob>(&change)) found_again(durable.lost_jobs, c->number);
  if (const auto* c = std::get_if<AddLostJobs>(&change)) durable.lost_jobs.push_back(c->numbers);
  if (const auto* c = std::get_if<PutHost>(&change)) durable.hosts[c->host.host] = c->host;
  if (const auto* c = std::get_if<PutCounters>(&change)) {
    durable.next_job = c->next_job;
    durable.next_epoch = c->next_epoch;
    durable.next_vni = c->next_vni;
  }
  if (const auto* c = std::get_if<DropJob>(&change)) {
    durable.jobs.erase(c->job);
    std::erase_if(durable.epochs, [&](const auto& e) { return e.second.job == c->job; });
  }
}

void World::begin_with(CatalogState state, const std::vector<CatalogChange>& changes) {
  durable = std::move(state);
  for (const auto& change : changes) apply(change);
  crash();
}

void World::carry_out(Effect& effect) {
  if (record) transcript.push_back("  " + describe(effect));
  if (auto* persist = std::get_if<Persist>(&effect)) {
    for (auto& change : persist->changes) apply(change);
  } else if (auto* send = std::get_if<Send>(&effect)) {
    auto& host = hosts.at(send->host);
    if (host.power && !host.partitioned && host.session == send->session)
      to_host_[send->host].push_back(whole_message(*send));
  } else if (auto* close = std::get_if<CloseSession>(&effect)) {
    auto& host = hosts.at(close->host);
    if (host.session == close->session && !host.partitioned) {
      host.session.reset();
      host.out.clear();
      to_host_[close->host].clear();
    }
  } else if (auto* reply = std::get_if<Reply>(&effect)) {
    if (replies.contains(reply->request)) broken_.push_back("a question is answered twice");
    replies.emplace(reply->request, std::move(reply->answer));
  } else if (auto* append = std::get_if<AppendOutput>(&effect)) {
    if (script.append_hangs) return;
    if (script.append_failure)
      if (auto error = script.append_failure(*append)) {
        local_.push_back(OutputFailed{append->job, std::move(*error)});
        if (++effects_ == crash_at_) throw Crashed{};
        return;
      }
    auto& stored = output[append->job];
    if (append->offset > stored.size()) broken_.push_back("output is stored with a gap");
    stored.resize(std::min<std::size_t>(stored.size(), append->offset));
    stored += append->data;
    *stream(append->job) = stored;
    local_.push_back(OutputDurable{append->job, stored.size()});
  } else if (auto* keep = std::get_if<KeepOutput>(&effect)) {
    kept_[keep->epoch] = stream(keep->job);
  } else if (auto* unkept = std::get_if<DropOutput>(&effect)) {
    kept_.erase(unkept->epoch);
  } else if (auto* cut = std::get_if<TruncateOutput>(&effect)) {
    if (script.cut_hangs && script.cut_hangs(*cut)) return;
    if (script.cut_failure)
      if (auto error = script.cut_failure(*cut)) {
        local_.push_back(OutputFailed{cut->job, std::move(*error), cut->number});
        if (++effects_ == crash_at_) throw Crashed{};
        return;
      }
    auto& stored = output[cut->job];
    if (const auto found = kept_.find(cut->epoch); found != kept_.end()) stored = *found->second;
    stored.resize(std::min<std::size_t>(stored.size(), cut->offset));
    streams_[cut->job] = std::make_shared<std::string>(stored);
    local_.push_back(OutputDurable{cut->job, stored.size(), cut->number});
  } else if (auto* measure = std::get_if<MeasureOutput>(&effect)) {
    if (script.measure_failures > 0) {
      --script.measure_failures;
      local_.push_back(OutputFailed{measure->job, {ErrorKind::transient, "open", "output", "input/output error"}});
    } else {
      local_.push_back(OutputDurable{measure->job, output[measure->job].size()});
    }
  } else if (auto* read = std::get_if<ReadSpool>(&effect)) {
    SpoolRead piece{read->job, read->file, read->offset, {}, true, 0755, {}, false};
    const auto file = spool.find(read->file);
    if (file == spool.end()) {
      piece.failed = true;
      piece.error = Error{ErrorKind::not_found, "read", read->file, "no such file"};
    } else {
      piece.data = file->second.substr(read->offset, read->length);
      piece.last = read->offset + piece.data.size() == file->second.size();
    }
    local_.push_back(std::move(piece));
  } else if (auto* piece = std::get_if<StoreOutputPiece>(&effect)) {
    std::optional<Error> error;
    if (script.store_failure) error = script.store_failure(*piece);
    if (piece->offset == 0) outputs[piece->file].clear();
    if (piece->offset != outputs[piece->file].size()) broken_.push_back("an output file is stored with a gap");
    if (error) outputs.erase(piece->file);
    else outputs[piece->file] += piece->data;
    local_.push_back(OutputPieceStored{piece->job, piece->file, piece->offset, std::move(error)});
  } else if (auto* pieces = std::get_if<DropOutputPieces>(&effect)) {
    outputs.erase(pieces->file);
  } else if (auto* drop = std::get_if<DropJobFiles>(&effect)) {
    dropped.insert(drop->job);
  }
  if (++effects_ == crash_at_) throw Crashed{};
}

bool World::deliver_one() {
  // Every queue with something in it, in a fixed order; the seed chooses among them.
  std::vector<std::function<void()>> ready;
  if (!local_.empty())
    ready.push_back([this] {
      Event event = std::move(local_.front());
      local_.pop_front();
      step(std::move(event));
    });
  for (auto& [name, host] : hosts) {
    if (!host.power || host.partitioned || !host.session) continue;
    auto* h = &host;
    auto* queue = &to_host_[name];
    if (!queue->empty())
      ready.push_back([this, h, queue] {
        const auto message = std::move(queue->front());
        queue->pop_front();
        h->on(message, now);
        if (chance(duplicate)) h->on(message, now);
      });
    if (!host.out.empty())
      ready.push_back([this, h] {
        if (h->out.size() > 1 && chance(disorder)) std::swap(h->out[0], h->out[1]);
        const auto message = std::move(h->out.front());
        h->out.pop_front();
        const HostSpoke spoke{h->name, *h->session, message};
        step(spoke);
        if (chance(duplicate)) step(spoke);
      });
  }
  if (ready.empty()) return false;
  const std::size_t chosen = duplicate + disorder + loss > 0 ? random() % ready.size() : 0;
  ready[chosen]();
  return true;
}

void World::pump() {
  for (int i = 0; deliver_one(); ++i) REQUIRE_MESSAGE(i < 200'000, "the cluster never comes to rest");
}

// One step of every program whose whole gang computes.
void World::work() {
  std::map<std::pair<JobId, std::uint64_t>, std::vector<FakeGang*>> whole;
  for (auto& [name, host] : hosts)
    for (auto& [key, gang] : host.gangs)
      if (gang.works()) whole[key].push_back(&gang);
  for (auto& [key, parts] : whole) {
    std::map<std::uint32_t, FakeGuest*> guests;
    for (auto* part : parts)
      for (auto& [index, guest] : part->guests) guests[index] = &guest;
    if (guests.size() != parts.front()->size) continue;
    auto& zero = guests.at(0)->state;
    if (script.last_step != 0 && zero.step >= script.last_step) continue;
    zero.step += 1;
    zero.output += fmt::format("step {}\n", zero.step);
    for (auto& [a, from] : guests)
      for (auto& [b, to] : guests)
        if (a != b) {
          from->state.acked[b] += 8;
          to->state.received[a] += 8;
        }
  }
}

std::string World::expected_output(std::uint64_t steps) const {
  std::string text;
  for (std::uint64_t i = 1; i <= steps; ++i) text += fmt::format("step {}\n", i);
  return text;
}

// No two incarnations of a job compute at the same time, wherever the coordinator can or cannot see them.
void World::check() {
  std::map<JobId, std::set<std::uint64_t>> computing;
  for (auto& [name, host] : hosts)
    for (auto& [key, gang] : host.gangs)
      if (gang.works() && (gang.launched || gang.restored_from != 0)) computing[key.first].insert(key.second);
  for (const auto& [id, incarnations] : computing)
    if (incarnations.size() > 1) broken_.push_back("two incarnations of " + id.value + " compute at the same time");
  for (const auto& [number, epoch] : durable.epochs)
    if (epoch.state == EpochState::committed)
      for (const auto& image : epoch.images)
        if (!store.images.contains(key_of(image.memory())) && !names(store.damaged, image.memory()))
          broken_.push_back("committed image " + image.memory().path() + " is gone");
}

void World::lose_output(const JobId& job) {
  output.erase(job);
  streams_.erase(job);
  kept_.clear();
}

std::set<Epoch> World::outputs_kept() const {
  std::set<Epoch> epochs;
  for (const auto& [epoch, stream] : kept_) epochs.insert(epoch);
  return epochs;
}

std::string World::broken() const { return broken_.empty() ? "" : broken_.front(); }

}  // namespace stillpoint::coordinator::testing
