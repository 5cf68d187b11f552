#include "tests/simulation/names.h"

#include <fmt/format.h>

#include "coordinator/core/tests/names.h"
#include "node-daemon/core/relay.h"

namespace stillpoint::simulation {
namespace {

using namespace node;

template <class... Fs>
struct Cases : Fs... {
  using Fs::operator()...;
};
template <class... Fs>
Cases(Fs...) -> Cases<Fs...>;

std::string ended(const Status& status) { return status ? "" : ": " + status.error().message(); }

std::string said(const wire::FromGuest& m) {
  if (m.has_reply()) return m.reply().has_failure() ? "reply: " + m.reply().failure().cause() : "reply";
  if (m.has_hello()) return "hello";
  if (m.has_output()) return "output";
  if (m.has_exited()) return "exited";
  if (m.has_launch()) return "launch";
  if (m.has_rank_failed()) return "rank failed";
  return "?";
}

std::string asked(const wire::GuestRequest& r) {
  using R = wire::GuestRequest;
  switch (r.body_case()) {
    case R::kConfigure: return "configure";
    case R::kPutFile: return "put file";
    case R::kReadFile: return "read file";
    case R::kStartJob: return "start job";
    case R::kStartDaemon: return "start daemon";
    case R::kLaunchOutcome: return "launch outcome";
    case R::kExamineRanks: return "examine";
    case R::kCloseGates: return "close gates";
    case R::kCountRound: return "count";
    case R::kFreezeRanks: return "freeze";
    case R::kThawRanks: return "thaw";
    case R::kReleaseRanks: return "release";
    case R::kAdopt: return "adopt";
    case R::kCheckLinks: return "check links";
    case R::kQueryRanks: return "query";
    case R::kStopRanks: return "stop";
    case R::kOutputAck: return "output ack";
    case R::kReopenGates: return "reopen gates";
    case R::kHostLease: return "lease";
    case R::BODY_NOT_SET: break;
  }
  return "?";
}

}  // namespace

std::string describe(const Event& event) {
  return "> " +
         std::visit(
             Cases{[](const Connected&) { return std::string("connected"); },
                   [](const Disconnected&) { return std::string("disconnected"); },
                   [](const CoordinatorSaid& e) { return "told " + coordinator::testing::describe(e.message); },
                   [](const LinkOpened& e) { return "link open " + name_of(e.id); },
                   [](const GuestSaid& e) { return name_of(e.id) + " says " + said(e.message); },
                   [](const DomainEnded& e) { return "ended " + name_of(e.id); },
                   [](const DomainStopped& e) { return "stands still " + name_of(e.id); },
                   [](const GangPrepared& e) { return "prepared " + to_string(e.gang) + ended(e.status); },
                   [](const RecordStored& e) { return "record stored " + to_string(e.gang) + ended(e.status); },
                   [](const HostStored& e) { return "host stored" + ended(e.status); },
                   [](const GuestStarted& e) { return "started " + name_of(e.id) + ended(e.status); },
                   [](const GuestRestored& e) { return "restored " + name_of(e.id) + ended(e.status); },
                   [](const GuestResumed& e) { return "resumed " + name_of(e.id) + ended(e.status); },
                   [](const GuestContinued& e) { return "continued " + name_of(e.id); },
                   [](const GuestReady& e) { return fmt::format("ready {} e{}", name_of(e.id), e.epoch.value); },
                   [](const GuestCaptured& e) { return fmt::format("captured {} e{}", name_of(e.id), e.epoch.value); },
                   [](const GuestStored& e) {
                     return fmt::format("stored {} e{}{}", name_of(e.id), e.epoch.value,
                                        e.image ? "" : ": " + e.image.error().message());
                   },
                   [](const TapsRead&) { return std::string("taps read"); },
                   [](const DiskFlattened& e) { return "flattened " + name_of(e.id); },
                   [](const GuestDestroyed& e) { return "destroyed " + name_of(e.id); },
                   [](const GangRemoved& e) { return "removed " + to_string(e.gang); },
                   [](const ImagesDeleted&) { return std::string("images deleted"); },
                   [](const ImagesListed&) { return std::string("images listed"); },
                   [](const ImagesVerified&) { return std::string("images verified"); },
                   [](const ImagesCopied& e) {
                     return std::string("images copied") + (e.images ? "" : ": " + e.images.error().message());
                   },
                   [](const ImageTransferred&) { return std::string("image transferred"); },
                   [](const HostFigures&) { return std::string("figures"); },
                   [](const Tick&) { return std::string("tick"); }},
             event);
}

std::string describe(const Effect& effect) {
  return "  " +
         std::visit(Cases{[](const SendToCoordinator& e) { return "say " + coordinator::testing::describe(e.message); },
                          [](const DropCoordinator& e) { return "drop the coordinator: " + e.why; },
                          [](const SendToGuest& e) { return name_of(e.id) + ": " + asked(e.request); },
                          [](const OpenLink& e) { return "open link " + name_of(e.id); },
                          [](const CloseLink& e) { return "close link " + name_of(e.id); },
                          [](const PrepareGang&) { return std::string("prepare gang"); },
                          [](const StoreRecord&) { return std::string("store record"); },
                          [](const StoreHost&) { return std::string("store host"); },
                          [](const StoreLastWord&) { return std::string("store last word"); },
                          [](const StartGuest& e) { return "start " + name_of(e.plan.id); },
                          [](const RestoreGuest& e) { return "restore " + name_of(e.plan.id); },
                          [](const ResumeGuest& e) { return "resume " + name_of(e.id); },
                          [](const ContinueGuest& e) { return "continue " + name_of(e.id); },
                          [](const PrepareCapture& e) { return "prepare capture of " + name_of(e.id); },
                          [](const TakeInstant& e) { return "capture " + name_of(e.id); },
                          [](const CancelCapture& e) { return "cancel capture " + name_of(e.id); },
                          [](const WatchTaps&) { return std::string("watch taps"); },
                          [](const ReadTaps&) { return std::string("read taps"); },
                          [](const FlattenDisk& e) { return "flatten " + name_of(e.id); },
                          [](const DestroyGuest& e) { return "destroy " + name_of(e.id); },
                          [](const RemoveGang& e) { return "remove " + to_string(e.gang); },
                          [](const DeleteImages& e) {
                            std::string text = "delete images of " + e.job.value;
                            for (const auto epoch : e.epochs) text += fmt::format(" e{}", epoch.value);
                            return text + (e.all_hosts ? ", of all hosts" : "");
                          },
                          [](const ListImages&) { return std::string("list images"); },
                          [](const VerifyImages&) { return std::string("verify images"); },
                          [](const CopyImages& e) { return fmt::format("copy images of e{}", e.epoch.value); },
                          [](const TransferImage&) { return std::string("transfer image"); },
                          [](const CarryRecord& e) { return fmt::format("keep record of e{}", e.ask.epoch()); },
                          [](const Log& e) { return fmt::format("log {}: {}", e.what, e.detail); }},
                    effect);
}

}  // namespace stillpoint::simulation
