#include "tests/simulation/host_node.h"

#include <fmt/format.h>

#include "tests/simulation/cluster.h"
#include "tests/simulation/names.h"

namespace stillpoint::simulation {
namespace {

constexpr Millis kFiguresEvery{2'000};
constexpr Millis kTells{1'000};     // after its start it has told its guests of the lease, by its heartbeat
constexpr Millis kEnforces{1'000};  // after its start a daemon has ended what outlived the lease
constexpr Millis kIdle{8'000}, kIdleCheck{2'000};
constexpr Millis kFirstPause{100}, kLongestPause{3'000};
constexpr Millis kDialFails{2'000};

}  // namespace

HostNode::HostNode(Cluster& cluster, std::size_t index)
    : cluster_(cluster),
      index_(index),
      name_{fmt::format("h{}", index + 1)},
      dice_(cluster.plan.shape.seed, 2'000 + index) {}

// ---- the daemon's life

Time HostNode::clock() const { return Time(cluster_.agenda.now() - booted_); }

void HostNode::boot() {
  powered_ = true;
  booted_ = cluster_.agenda.now() - Millis(5'000);
  start_daemon();
}

void HostNode::start_daemon() {
  if (!powered_ || core_) return;
  node::HostSettings settings;
  settings.name = name_;
  settings.address = "192.0.2." + std::to_string(index_ + 1);
  settings.memory_bytes = kMemory;
  settings.cpus = 2;
  settings.pid = static_cast<std::uint32_t>(++starts_);
  settings.first_request = starts_ << 32;
  settings.store_is_own = cluster_.store.own();
  settings.store_id = cluster_.store.own() ? name_.value : "shared";
  if (cluster_.store.own()) settings.store_endpoint = settings.address + ":7444";
  settings.check_invariants = true;
  core_ = std::make_unique<node::Host>(std::move(settings));
  enforcing_since_ = cluster_.agenda.now();
  node::HostFindings found;
  found.host = host_record_;
  lease_ = Millis(host_record_.lease_ms());
  for (const auto& [id, record] : records_) found.gangs.push_back(record);
  for (const auto& [id, machine] : machines_) found.running.push_back(id);
  found.figures = figures();
  found.last_word = last_word_;
  cluster_.tell(name_.value, [] { return std::string("daemon starts"); });
  carry_out(core_->start(std::move(found), clock()));
  pause_to_dial_ = kFirstPause;
  dial();
  watch_figures(life_);
}

// What was under way is done or not.
void HostNode::end_daemon() {
  ++life_;
  if (core_ && !paused_) stood_still_ = cluster_.agenda.now();
  core_.reset();
  inbox_.clear();
  tick_at_.reset();
  for (auto& [key, works] : std::exchange(lines_, {}))
    if (dice_.roll(2) == 0) (void)works.front().effect();
  captures_.clear();
  for (auto& [id, machine] : machines_) machine.linked = false;
}

void HostNode::crash_daemon(Millis away) {
  if (!core_ || suspended_) return;
  end_daemon();
  paused_ = false;
  ++pause_;
  if (auto session = std::exchange(session_, nullptr)) {
    session->open[Network::down] = false;
    cluster_.network.finish(session, Network::up, [this, session] { cluster_.coordinator->session_ended(session); });
  }
  cluster_.agenda.in(away, [this, life = life_] {
    if (life == life_) start_daemon();
  });
}

void HostNode::lose_power(Millis away, bool with_disk) {
  if (!powered_) return;
  powered_ = suspended_ = paused_ = false;
  ++pause_;
  end_daemon();
  for (const auto& [id, machine] : machines_) cluster_.invariants.lost_a_part(machine);
  machines_.clear();
  last_word_.reset();
  words_.clear();
  if (session_) session_->open[Network::down] = false;  // and nobody says so to the coordinator
  session_.reset();
  if (with_disk) {
    records_.clear();
    host_record_ = {};
    cluster_.store.lose_disk(name_);
    cluster_.invariants.images_changed();
  }
  cluster_.agenda.in(away, [this, life = life_] {
    if (life == life_) boot();
  });
}

void HostNode::pause_daemon(Millis time, bool with_machines) {
  if (!core_ || paused_) return;
  paused_ = true;
  stood_still_ = cluster_.agenda.now();
  suspended_ = with_machines;
  cluster_.agenda.in(time, [this, pause = ++pause_] { unpause(pause); });
}

void HostNode::unpause(std::uint64_t pause) {
  if (pause != pause_ || !paused_) return;
  if (suspended_) woke_ = cluster_.agenda.now();
  paused_ = suspended_ = false;
  enforcing_since_ = cluster_.agenda.now();
  auto waiting = std::exchange(inbox_, {});
  if (dice_.roll(2) == 0) step(node::Tick{});
  for (auto& event : waiting) give(std::move(event));
  if (core_) give(node::Tick{});
}

bool HostNode::enforces_lease() const { return is_up() && cluster_.agenda.now() >= enforcing_since_ + kEnforces; }

// A daemon that ends, or stands still, at once after its start may have heard of a longer lease than it could tell.
bool HostNode::has_told_lease() const {
  return (core_ && !paused_ ? cluster_.agenda.now() : stood_still_) >= enforcing_since_ + kTells;
}

Time HostNode::lease_end() const { return last_word_.value_or(Time{}) + lease_; }

Time HostNode::told_lease_end() const {
  if (core_ && !paused_) return lease_end();
  auto earliest = Time::max();  // they know the last of the words that have had time to reach them, or a newer one
  for (auto word = words_.rbegin(); word != words_.rend(); ++word) {
    earliest = std::min(earliest, word->word + word->lease);
    if (word->stored + kTells <= stood_still_) return earliest;
  }
  return Time{};
}

void HostNode::perform(node::StoreLastWord& e) {
  last_word_ = e.last_word;
  const Time now = cluster_.agenda.now();
  words_.push_back({now, e.last_word, lease_});
  while (words_.size() > 1 && words_[1].stored + 2 * kTells < now) words_.pop_front();
}

bool HostNode::may_outlive_lease(const Machine& machine) const {
  if (enforces_lease()) return false;
  return machine.guest.old_agent || suspended_ || cluster_.agenda.now() < woke_ + kEnforces;
}

void HostNode::give(node::Event event) {
  if (!core_) return;
  if (paused_) inbox_.push_back(std::move(event));
  else step(std::move(event));
}

void HostNode::step(node::Event event) {
  ++cluster_.steps;
  cluster_.tell(name_.value, [&] { return describe(event); });
  auto effects = core_->step(std::move(event), clock());
  if (auto broken = core_->broken_invariants(); !broken.empty())
    cluster_.invariants.fail("host", name_.value + ": " + broken.front());
  carry_out(std::move(effects));
}

void HostNode::carry_out(node::Effects effects) {
  for (auto& effect : effects) {
    cluster_.tell(name_.value, [&] { return describe(effect); });
    std::visit([this](auto& e) { perform(e); }, effect);
  }
  watch_deadline();
}

void HostNode::watch_deadline() {
  const auto next = core_->next_deadline();
  if (!next || (tick_at_ && *tick_at_ <= *next)) return;
  tick_at_ = *next;
  cluster_.agenda.at(booted_ + next->time_since_epoch(), [this, life = life_, at = *next] {
    if (life != life_ || tick_at_ != at) return;
    tick_at_.reset();
    if (!paused_) step(node::Tick{});
  });
}

node::HostFigures HostNode::figures() const {
  node::HostFigures figures;
  figures.memory_free = kMemory - std::min(kMemory, memory_taken());
  figures.image_free = disk_full_ ? 0 : 100ull << 30;
  figures.store.set_reserve_bytes(1ull << 30);
  return figures;
}

void HostNode::watch_figures(std::uint64_t life) {
  cluster_.agenda.in(kFiguresEvery, [this, life] {
    if (life != life_) return;
    if (!paused_) step(figures());
    watch_figures(life);
  });
}

// ---- work

Millis HostNode::takes(std::uint64_t least, std::uint64_t most) {
  return dice_.between(least, most) * (disk_slow_ ? 20 : 1);
}

std::uint64_t HostNode::line(const Key& key, std::optional<Millis> time, Effect effect, std::function<void()> begun) {
  const auto token = next_token_++;
  auto& works = lines_[key];
  works.push_back({time, std::move(effect), std::move(begun), token});
  if (works.size() == 1) begin_work(key);
  return token;
}

void HostNode::begin_work(const Key& key) {
  const auto& work = lines_.at(key).front();
  if (work.time)
    cluster_.agenda.in(*work.time, [this, key, life = life_, token = work.token] {
      if (life == life_) finish_work(key, token);
    });
  if (const auto begun = work.begun) begun();
}

void HostNode::finish_work(const Key& key, std::uint64_t token) {
  const auto found = lines_.find(key);
  if (found == lines_.end() || found->second.front().token != token) return;  // ended early
  const auto effect = std::move(found->second.front().effect);
  found->second.pop_front();
  const bool more = !found->second.empty();
  if (!more) lines_.erase(found);
  auto event = effect();
  if (more) begin_work(key);
  give(std::move(event));
}

void HostNode::perform(node::SendToCoordinator& e) {
  if (!session_) return;
  auto session = session_;
  cluster_.network.transmit(session, Network::up, [this, session, message = e.message] {
    auto& coordinator = *cluster_.coordinator;
    if (message.has_hello()) return coordinator.session_named(session, message.hello());
    if (session->named) return coordinator.give(coordinator::HostSpoke{name_, session->id, message});
    coordinator.close(session);  // the first word of a session is its hello
  });
}

void HostNode::perform(node::PrepareGang& e) {
  const auto id = node::gang_of(e.record.gang());
  line({id.job, id.incarnation.value, -1}, takes(5, 40), [this, id, record = e.record]() -> node::Event {
    node::GangPrepared done{id, 1450, {}};
    if (disk_full_) done.status = Error{ErrorKind::storage_full, "write", "gang.record", "no space left on device"};
    else records_[id] = record;
    return done;
  });
}

void HostNode::perform(node::StoreRecord& e) {
  const auto id = node::gang_of(e.record.gang());
  line({id.job, id.incarnation.value, -1}, takes(1, 8), [this, id, e]() -> node::Event {
    node::RecordStored done{id, e.version, {}};
    if (disk_full_) done.status = Error{ErrorKind::storage_full, "write", "gang.record", "no space left on device"};
    else records_[id] = e.record;
    return done;
  });
}

void HostNode::perform(node::StoreHost& e) {
  lease_ = Millis(e.record.lease_ms());
  line({{}, 0, -2}, takes(1, 5), [this, record = e.record]() -> node::Event {
    node::HostStored done;
    if (disk_full_) done.status = Error{ErrorKind::storage_full, "write", "host.record", "no space left on device"};
    else host_record_ = record;
    return done;
  });
}

void HostNode::perform(node::StartGuest& e) {
  const auto& id = e.plan.id;
  line(key_of(id), takes(150, 500), [this, plan = e.plan]() -> node::Event {
    Guest guest;
    guest.old_agent = cluster_.plan.shape.old_agents;
    make_machine(plan, std::move(guest), Millis(0)).running = true;
    return node::GuestStarted{plan.id, {}};
  });
}

void HostNode::perform(node::RestoreGuest& e) {
  const auto& id = e.plan.id;
  line(key_of(id), takes(100, 600), [this, e]() -> node::Event { return node::GuestRestored{e.plan.id, restore(e)}; });
}

void HostNode::perform(node::ResumeGuest& e) {
  line(key_of(e.id), takes(5, 30), [this, id = e.id]() -> node::Event {
    Machine* const there = machine(id);
    if (there == nullptr)
      return node::GuestResumed{id, Error{ErrorKind::permanent, "resume", node::name_of(id), "it is not there"}};
    there->running = true;
    return node::GuestResumed{id, {}};
  });
}

void HostNode::perform(node::ContinueGuest& e) {
  line(key_of(e.id), takes(5, 30), [id = e.id]() -> node::Event { return node::GuestContinued{id, {}}; });
}

void HostNode::perform(node::ReadTaps& e) {
  cluster_.agenda.in(Millis(1), [this, life = life_, e] {
    if (life == life_) give(node::TapsRead{e.gang, e.epoch, 0, {}});
  });
}

void HostNode::perform(node::FlattenDisk& e) {
  line(key_of(e.id), takes(100, 2'000), [this, id = e.id]() -> node::Event {
    if (Machine* const there = machine(id)) there->layers = 2;
    return node::DiskFlattened{id, {}};
  });
}

// The machine ends at once, whatever is being done with it; its files go when it is their turn.
void HostNode::perform(node::DestroyGuest& e) {
  const Key key = key_of(e.id);
  const Machine* const there = machine(e.id);
  cluster_.agenda.in(dice_.between(5, 40), [this, life = life_, id = e.id, number = there ? there->number : 0] {
    if (const Machine* const now = machine(id); life == life_ && now && now->number == number) destroy_machine(id);
  });
  line(key, dice_.between(50, 120), [this, id = e.id]() -> node::Event {
    destroy_machine(id);
    return node::GuestDestroyed{id, {}};
  });
  if (const auto found = lines_.find(key); found != lines_.end() && found->second.size() > 1)
    cluster_.agenda.in(Millis(30), [this, life = life_, key, token = found->second.front().token] {
      if (life == life_) finish_work(key, token);  // a capture is not waited for
    });
}

void HostNode::perform(node::RemoveGang& e) {
  line({e.gang.job, e.gang.incarnation.value, -1}, dice_.between(10, 60), [this, id = e.gang]() -> node::Event {
    records_.erase(id);
    return node::GangRemoved{id, {}};
  });
}

// ---- the session

void HostNode::dial() {
  if (!core_) return;
  const auto again = [this](Millis pause) {
    cluster_.agenda.in(pause, [this, life = life_] {
      if (life == life_ && !session_) dial();
    });
  };
  if (paused_) return again(Millis(500));
  const bool answered = cluster_.network.is_reachable(index_) && cluster_.coordinator->is_up();
  if (!answered) return again(kDialFails);
  auto session = cluster_.network.open(index_);
  session_ = session;
  cluster_.agenda.in(dice_.between(4, 20), [this, life = life_, session] {
    if (life == life_ && session_ == session) connected(session);
  });
}

void HostNode::connected(Network::SessionPtr session) {
  pause_to_dial_ = kFirstPause;
  last_frame_ = cluster_.agenda.now();
  give(node::Connected{});
  cluster_.agenda.in(kIdleCheck, [this, life = life_, session] {
    if (life == life_ && session_ == session) watch_idle();
  });
}

void HostNode::watch_idle() {
  if (!paused_ && cluster_.agenda.now() >= last_frame_ + kIdle) return drop_session();
  cluster_.agenda.in(kIdleCheck, [this, life = life_, session = session_] {
    if (life == life_ && session_ == session) watch_idle();
  });
}

void HostNode::drop_session() {
  auto session = session_;
  if (!session) return;
  session->open[Network::down] = false;
  cluster_.network.finish(session, Network::up, [this, session] { cluster_.coordinator->session_ended(session); });
  session_ended();
}

void HostNode::hear(const wire::ToHost& message) {
  last_frame_ = cluster_.agenda.now();
  give(node::CoordinatorSaid{message});
}

void HostNode::session_closed(const Network::SessionPtr& session) {
  if (session_ == session) session_ended();
}

void HostNode::session_ended() {
  session_.reset();
  give(node::Disconnected{});
  cluster_.agenda.in(pause_to_dial_, [this, life = life_] {
    if (life == life_ && !session_) dial();
  });
  pause_to_dial_ = std::min(pause_to_dial_ * 2, kLongestPause);
}

}  // namespace stillpoint::simulation
