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
  const auto who = [&] { return "gang " + to_string(gang.id) + ": "; };
  for (const auto& [key, operation] : gang.operations)
    for (const std::uint32_t guest : operation.waiting)
      expect(gang.guests.contains(guest), [&] { return who() + key + " waits for a guest that is not here"; });
  for (const auto& [request, waiting] : gang.outstanding)
    expect(waiting.operation.empty() || gang.operations.contains(waiting.operation),
           [&] { return who() + "a guest is asked again for " + waiting.operation + ", which is over"; });
  expect(gang.durable_version <= gang.version, [&] { return who() + "its record is durable before it is made"; });
}

void Invariants::check_captures(const Gang& gang) {
  unsigned under_way = 0;
  for (const auto& entry : gang.captures) {
    const Capture& capture = entry.second;
    const auto says = [&](const char* what) {
      return [&, what] {
        return "epoch " + std::to_string(entry.first.value) + " of gang " + to_string(gang.id) + ": " + what;
      };
    };
    under_way += !capture.running.empty() && !capture.discarded;
    expect(capture.captured.empty() || capture.taken, says("captured before the instant was asked for"));
    for (const std::uint32_t guest : capture.running)
      expect(gang.guests.contains(guest), says("a capture of a guest that is not here"));
    if (capture.failure || capture.discarded) continue;
    for (const auto& [guest, image] : capture.images)
      expect(capture.captured.contains(guest), says("an image of a guest that was not captured"));
    if (!capture.durable) continue;
    expect(capture.images.size() == gang.guests.size(), says("durable without an image of each guest"));
    expect(gang.durable_version >= capture.stored_version, says("durable before its record is"));
  }
  expect(under_way <= 1, [&] { return "gang " + to_string(gang.id) + ": two epochs are captured at once"; });
}

void Invariants::check_effects(const std::map<GangId, Gang>& gangs, const Effects& effects) {
  std::set<DomainId> destroyed;
  for (const Effect& effect : effects) {
    if (const auto* destroy = std::get_if<DestroyGuest>(&effect)) destroyed.insert(destroy->id);
    if (const DomainId* id = asked_of(effect))
      expect(!destroyed.contains(*id), [&] { return name_of(*id) + ": something is asked of it after its end"; });
    const auto* said = std::get_if<SendToCoordinator>(&effect);
    if (said == nullptr || !said->message.has_images() || said->message.images().has_failure()) continue;
    const Epoch epoch{said->message.epoch()};
    const auto gang = gangs.find(gang_of(said->message.gang()));
    const bool durable =
        gang != gangs.end() && gang->second.captures.contains(epoch) && gang->second.captures.at(epoch).durable;
    expect(durable,
           [&] { return "images of epoch " + std::to_string(epoch.value) + " are reported before they are durable"; });
  }
}

void Invariants::check(const std::map<GangId, Gang>& gangs, const std::map<JobId, Incarnation>& destroyed,
                       const Effects& effects) {
  const JobId* alive = nullptr;  // gangs of a job stand side by side
  for (const auto& [id, gang] : gangs) {
    const auto says = [&gang = gang](const char* what) {
      return [&gang, what] { return "gang " + to_string(gang.id) + what; };
    };
    check_gang(gang);
    if (gang.dying) continue;
    expect(alive == nullptr || *alive != id.job, says(": another incarnation of its job is here"));
    alive = &id.job;
    const auto gone = destroyed.find(id.job);
    expect(gone == destroyed.end() || id.incarnation > gone->second, says(" is to be gone and is not"));
    check_captures(gang);
  }
  check_effects(gangs, effects);
  assert(broken_.empty());
}

}  // namespace stillpoint::node
