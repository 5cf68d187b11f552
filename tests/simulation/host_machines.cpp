// The machines of a host, what their guests do, and the links to their agents.
#include <fmt/format.h>

#include "tests/simulation/cluster.h"
#include "tests/simulation/host_node.h"
#include "tests/simulation/names.h"

namespace stillpoint::simulation {
namespace {

constexpr Millis kTurn{400};     // a guest does its next step
constexpr Millis kGuestLink{2};  // one way; in order
constexpr Millis kResend{200};   // TCP between guests

}  // namespace

std::uint64_t HostNode::memory_taken() const {
  std::uint64_t sum = 0;
  for (const auto& [id, machine] : machines_) sum += machine.memory_bytes;
  return sum;
}

Machine* HostNode::machine(const node::DomainId& id) {
  const auto found = machines_.find(id);
  return found == machines_.end() ? nullptr : &found->second;
}

Machine& HostNode::make_machine(const node::GuestPlan& plan, Guest guest, Millis guest_clock) {
  Machine& made = machines_[plan.id];
  made = Machine{plan.id,
                 plan.vni,
                 plan.hardware.memory_bytes(),
                 std::move(guest),
                 false,
                 cluster_.agenda.now() - guest_clock,
                 false,
                 next_machine_++};
  cluster_.invariants.machine_made(*this, made);
  turn(plan.id, made.number);
  return made;
}

void HostNode::destroy_machine(const node::DomainId& id) { machines_.erase(id); }

void HostNode::lose_machine(const node::DomainId& id, const std::string& why) {
  if (machines_.erase(id) != 0) give(node::DomainEnded{id, why});
}

agent::Millis HostNode::guest_clock(const Machine& machine) const {
  return (cluster_.agenda.now() - machine.clock_base).count();
}

Guest::Surroundings HostNode::around(const Machine& machine) const {
  Guest::Surroundings around;
  around.clock = guest_clock(machine);
  around.skew = cluster_.wall_seconds() - around.clock / 1000;
  const auto left = cluster_.deferring.find(machine.id.job);
  around.deferring = left != cluster_.deferring.end() && left->second > 0;
  for (std::uint32_t other = 0; other < machine.guest.gang; ++other) {
    HostNode* where = nullptr;
    const Machine* const there = cluster_.machine({machine.id.job, machine.id.incarnation, {other}}, &where);
    if (there != nullptr && there->running && cluster_.joined(*this, *where)) around.seen.push_back(other);
  }
  return around;
}

// ---- the program

void HostNode::turn(const node::DomainId& id, std::uint64_t number) {
  cluster_.agenda.in(kTurn, [this, id, number] {
    Machine* const there = machine(id);
    if (there == nullptr || there->number != number) return;
    if (there->running && !suspended_) turn_machine(*there);
    turn(id, number);
  });
}

// True: the machine is off.
bool HostNode::watch_lease(Machine& machine) {
  Guest& guest = machine.guest;
  const bool stood_still = guest.lease.ended();
  const bool off = guest.lease_deadline(guest_clock(machine));
  if (!stood_still && guest.lease.ended()) {
    machine.lease_over = clock() >= told_lease_end() || !has_told_lease();
    cluster_.tell(name_.value, [&] { return fmt::format("{} stands still by itself", node::name_of(machine.id)); });
  }
  if (!off) return false;
  cluster_.tell(name_.value, [&] { return fmt::format("{} ends by itself", node::name_of(machine.id)); });
  cluster_.invariants.ends_by_itself(machine, machine.lease_over || clock() >= told_lease_end());
  lose_machine(node::DomainId(machine.id), "its agent heard nothing of the host's lease any more");
  return true;
}

void HostNode::turn_machine(Machine& machine) {
  if (watch_lease(machine)) return;
  Guest& guest = machine.guest;
  const bool frozen = guest.hold.frozen();
  if (guest.hold.held() && guest.hold_deadline(around(machine)) && frozen) freed(machine, true);
  if (guest.computes()) {
    const auto ends = cluster_.ending.find(machine.id.job);
    if (ends != cluster_.ending.end() && guest.guest == 0) {
      guest.end(ends->second);
      cluster_.invariants.program_ended(machine, ends->second);
      cluster_.printed[{machine.id.job, guest.incarnation}] = guest.lines;
    } else if (const auto to = guest.step()) {
      cluster_.agenda.in(dice_.between(1, 15), [this, id = machine.id, number = machine.number, to = *to] {
        if (const Machine* const from = this->machine(id); from != nullptr && from->number == number) deliver(id, to);
      });
    }
  }
  for (auto& message : guest.due(guest_clock(machine))) guest_says(machine, std::move(message));
}

// A message of one guest arrives at another one, as soon as it can.
void HostNode::deliver(const node::DomainId& from, std::uint32_t to) {
  HostNode* where = nullptr;
  Machine* const target = cluster_.machine({from.job, from.incarnation, {to}}, &where);
  Machine& source = machines_.at(from);
  if (target != nullptr && target->running && source.running && !where->suspended_ && !suspended_ &&
      cluster_.joined(*this, *where) && target->guest.gang == source.guest.gang) {
    ++target->guest.received[from.guest.value];
    ++source.guest.acked[to];
    return;
  }
  cluster_.agenda.in(kResend, [this, from, to, number = source.number] {
    if (const Machine* const still = machine(from); still != nullptr && still->number == number) deliver(from, to);
  });
}

void HostNode::freed(const Machine& machine, bool) {
  cluster_.tell(name_.value, [&] { return fmt::format("{} goes on by itself", node::name_of(machine.id)); });
  cluster_.invariants.let_go(machine, Epoch{});
}

// ---- links to agents

void HostNode::guest_says(const Machine& machine, wire::FromGuest message) {
  cluster_.agenda.in(kGuestLink,
                     [this, life = life_, id = machine.id, number = machine.number, message = std::move(message)] {
                       const Machine* const there = this->machine(id);
                       if (life == life_ && there != nullptr && there->number == number && there->linked)
                         give(node::GuestSaid{id, message});
                     });
}

void HostNode::perform(node::SendToGuest& e) {
  cluster_.agenda.in(kGuestLink, [this, life = life_, e] {
    Machine* const there = machine(e.id);
    if (life != life_ || there == nullptr || !there->linked || !there->running || suspended_) return;
    Guest& guest = there->guest;
    const bool was_frozen = guest.hold.frozen();
    auto reply = guest.take(e.request, around(*there));
    if (e.request.launch_outcome().has_failure()) cluster_.invariants.program_ended(*there, 1);
    if (e.request.has_close_gates()) {
      if (const auto left = cluster_.deferring.find(e.id.job); left != cluster_.deferring.end()) --left->second;
    }
    if (was_frozen && !guest.hold.frozen()) cluster_.invariants.let_go(*there, Epoch{e.request.epoch()});
    if (reply) guest_says(*there, std::move(*reply));
  });
}

void HostNode::perform(node::OpenLink& e) {
  cluster_.agenda.in(dice_.between(1, 10), [this, life = life_, id = e.id] {
    if (life != life_) return;
    Machine* const there = machine(id);
    if (there == nullptr || there->linked) return;
    there->linked = true;
    there->guest.link_opened();
    give(node::LinkOpened{id});
  });
}

void HostNode::perform(node::CloseLink& e) {
  if (Machine* const there = machine(e.id)) there->linked = false;
}

}  // namespace stillpoint::simulation
