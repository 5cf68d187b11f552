#include "node-daemon/core/invariants.h"

#include <algorithm>
#include <cassert>

namespace stillpoint::node {
namespace {

// The guest that an effect asks something of, other than its end.
const DomainId* asked_of(const Effect& effect) {
  return std::visit(
      [](const auto& e) -> const DomainId* {
        using E = std::decay_t<decltype(e)>;
        if constexpr (std::is_same_v<E, StartGuest> || std::is_same_v<E, RestoreGuest>) return &e.plan.id;
        else if constexpr (std::is_same_v<E, SendToGuest> || std::is_same_v<E, OpenLink> ||
                           std::is_same_v<E, ResumeGuest> || std::is_same_v<E, ContinueGuest> ||
                           std::is_same_v<E, PrepareCapture> || std::is_same_v<E, TakeInstant> ||
                           std::is_same_v<E, FlattenDisk>)
          return &e.id;
        else return nullptr;
      },
      effect);
}

}  // namespace

void Invariants::check_gang(const Gang& gang) {
  const std::string who = "gang " + to_string(gang.id);
  for (const auto& [key, operation] : gang.operations)
    for (const std::uint32_t guest : operation.waiting)
      expect(gang.guests.contains(guest), who + ": " + key + " waits for a guest that is not here");
  for (const auto& [request, waiting] : gang.outstanding)
    expect(waiting.operation.empty() || gang.operations.contains(waiting.operation),
           who + ": a guest is asked again for " + waiting.operation + ", which is over");
  expect(gang.durable_version <= gang.version, who + ": its record is durable before it is made");
}

void Invariants::check_captures(const Gang& gang) {
  unsigned under_way = 0;
  for (const auto& [epoch, capture] : gang.captures) {
    const std::string who = "epoch " + std::to_string(epoch.value) + " of gang " + to_string(gang.id);
    under_way += !capture.running.empty() && !capture.discarded;
    expect(capture.captured.empty() || capture.taken, who + ": captured before the instant was asked for");
    for (const std::uint32_t guest : capture.running)
      expect(gang.guests.contains(guest), who + ": a capture of a guest that is not here");
    if (capture.failure || capture.discarded) continue;
    for (const auto& [guest, image] : capture.images)
      expect(capture.captured.contains(guest), who + ": an image of a guest that was not captured");
    if (!capture.durable) continue;
    expect(capture.images.size() == gang.local().size(), who + ": durable without an image of each guest");
    expect(gang.durable_version >= capture.stored_version, who + ": durable before its record is");
  }
  expect(under_way <= 1, "gang " + to_string(gang.id) + ": two epochs are captured at once");
}

void Invariants::check_effects(const std::map<GangId, Gang>& gangs, const Effects& effects) {
  std::set<DomainId> destroyed;
  for (const Effect& effect : effects) {
    if (const auto* destroy = std::get_if<DestroyGuest>(&effect)) destroyed.insert(destroy->id);
    if (const DomainId* id = asked_of(effect))
      expect(!destroyed.contains(*id), name_of(*id) + ": something is asked of it after its end");
    const auto* said = std::get_if<SendToCoordinator>(&effect);
    if (said == nullptr || !said->message.has_images() || said->message.images().has_failure()) continue;
    const auto gang = gangs.find(gang_of(said->message.gang()));
    const bool durable = gang != gangs.end() && gang->second.captures.contains(Epoch{said->message.epoch()}) &&
                         gang->second.captures.at(Epoch{said->message.epoch()}).durable;
    expect(durable,
           "images of epoch " + std::to_string(said->message.epoch()) + " are reported before they are durable");
  }
}

void Invariants::check(const std::map<GangId, Gang>& gangs, const std::map<JobId, Incarnation>& destroyed,
                       const Effects& effects) {
  std::set<JobId> alive;
  for (const auto& [id, gang] : gangs) {
    const std::string who = "gang " + to_string(id);
    if (!gang.dying) expect(alive.insert(id.job).second, who + ": another incarnation of its job is here");
    const auto gone = destroyed.find(id.job);
    expect(gang.dying || gone == destroyed.end() || id.incarnation > gone->second, who + " is to be gone and is not");
    check_gang(gang);
    if (!gang.dying) check_captures(gang);
  }
  check_effects(gangs, effects);
  assert(broken_.empty());
}

}  // namespace stillpoint::node
